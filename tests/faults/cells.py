"""Which deaths are rehearsed at which moments: the rows and columns of the matrix.

What may live here: the cells, as values. How one is played is in `play`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import product

from segue.core.record import Action
from segue.engine.failpoints import ACTION_MOMENTS


class Path(StrEnum):
    """A driver and its control path."""

    QEMU = "qemu direct"
    DIRECT = "libvirt direct"
    P2P = "libvirt p2p"

    @property
    def kind(self) -> str:
        return self.split()[0]

    @property
    def control(self) -> str:
        return self.split()[1]


class Fault(StrEnum):
    """What dies, or stands still."""

    KILL_SEGUE = "kill -9 segue"
    KILL_SOURCE = "kill -9 source QEMU"
    KILL_DESTINATION = "kill -9 destination QEMU"
    LIBVIRTD_SOURCE = "kill -9 source libvirtd, restart"
    LIBVIRTD_DESTINATION = "kill -9 destination libvirtd, restart"
    CUT_2 = "link cut, healed after 2 s"
    CUT_20 = "link cut, healed after 20 s"
    CUT_FOR_GOOD = "link cut for good"
    STOP_SEGUE = "SIGSTOP segue, takeover"
    FULL_DISK = "state disk full"


class Moment(StrEnum):
    """Where in its life the migration is when it happens."""

    BEGIN = "begin"
    PREPARE = "prepare"
    PERFORM = "perform"
    SWITCHOVER = "switchover"
    FINISH = "finish"
    CONFIRM = "confirm"
    POSTCOPY = "post-copy"


# Moments at which Segue itself can be held, by failpoint; the others are seen in its samples. With libvirt the switchover and all
# of finish are inside one call.
HELD: dict[Path, dict[Moment, str]] = {
    Path.QEMU: {
        Moment.BEGIN: "prepare.entered",
        Moment.PREPARE: "listen.intended",
        Moment.SWITCHOVER: "finish.entered",
        Moment.FINISH: "resume-destination.intended",
        Moment.CONFIRM: "end-source.intended",
    },
    Path.DIRECT: {Moment.BEGIN: "prepare.entered", Moment.PREPARE: "start.intended", Moment.CONFIRM: "confirm.entered"},
    Path.P2P: {Moment.BEGIN: "prepare.entered", Moment.PREPARE: "start.intended", Moment.CONFIRM: "confirm.entered"},
}


BEGUN_PERCENT = 25

# When post-copy has begun on the source, and the destination's daemon is started again before it has heard that the guest runs
# there, libvirt (9.0, qemuProcessRecoverMigrationIn) ends what has arrived.
ENDED_BY_LIBVIRT = ((Path.DIRECT, Fault.LIBVIRTD_DESTINATION), (Path.P2P, Fault.LIBVIRTD_DESTINATION))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One rehearsal.

    Attributes:
        failpoint: kill Segue exactly there; then `moment` does not matter.
        turning_back: the migration is cancelled first, so that the way back is rehearsed.
        after_percent: strike there in a move's life, wherever this one is then: `BEGUN_PERCENT` is its first sample, what is
            before and after it are parts of the time that this takes here.
    """

    path: Path
    fault: Fault
    moment: Moment | None = None
    failpoint: str = ""
    turning_back: bool = False
    after_percent: int | None = None

    def __str__(self) -> str:
        where = self.failpoint or self.moment or f"{self.after_percent} %"
        return f"{self.path}: {self.fault} at {where}{' while cancelling' if self.turning_back else ''}"

    @property
    def turned_at(self) -> str:
        """The failpoint at which it is held while it is cancelled; empty: it is cancelled once memory flows.

        A destination that has received ends by itself when its source cancels: Segue ends only one that still waits.
        """
        return f"{Action.LISTEN}.acted" if self.turning_back and self.failpoint.startswith(Action.END_DESTINATION) else ""

    @property
    def in_postcopy(self) -> bool:
        """It goes over to post-copy, or is about to."""
        return self.moment is Moment.POSTCOPY or self.failpoint.startswith(Action.START_POSTCOPY)

    @property
    def may_kill_the_guest(self) -> bool:
        """Whether it does depends on when it happened to strike."""
        if self.in_postcopy and (self.path, self.fault) in ENDED_BY_LIBVIRT:
            return True
        return self.after_percent is not None and self.fault in (Fault.KILL_SOURCE, Fault.KILL_DESTINATION)

    @property
    def kills_the_guest(self) -> bool:
        """Physics: what is killed is the only whole copy that there is."""
        if self.fault is Fault.KILL_SOURCE:
            return self.moment in (Moment.BEGIN, Moment.PREPARE, Moment.PERFORM, Moment.POSTCOPY) or (
                self.moment is Moment.SWITCHOVER and self.path is not Path.QEMU
            )
        return self.fault is Fault.KILL_DESTINATION and self.moment in (Moment.CONFIRM, Moment.POSTCOPY)


