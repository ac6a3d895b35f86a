"""How a domain stands: its state, what works on it, and what libvirt keeps of it besides. What may live here: questions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import libvirt
from lxml import etree

from segue.core.model import GuestState
from segue.core.preflight.facts import Standing

T = TypeVar("T")

# virDomainJobOperation, in words; the others are named by their number.
_JOBS: Final = {
    libvirt.VIR_DOMAIN_JOB_OPERATION_START: "start",
    libvirt.VIR_DOMAIN_JOB_OPERATION_SAVE: "save",
    libvirt.VIR_DOMAIN_JOB_OPERATION_RESTORE: "restore",
    libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN: "incoming migration",
    libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT: "migration",
    libvirt.VIR_DOMAIN_JOB_OPERATION_SNAPSHOT: "snapshot",
    libvirt.VIR_DOMAIN_JOB_OPERATION_SNAPSHOT_REVERT: "revert to a snapshot",
    libvirt.VIR_DOMAIN_JOB_OPERATION_DUMP: "dump of its memory",
    libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP: "backup",
}
# virDomainDiskErrorCode
_DISK_ERRORS: Final = {
    libvirt.VIR_DOMAIN_DISK_ERROR_UNSPEC: "an I/O error",
    libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE: "no space left",
}


def look(domain: libvirt.virDomain, state: GuestState) -> Standing:
    """How it stands; runs in a thread of `runtime`.

    Args:
        domain: the domain.
        state: what it is doing, as `LibvirtHypervisor.guests` tells.
    """
    raw_state, reason = domain.state()
    stopped = raw_state == libvirt.VIR_DOMAIN_PAUSED and reason == libvirt.VIR_DOMAIN_PAUSED_IOERROR
    errors: dict[str, int] = (_or(domain.diskErrors, {}) if domain.isActive() else {}) or {}
    checkpoints = [one.getName() for one in _or(domain.listAllCheckpoints, list[libvirt.virDomainCheckpoint]())]
    return Standing(
        state=state,
        raw=f"libvirt state {raw_state}, reason {reason}",
        job=_job(domain) if domain.isActive() else "",
        snapshots=tuple(sorted(_or(domain.snapshotListNames, []))),
        checkpoints=tuple(sorted(checkpoints)),
        managed_save=bool(_or(domain.hasManagedSaveImage, 0)),
        autostart=bool(domain.autostart()) if domain.isPersistent() else False,
        io_errors=tuple(f"{disk} ({_DISK_ERRORS.get(code, f'error {code}')})" for disk, code in sorted(errors.items()))
        or (("a disk",) if stopped else ()),
    )


def _or(ask: Callable[[], T], otherwise: T) -> T:
    """What this driver does not know of at all (VIR_ERR_NO_SUPPORT) nobody can have; every other error is one."""
    try:
        return ask()
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT:
            return otherwise
        raise


def _job(domain: libvirt.virDomain) -> str:
    """The job that is under way, in words; that of a block job too, which libvirt refuses to migrate beside."""
    try:
        stats = domain.jobStats()
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_UNSUPPORTED:  # so it answers while the domain arrives
            return _JOBS[libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN]
        raise
    if stats.get("type") in (libvirt.VIR_DOMAIN_JOB_BOUNDED, libvirt.VIR_DOMAIN_JOB_UNBOUNDED):
        operation = stats.get("operation")
        return _JOBS.get(operation, f"operation {operation}")
    tree = etree.fromstring(domain.XMLDesc().encode())
    jobs = [
        f"block {mirror.get('job', 'copy')} of {target.get('dev')}"
        for disk in tree.findall("devices/disk")
        for mirror, target in zip(disk.findall("mirror"), disk.findall("target"), strict=False)
    ]
    return ", ".join(jobs)
