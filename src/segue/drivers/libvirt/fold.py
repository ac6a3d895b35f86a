"""libvirt's words folded to ours: domain states to sightings, job statistics to progress.

The tables hold what libvirt's documentation says (virDomainState and the reasons beside it) and what libvirt 9.0 was seen to show
on both hosts in each phase. What is not in them is unknown, never a guess. What may live here: tables and pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import libvirt

from segue.core.evidence import Sighting
from segue.core.model import GuestState, JobStatus, Progress

# A domain that is paused "by migration" is a source at its switchover, or a destination that receives; only the job tells which.
PAUSED: Final = {
    libvirt.VIR_DOMAIN_PAUSED_MIGRATION: Sighting.SWITCHOVER,
    libvirt.VIR_DOMAIN_PAUSED_STARTING_UP: Sighting.INCOMING,
    libvirt.VIR_DOMAIN_PAUSED_POSTCOPY: Sighting.POSTCOPY,
    libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED: Sighting.POSTCOPY_PAUSED,
    libvirt.VIR_DOMAIN_PAUSED_UNKNOWN: Sighting.UNKNOWN,
}
# The binding has the name since libvirt 8.5 (Ubuntu 22.04 has 8.0); a newer daemon may say it to an older client.
_RUNNING_POSTCOPY_FAILED: Final = 11
RUNNING: Final = {
    libvirt.VIR_DOMAIN_RUNNING_POSTCOPY: Sighting.POSTCOPY,
    _RUNNING_POSTCOPY_FAILED: Sighting.POSTCOPY_PAUSED,
}
# How a domain that is shut off came to that. Of the reasons that are not here, none says that its QEMU died.
SHUT_OFF: Final = {
    libvirt.VIR_DOMAIN_SHUTOFF_CRASHED: Sighting.CRASHED,
    libvirt.VIR_DOMAIN_SHUTOFF_FAILED: Sighting.CRASHED,
}
# VIR_DOMAIN_BLOCKED and _PMSUSPENDED hold a whole guest that may go on; _CRASHED holds none.
STATES: Final = {
    libvirt.VIR_DOMAIN_BLOCKED: Sighting.RUNNING,
    libvirt.VIR_DOMAIN_SHUTDOWN: Sighting.RUNNING,
    libvirt.VIR_DOMAIN_PMSUSPENDED: Sighting.PAUSED,
    libvirt.VIR_DOMAIN_CRASHED: Sighting.CRASHED,
}


def is_either_side(state: int, reason: int) -> bool:
    """Whether a domain in that state is the source or the destination of a migration, which only its job tells."""
    return (state, reason) == (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION)


def sighting(state: int, reason: int, *, incoming: bool) -> Sighting:
    """What a domain's state and reason show.

    Args:
        state: virDomainState.
        reason: the reason that goes with that state.
        incoming: the domain's job is an incoming migration.
    """
    if state == libvirt.VIR_DOMAIN_RUNNING:
        return RUNNING.get(reason, Sighting.RUNNING)
    if state == libvirt.VIR_DOMAIN_PAUSED:
        seen = PAUSED.get(reason, Sighting.PAUSED)
        return Sighting.INCOMING if incoming and seen is Sighting.SWITCHOVER else seen
    if state == libvirt.VIR_DOMAIN_SHUTOFF:
        return SHUT_OFF.get(reason, Sighting.DEFINED)
    return STATES.get(state, Sighting.UNKNOWN)


GUEST_STATES: Final = {
    Sighting.RUNNING: GuestState.RUNNING,
    Sighting.PAUSED: GuestState.PAUSED,
    Sighting.DEFINED: GuestState.SHUT_OFF,
    Sighting.CRASHED: GuestState.SHUT_OFF,
    Sighting.INCOMING: GuestState.MIGRATING_IN,
    Sighting.SWITCHOVER: GuestState.PAUSED,
    Sighting.POSTCOPY: GuestState.MIGRATING_OUT,
    Sighting.POSTCOPY_PAUSED: GuestState.MIGRATING_OUT,
}


def progress(stats: Mapping[str, object], *, elapsed_ms: int, status: JobStatus) -> Progress:
    """One sample from virDomainGetJobStats (typed parameters VIR_DOMAIN_JOB_*; the dirty rate there is in pages a second).

    Args:
        stats: the typed parameters; an empty job has a type only.
        elapsed_ms: since the attempt began.
        status: what the caller knows of the job.
    """

    def number(name: str) -> int:
        value = stats.get(name, 0)
        return value if isinstance(value, int) else 0

    ended = status is JobStatus.COMPLETED
    page = number("memory_page_size") or 4096
    downtime = number("downtime") if "downtime" in stats else None
    return Progress(
        elapsed_ms=elapsed_ms,
        status=status,
        raw_status=f"job type {stats.get('type')}",
        ram_total_bytes=number("memory_total"),
        ram_remaining_bytes=number("memory_remaining"),
        sent_bytes=number("memory_processed"),
        throughput_bps=number("memory_bps"),
        saved_bytes=max(0, number("compression_pages") * page - number("compression_bytes")),
        dirty_bps=number("memory_dirty_rate") * page,
        iteration=number("memory_iteration"),
        expected_downtime_ms=None if ended else downtime,
        downtime_ms=downtime if ended else None,
        throttle_percent=number("auto_converge_throttle"),
        disk_total_bytes=number("disk_total"),
        disk_copied_bytes=number("disk_processed"),
    )


def status_of(stats: Mapping[str, object], state: int, reason: int) -> JobStatus:
    """What a migration that is under way is doing, from its job and the source domain's state."""
    if state == libvirt.VIR_DOMAIN_PAUSED and reason == libvirt.VIR_DOMAIN_PAUSED_POSTCOPY:
        return JobStatus.POSTCOPY
    if state == libvirt.VIR_DOMAIN_PAUSED and reason == libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED:
        return JobStatus.POSTCOPY_PAUSED
    if state == libvirt.VIR_DOMAIN_PAUSED and reason == libvirt.VIR_DOMAIN_PAUSED_MIGRATION:
        return JobStatus.SWITCHOVER
    active = stats.get("type") in (libvirt.VIR_DOMAIN_JOB_BOUNDED, libvirt.VIR_DOMAIN_JOB_UNBOUNDED)
    return JobStatus.ACTIVE if active and stats.get("memory_total") else JobStatus.SETUP
