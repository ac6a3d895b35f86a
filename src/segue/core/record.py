"""What is written down of a migration, so that anyone can take it up again and say afterwards what happened.

A migration is led by one process at a time, which holds its lease; each new holder has a higher epoch, and what is written
under an older one is refused. Before each action on a hypervisor the leader writes that it will act (an intent), afterwards how
it ended. Others steer it by what they wish, which the leader reads.

What may live here: frozen values. Times are wall-clock milliseconds since 1970 (``*_at_ms``), because processes that do not share
a monotonic clock compare them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TypeVar

from segue.core.model import HostAddress, Limits, MigrationSpec, OnMiss, Outcome, Progress
from segue.core.phases import State

T = TypeVar("T")


class Action(StrEnum):
    """Everything that a driver may do to a hypervisor. One word each, the same for all drivers that do it."""

    SET_UP_SOURCE = "set-up-source"
    """Limits and capabilities on the source's QEMU."""
    PACK = "pack"
    """What libvirt leaves behind (autostart, snapshots, checkpoints) is put into the definition that travels."""
    UNPACK = "unpack"
    """And taken out of it where the guest is in the end."""
    LAUNCH_DESTINATION = "launch-destination"
    LISTEN = "listen"
    """The destination waits for data."""
    START = "start"
    """Memory begins to flow. With libvirt: the migrate call, in which its daemons do all that follows."""
    START_POSTCOPY = "start-post-copy"
    RECOVER_POSTCOPY = "recover-post-copy"
    TUNE = "tune"
    CANCEL = "cancel"
    RESUME_DESTINATION = "resume-destination"
    """From this intent on the destination may have run the guest, whatever came of it; one that was stopped is left there."""
    ANNOUNCE = "announce"
    END_SOURCE = "end-source"
    DEFINE_DESTINATION = "define-destination"
    UNDEFINE_SOURCE = "undefine-source"
    END_DESTINATION = "end-destination"
    RESUME_SOURCE = "resume-source"
    CLOSE_CHANNEL = "close-channel"
    """Credentials and sockets that were made for this migration are removed."""
    CREATE_DISK = "create-disk"
    """An empty file for a disk that is copied, on the destination."""
    EXPORT_DISKS = "export-disks"
    MIRROR_DISKS = "mirror-disks"
    HAND_DISKS_OVER = "hand-disks-over"
    """The guest stands: the mirrors are drained and ended, the exports closed, and the source goes on to hand the guest over."""
    END_MIRRORS = "end-mirrors"
    REMOVE_DISKS = "remove-disks"
    KEEP_DISKS = "keep-disks"
    MEND = "mend"
    """What preflight found in the way is mended, because somebody asked for it; with what it takes to undo that."""
    UNDO_MEND = "undo-mend"


class Step(StrEnum):
    """How far an action has come."""

    INTENT = "intent"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the journal.

    Attributes:
        epoch: of the leader that wrote it.
        detail: for people: on which host, with what, or why it failed.
    """

    at_ms: int
    epoch: int
    action: Action
    step: Step
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A state was entered."""

    at_ms: int
    epoch: int
    state: State


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something to be told later: a decision and its reason, what was seen on recovery, an error on the way."""

    at_ms: int
    epoch: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A look at the job."""

    at_ms: int
    progress: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What others want of a migration. ``None`` and false: nothing was asked.

    Attributes:
        revision: how often anything was asked; what was asked last has the highest.
    """

    cancel: bool = False
    bandwidth_bps: int | None = None
    max_downtime_ms: int | None = None
    postcopy_now: bool = False
    within_ms: int | None = None
    max_bytes: int | None = None
    max_slowdown_percent: int | None = None
    on_miss: OnMiss | None = None
    revision: int = 0

    def applied(self, limits: Limits) -> Limits:
        """The limits with what was asked for in their place."""
        return replace(
            limits,
            max_downtime_ms=_first(self.max_downtime_ms, limits.max_downtime_ms),
            bandwidth_bps=_first(self.bandwidth_bps, limits.bandwidth_bps),
            within_ms=_first(self.within_ms, limits.within_ms),
            max_bytes=_first(self.max_bytes, limits.max_bytes),
            max_slowdown_percent=_first(self.max_slowdown_percent, limits.max_slowdown_percent),
            on_miss=_first(self.on_miss, limits.on_miss),
        )


def _first(asked: T | None, so_far: T) -> T:
    return so_far if asked is None else asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is in force, read back from the hypervisor. ``None``: it does not say.

    Attributes:
        revision: of the wishes that it answers; 0: those of the beginning.
        within_ms, max_bytes, max_slowdown_percent, on_miss: what Segue itself keeps to; no hypervisor knows of them.
        error: why a wish could not be carried out; empty when all were.
    """

    revision: int = 0
    bandwidth_bps: int | None = None
    max_downtime_ms: int | None = None
    postcopy: bool = False
    within_ms: int | None = None
    max_bytes: int | None = None
    max_slowdown_percent: int | None = None
    on_miss: OnMiss = OnMiss.ABORT
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The end.

    Attributes:
        settled: nothing of it is left to be done or undone on either host.
    """

    at_ms: int
    outcome: Outcome
    settled: bool


Change = Entry | Transition | Note | Sample | Settings | Ended
"""What a leader writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A process that leads a migration, so named that it can be found, and never mistaken for a later one.

    Attributes:
        machine: the boot id of its machine and its PID namespace.
        pid: there.
        started: clock ticks after boot (proc(5), field 22 of stat): a pid alone is used again.
        name: for people.
    """

    machine: str
    pid: int
    started: int
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to act on a migration.

    Attributes:
        migration: its id.
        epoch: rises by one with each new holder.
        until_ms: by the store's clock; then anybody may take it.
    """

    migration: str
    holder: Holder
    epoch: int
    until_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One migration as it is written down.

    Attributes:
        spec: what was asked for.
        source, destination: how to reach both hosts.
        created_at_ms: when it was asked for.
        state: the last one entered.
        phase: how far on the way through it ever got.
        told_to_run: there is an intent to let the destination run.
        wishes: what others want of it.
        settings: what is in force; ``None`` before anything was.
        outcome: the end, once it has come.
        settled: nothing is left to be done or undone; false until the end.
        lease: who leads it, or led it last; ``None`` when nobody ever did.
        led: that lease is still valid.
    """

    spec: MigrationSpec
    source: HostAddress
    destination: HostAddress
    created_at_ms: int
    state: State = State.BEGIN
    phase: State = State.BEGIN
    told_to_run: bool = False
    wishes: Wishes = field(default_factory=Wishes)
    settings: Settings | None = None
    outcome: Outcome | None = None
    settled: bool = False
    lease: Lease | None = None
    led: bool = False

    @property
    def id(self) -> str:
        """Never used twice."""
        return self.spec.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """All that was written of one migration, each list in order of time."""

    transitions: tuple[Transition, ...]
    entries: tuple[Entry, ...]
    notes: tuple[Note, ...]
