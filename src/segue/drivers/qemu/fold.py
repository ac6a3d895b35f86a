"""QEMU's words folded to ours; what is not in the tables is unknown, never a guess.

What comes in is JSON and nothing more is certain of it: any value may have any type. What goes out has the type that it says, and
can be shown, written down and calculated with. What may live here: tables and pure functions.
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

_MOST_SAID: Final = 400
"""Characters that are kept of what QEMU says. Its longest messages have about 200."""
_MOST: Final = (1 << 63) - 1
"""QAPI's numbers are 64 bits wide, and so is an integer in a database. What is more than that, or less than 0, was not said."""


def said(value: object) -> str:
    """Words of QEMU as they can be shown and written down: in one line, printable, not endless; empty for what are no words."""
    if not isinstance(value, str):
        return ""
    kept = "".join(one if one.isprintable() else " " for one in value[: _MOST_SAID + 1]).strip()
    return kept if len(value) <= _MOST_SAID else f"{kept[:_MOST_SAID]}…"


def status_of(migration: Mapping[str, object]) -> JobStatus:
    """The status in an answer of query-migrate; an empty answer is a QEMU that never migrated."""
    status = migration.get("status", "none")
    return STATUSES.get(status, JobStatus.UNKNOWN) if isinstance(status, str) else JobStatus.UNKNOWN


def runs(status: Mapping[str, object]) -> bool:
    """The guest executes, by an answer of query-status that says so in both of its ways."""
    return status.get("running") is True and status.get("status") == "running"


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
        if run_state == "paused" and job in (JobStatus.CANCELLED, JobStatus.FAILED):  # later, on its way from here
            return Sighting.PAUSED
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
    deltas = migration.get("xbzrle-cache")
    deltas = deltas if isinstance(deltas, dict) else {}

    def number(name: str, factor: int = 1) -> int:
        return _number(ram.get(name), factor) or 0

    page = number("page-size") or 4096
    return Progress(
        elapsed_ms=elapsed_ms,
        status=status_of(migration),
        raw_status=said(migration.get("status")),
        ram_total_bytes=number("total"),
        ram_remaining_bytes=number("remaining"),
        sent_bytes=number("transferred"),
        throughput_bps=number("mbps", 125_000),
        saved_bytes=max(0, (_number(deltas.get("pages"), page) or 0) - (_number(deltas.get("bytes")) or 0)),
        dirty_bps=number("dirty-pages-rate", page),
        iteration=number("dirty-sync-count"),
        expected_downtime_ms=_number(migration.get("expected-downtime")),
        downtime_ms=_number(migration.get("downtime")),
        throttle_percent=_number(migration.get("cpu-throttle-percentage")) or 0,
    )


def last_pass_bytes(migration: Mapping[str, object]) -> int | None:
    """Memory that was sent while the guest stood (MigrationStats, downtime-bytes, QEMU 7.0); ``None`` where it does not say."""
    ram = migration.get("ram")
    return _number(ram.get("downtime-bytes")) if isinstance(ram, dict) else None


def _number(value: object, factor: int = 1) -> int | None:
    """A number that can be one, times a factor; ``None`` for everything else (JSON's numbers here include NaN and Infinity)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST:
        return None
    return min(int(value * factor), _MOST)
