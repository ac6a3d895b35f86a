"""What was seen of one guest, on which host, and when.

A sighting is a fact about one host; who owns the guest is decided from two of them (`ownership`). What may live here: the closed
list of sightings, the evidence record, and the tables that fold a hypervisor's own words into a sighting. No I/O.

Words of tomorrow fold to ``UNKNOWN``: a status that nobody has seen yet must never be read as "absent" or "running".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Sighting(StrEnum):
    """What one host shows of one guest. Exactly one of them is true at a time."""

    ABSENT = "absent"
    """The host answered, and it has neither the guest nor its definition."""
    DEFINED = "defined"
    """A definition, and nothing that could run."""
    CRASHED = "crashed"
    """The same, and the host says that the guest's process died: it neither left nor was shut down."""
    INCOMING = "paused-incoming"
    """A destination that waits for, or receives, the guest; it has never run."""
    RUNNING = "running"
    """Its CPUs execute."""
    PAUSED = "paused"
    """Stopped by somebody (an operator, an I/O error), not by a migration."""
    SWITCHOVER = "paused-by-switchover"
    """Source: stopped by the migration to send the last pass. Destination: all received, not yet resumed."""
    POSTMIGRATE = "postmigrate"
    """Source: everything was handed over; it must not run again unless the destination provably never ran."""
    POSTCOPY = "postcopy-active"
    """Post-copy runs: the destination executes, the source still holds pages."""
    POSTCOPY_PAUSED = "postcopy-paused"
    """Post-copy lost its connection: neither side alone is whole."""
    UNREACHABLE = "unreachable"
    """The host did not answer; it may be doing anything."""
    UNKNOWN = "unknown"
    """The host answered in words that Segue does not know."""

    @property
    def is_proof(self) -> bool:
        """The host answered, in words we understand."""
        return self not in (Sighting.UNREACHABLE, Sighting.UNKNOWN)

    @property
    def is_idle(self) -> bool:
        """The guest certainly executes nothing there, and nothing there is needed by another host."""
        return self in (Sighting.ABSENT, Sighting.DEFINED, Sighting.CRASHED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One sighting.

    Attributes:
        host: the name of the host that was asked.
        sighting: what it showed.
        seen_at_ms: when the answer came, on the monotonic clock of the process that asked.
        raw: the host's own words, for people and logs.
    """

    host: str
    sighting: Sighting
    seen_at_ms: int
    raw: str = ""


# QEMU's RunState (qapi/run-state.json). "inmigrate" is a destination that listens or receives; with -S it ends in "paused" or
# "prelaunch" once everything has arrived, which the driver tells apart by the state of the incoming migration.
QEMU_RUN_STATES: Final = {
    "running": Sighting.RUNNING,
    "inmigrate": Sighting.INCOMING,
    "postmigrate": Sighting.POSTMIGRATE,
    "finish-migrate": Sighting.SWITCHOVER,
    "paused": Sighting.PAUSED,
    "prelaunch": Sighting.PAUSED,
    "io-error": Sighting.PAUSED,
    "watchdog": Sighting.PAUSED,
    "guest-panicked": Sighting.PAUSED,
    "internal-error": Sighting.PAUSED,
    "suspended": Sighting.PAUSED,
    "debug": Sighting.PAUSED,
    "save-vm": Sighting.PAUSED,
    "restore-vm": Sighting.PAUSED,
    "shutdown": Sighting.DEFINED,
}
