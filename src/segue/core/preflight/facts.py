"""What is known before a migration: frozen facts of the guest, of both hosts and of the path between them.

Whoever gathers them puts `Unseen` where there is no answer, and a rule makes "could not check" of it. What may live here: nouns.
"""

from __future__ import annotations

from dataclasses import dataclass

from segue.core.evidence import Evidence
from segue.core.model import Guest, GuestState, HostFacts, MigrationSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Unseen:
    """A fact that could not be learnt.

    Attributes:
        host: where it was looked for.
        why: one clause.
    """

    host: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How the guest stands on the source, as its hypervisor tells.

    Attributes:
        state: what it is doing.
        raw: the hypervisor's own words for that.
        job: a job that is under way, in words; empty without one.
        snapshots, checkpoints: their names.
        managed_save: a saved state of it is kept, which a later start would resume.
        autostart: it starts with its host.
        io_errors: the disks at whose errors it was stopped, or that show errors.
    """

    state: GuestState
    raw: str = ""
    job: str = ""
    snapshots: tuple[str, ...] = ()
    checkpoints: tuple[str, ...] = ()
    managed_save: bool = False
    autostart: bool = False
    io_errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two hosts.

    Attributes:
        hypervisor: what it is.
        sighting: what it shows of the guest; ``None`` for the source, where the guest was found.
    """

    hypervisor: HostFacts
    sighting: Evidence | None = None

    @property
    def host(self) -> str:
        """Its name."""
        return self.hypervisor.host


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that rules may look at.

    Attributes:
        spec: what was asked for.
        guest: as it was found on the source.
        source, destination: the hosts.
        standing: how the guest stands.
    """

    spec: MigrationSpec
    guest: Guest
    source: Side
    destination: Side
    standing: Standing | Unseen
