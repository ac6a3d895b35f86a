"""QEMU's words folded to ours; what is not in the tables is unknown, never a guess.

What may live here: tables and pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from segue.core.evidence import QEMU_RUN_STATES, Sighting
from segue.core.model import GuestState, JobStatus, Progress

# qapi/migration.json, MigrationStatus, QEMU 10.0. The list grows with each release.
STATUSES: Final = {
    "none": JobStatus.NONE,
    "setup": JobStatus.SETUP,
    "wait-unplug": JobStatus.SETUP,
    "active": JobStatus.ACTIVE,
    "pre-switchover": JobStatus.SWITCHOVER,
    "device": JobStatus.SWITCHOVER,
    "postcopy-active": JobStatus.POSTCOPY,
    "postcopy-paused": JobStatus.POSTCOPY_PAUSED,
    "postcopy-recover-setup": JobStatus.POSTCOPY_PAUSED,
    "postcopy-recover": JobStatus.POSTCOPY_PAUSED,
    "cancelling": JobStatus.CANCELLING,
    "cancelled": JobStatus.CANCELLED,
    "completed": JobStatus.COMPLETED,
    "failed": JobStatus.FAILED,
}

GUEST_STATES: Final = {
    Sighting.RUNNING: GuestState.RUNNING,
    Sighting.PAUSED: GuestState.PAUSED,
    Sighting.DEFINED: GuestState.SHUT_OFF,
    Sighting.INCOMING: GuestState.MIGRATING_IN,
    Sighting.SWITCHOVER: GuestState.PAUSED,
    Sighting.POSTMIGRATE: GuestState.PAUSED,
    Sighting.POSTCOPY: GuestState.MIGRATING_OUT,
    Sighting.POSTCOPY_PAUSED: GuestState.MIGRATING_OUT,
}

_UNDER_WAY: Final = frozenset({JobStatus.SETUP, JobStatus.ACTIVE, JobStatus.SWITCHOVER, JobStatus.CANCELLING})


def status_of(migration: Mapping[str, object]) -> JobStatus:
    """The status in an answer of query-migrate; an empty answer is a QEMU that never migrated."""
    return STATUSES.get(str(migration.get("status", "none")), JobStatus.UNKNOWN)


def sighting(run_state: str, migration: Mapping[str, object], *, arrived_here: bool) -> Sighting:
    """What a QEMU shows.

    Args:
        run_state: RunState of query-status.
        migration: the answer of query-migrate.
        arrived_here: it was started to receive the guest (``-incoming``).
    """
    seen = QEMU_RUN_STATES.get(run_state, Sighting.UNKNOWN)
    job = status_of(migration)
    if job is JobStatus.POSTCOPY and seen is not Sighting.UNKNOWN:
        return Sighting.POSTCOPY
    if job is JobStatus.POSTCOPY_PAUSED:
        return Sighting.POSTCOPY_PAUSED
    if seen is Sighting.PAUSED and arrived_here and run_state in ("paused", "prelaunch"):
        # With -S the guest stands in "prelaunch" before it listens and in "paused" once all has arrived.
        return Sighting.SWITCHOVER if job is JobStatus.COMPLETED else Sighting.INCOMING
    if seen is Sighting.PAUSED and job in (JobStatus.ACTIVE, JobStatus.SWITCHOVER):
        return Sighting.SWITCHOVER
    return seen


def guest_state(seen: Sighting, migration: Mapping[str, object]) -> GuestState:
    """The same for people: a guest that runs while it is being sent is on its way."""
    if seen is Sighting.RUNNING and status_of(migration) in _UNDER_WAY:
        return GuestState.MIGRATING_OUT
    return GUEST_STATES.get(seen, GuestState.UNKNOWN)


def progress(migration: Mapping[str, object], *, elapsed_ms: int) -> Progress:
    """One sample from query-migrate (qapi/migration.json, MigrationInfo; ``mbps`` is in megabits, the dirty rate in pages)."""
    ram = migration.get("ram")
    ram = ram if isinstance(ram, dict) else {}

    def number(source: Mapping[str, object], name: str) -> int:
        value = source.get(name, 0)
        return int(value) if isinstance(value, int | float) else 0

    def maybe(name: str) -> int | None:
        return number(migration, name) if name in migration else None

    return Progress(
        elapsed_ms=elapsed_ms,
        status=status_of(migration),
        raw_status=str(migration.get("status", "")),
        ram_total_bytes=number(ram, "total"),
        ram_remaining_bytes=number(ram, "remaining"),
        sent_bytes=number(ram, "transferred"),
        throughput_bps=number(ram, "mbps") * 125_000,
        dirty_bps=number(ram, "dirty-pages-rate") * (number(ram, "page-size") or 4096),
        iteration=number(ram, "dirty-sync-count"),
        expected_downtime_ms=maybe("expected-downtime"),
        downtime_ms=maybe("downtime"),
        throttle_percent=number(migration, "cpu-throttle-percentage"),
    )
