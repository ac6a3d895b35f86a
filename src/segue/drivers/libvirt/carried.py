"""What belongs to a guest and libvirt leaves behind: autostart, snapshots and checkpoints, put into its definition and out again.

libvirt refuses to move a domain that has snapshots or checkpoints ("cannot migrate domain with … snapshots",
qemuMigrationSrcIsAllowed), and forgets that it starts with its host. So what describes them is put into the metadata of the
domain's own definition first, which travels with it, and is taken out where the guest is in the end. It is there for whoever
takes the migration up, on either host, also when the process that led it is gone. What a snapshot holds lies in the disks.

What may live here: functions of one domain, for the threads of `runtime`.
"""

from __future__ import annotations

import contextlib

import libvirt

from segue.core import domxml
from segue.core.domxml import CARRIED_KEY, CARRIED_URI, Carried


def find(domain: libvirt.virDomain) -> Carried:
    """What the domain has of it."""
    snapshots = domain.listAllSnapshots(libvirt.VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL)
    checkpoints = domain.listAllCheckpoints(libvirt.VIR_DOMAIN_CHECKPOINT_LIST_TOPOLOGICAL)
    secure = libvirt.VIR_DOMAIN_SNAPSHOT_XML_SECURE
    return Carried(
        autostart=bool(domain.isPersistent() and domain.autostart()),
        snapshots=tuple(one.getXMLDesc(secure) for one in snapshots),
        current=next((one.getName() for one in snapshots if one.isCurrent()), ""),
        checkpoints=tuple(one.getXMLDesc(libvirt.VIR_DOMAIN_CHECKPOINT_XML_SECURE) for one in checkpoints),
    )


def pack(domain: libvirt.virDomain, carried: Carried) -> None:
    """Put it into the definition, then let libvirt forget it. May be repeated: what is packed already is kept."""
    if _packed(domain) is None:
        _set(domain, domxml.packed(carried))
    for one in reversed(domain.listAllSnapshots(libvirt.VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL)):
        one.delete(libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)
    for one in reversed(domain.listAllCheckpoints(libvirt.VIR_DOMAIN_CHECKPOINT_LIST_TOPOLOGICAL)):
        one.delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)


def is_packed(domain: libvirt.virDomain) -> bool:
    """Whether the definition carries anything."""
    return _packed(domain) is not None


def unpack(domain: libvirt.virDomain) -> None:
    """Give it back to libvirt, then take it out of the definition. May be repeated."""
    if (text := _packed(domain)) is None:
        return
    carried = domxml.unpacked(text)
    if carried.autostart and domain.isPersistent():
        domain.setAutostart(1)
    known = {one.getName() for one in domain.listAllSnapshots()}
    for xml in carried.snapshots:
        name = domxml.name_of(xml)
        if name not in known:
            current = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_CURRENT if name == carried.current else 0
            domain.snapshotCreateXML(xml, libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE | current)
    known = {one.getName() for one in domain.listAllCheckpoints()}
    for xml in carried.checkpoints:
        if domxml.name_of(xml) not in known:
            domain.checkpointCreateXML(xml, libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE)
    _set(domain, None)


def _packed(domain: libvirt.virDomain) -> str | None:
    try:
        return domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, CARRIED_URI)  # type: ignore[no-any-return]  # libvirt has no types
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_METADATA:
            return None
        raise


def _set(domain: libvirt.virDomain, element: str | None) -> None:
    """In the running definition and in the kept one, as far as there are such."""
    affected = {
        libvirt.VIR_DOMAIN_AFFECT_LIVE: bool(domain.isActive()),
        libvirt.VIR_DOMAIN_AFFECT_CONFIG: bool(domain.isPersistent()),
    }
    for flag, there in affected.items():
        if there:
            with contextlib.suppress(libvirt.libvirtError) if element is None else contextlib.nullcontext():
                domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, element, CARRIED_KEY, CARRIED_URI, flag)