# What the table says where a cell does not exist, and why.
IMPOSSIBLE: dict[tuple[Path | None, Fault | None, Moment | None], str] = {
    (Path.DIRECT, None, Moment.FINISH): "inside libvirt's call",
    (Path.P2P, None, Moment.FINISH): "inside libvirt's call",
    (Path.QEMU, Fault.LIBVIRTD_SOURCE, None): "no libvirtd",
    (Path.QEMU, Fault.LIBVIRTD_DESTINATION, None): "no libvirtd",
    (None, Fault.KILL_DESTINATION, Moment.BEGIN): "not started yet",
    (Path.DIRECT, Fault.KILL_DESTINATION, Moment.PREPARE): "not started yet",
    (Path.P2P, Fault.KILL_DESTINATION, Moment.PREPARE): "not started yet",
    (Path.DIRECT, Fault.KILL_SOURCE, Moment.CONFIRM): "gone by itself",
    (Path.P2P, Fault.KILL_SOURCE, Moment.CONFIRM): "gone by itself",
}


def why_impossible(path: Path, fault: Fault, moment: Moment) -> str:
    """Empty where the cell can be played."""
    for (of_path, of_fault, of_moment), why in IMPOSSIBLE.items():
        if of_path in (None, path) and of_fault in (None, fault) and of_moment in (None, moment):
            return why
    return ""


def by_moment(path: Path) -> Iterator[Cell]:
    """Every fault at every moment of a path."""
    for fault, moment in product(Fault, Moment):
        if not why_impossible(path, fault, moment):
            yield Cell(path=path, fault=fault, moment=moment)


_ON_THE_WAY = {
    Path.QEMU: (
        Action.LAUNCH_DESTINATION,
        Action.LISTEN,
        Action.SET_UP_SOURCE,
        Action.START,
        Action.START_POSTCOPY,
        Action.RESUME_DESTINATION,
        Action.ANNOUNCE,
        Action.END_SOURCE,
    ),
    Path.DIRECT: (Action.SET_UP_SOURCE, Action.START, Action.START_POSTCOPY),
    Path.P2P: (Action.SET_UP_SOURCE, Action.START, Action.START_POSTCOPY),
}
_ON_THE_WAY_BACK = {
    Path.QEMU: (Action.CANCEL, Action.END_DESTINATION),
    Path.DIRECT: (Action.CANCEL,),
    Path.P2P: (Action.CANCEL,),
}
_STATES = ("prepare", "perform", "finish", "confirm", "verify", "moved")


def by_failpoint(path: Path) -> Iterator[Cell]:
    """Segue killed at every failpoint that a migration of that path passes, on the way and on the way back."""
    names = [f"{action}.{moment}" for action, moment in product(_ON_THE_WAY[path], ACTION_MOMENTS)]
    names += [f"{state}.entered" for state in _STATES]
    for name in names:
        yield Cell(path=path, fault=Fault.KILL_SEGUE, failpoint=name)
    back = [f"{action}.{moment}" for action, moment in product(_ON_THE_WAY_BACK[path], ACTION_MOMENTS)]
    back += ["cancelling.entered", "cancelled.entered"]
    for name in back:
        yield Cell(path=path, fault=Fault.KILL_SEGUE, failpoint=name, turning_back=True)


def at_random(count: int, seed: int) -> Iterator[Cell]:
    """Any process, any time: the same cells for the same seed."""
    dice = random.Random(seed)  # noqa: S311  # not for secrets
    kills = [fault for fault in Fault if "kill -9" in fault]
    for _ in range(count):
        path = dice.choice(list(Path))
        fault = dice.choice([fault for fault in kills if path is not Path.QEMU or "libvirtd" not in fault])
        yield Cell(path=path, fault=fault, after_percent=dice.randrange(110))
