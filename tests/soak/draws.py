"""What is drawn: guests, links, options, and what happens meanwhile; the same for the same seed.

What may live here: values, and the dice. How they are played is in `play`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from segue import units
from segue.lab.guests import GuestSpec

MOVES_A_SCENE: Final = 4
"""To start a guest takes as long as two moves of it."""
LATEST_S: Final = 8.0
"""Most moves are over by then; what would happen later does not."""


class Blow(StrEnum):
    """What happens while it is moved."""

    NOTHING = "nothing"
    TUNE = "segue tune"
    INTERRUPT = "Ctrl-C"
    CANCEL = "segue cancel"
    HANG_UP = "its terminal lost"
    DEAF = "its reader gone"
    KILL = "kill -9 segue"
    CUT = "link cut for 2 s"
    LIBVIRTD_SOURCE = "source libvirtd killed, restarted"
    LIBVIRTD_DESTINATION = "destination libvirtd killed, restarted"


_WEIGHTS: Final = {
    Blow.NOTHING: 5,
    Blow.TUNE: 4,
    Blow.INTERRUPT: 2,
    Blow.CANCEL: 2,
    Blow.HANG_UP: 1,
    Blow.DEAF: 1,
    Blow.KILL: 3,
    Blow.CUT: 2,
    Blow.LIBVIRTD_SOURCE: 1,
    Blow.LIBVIRTD_DESTINATION: 1,
}
_OF_LIBVIRT: Final = frozenset([Blow.LIBVIRTD_SOURCE, Blow.LIBVIRTD_DESTINATION])

LINKS: Final = ("100mbit", "300mbit", "300mbit", "1gbit")
_TOUCHED_MIB: Final = (8, 32, 64, 96)
_SETS_MIB: Final = (0, 4, 16, 32, 64)
_RATES: Final = ("0", "4", "16", "40", "90", "max")
_BASE_MIB: Final = 128
"""What the guest's own system needs, and some room."""
_POSTCOPY: Final = ((), (), ("--postcopy",), ("--postcopy", "prefer"), ("--postcopy", "never"))
_DOWNTIMES: Final = ((), (), ("--max-downtime", "30ms"), ("--max-downtime", "100ms"), ("--max-downtime", "1s"))
_ENDS: Final = ((), (), ("--within", "4s"), ("--within", "9s"), ("--max-bytes", "300MiB"))
_MISSES: Final = ((), ("--on-miss", "abort"), ("--on-miss", "suspend"), ("--on-miss", "postcopy"), ("--on-miss", "extend"))
_OTHERS: Final = (
    (),
    (),
    (),
    ("--bandwidth", "20MiB/s"),
    ("--max-slowdown", "30%"),
    ("--no-auto-converge",),
    ("--observe-only",),
    ("--connections", "2"),
)
_WAYS: Final = {
    "libvirt": (
        (),
        (),
        ("--control", "p2p"),
        ("--control", "p2p"),
        ("--control", "p2p", "--transport", "tunnelled"),
    ),
    "qemu": ((), (), ("--transport", "tunnelled"), ("--transport", "tls-psk")),
}
_TUNINGS: Final = (
    ("--postcopy-now",),
    ("--max-downtime", "30ms"),
    ("--max-downtime", "1s"),
    ("--bandwidth", "10MiB/s"),
    ("--bandwidth", "1gbit"),
    ("--within", "3s"),
    ("--within", "10s", "--on-miss", "suspend"),
    ("--within", "5s", "--on-miss", "postcopy"),
    ("--on-miss", "extend"),
    ("--max-slowdown", "20%"),
    ("--max-bytes", "100MiB"),
)
_NEVER_TOGETHER: Final = (("--postcopy", "--connections"), ("--postcopy", "tunnelled"), ("--connections", "tunnelled"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One move.

    Attributes:
        options: of `segue migrate`.
        detached: another process leads it, and `segue watch` looks on.
        blow: what happens, `after_s` after the command was given.
        tuned: options of `segue tune`, where it is that.
    """

    options: tuple[str, ...]
    detached: bool
    blow: Blow
    after_s: float
    tuned: tuple[str, ...] = ()

    def __str__(self) -> str:
        options = " ".join([*self.options, *(["--detach"] if self.detached else [])]) or "no options"
        what = "" if self.blow is Blow.NOTHING else f"; after {self.after_s:.2f} s {' '.join([self.blow, *self.tuned])}"
        return options + what

    @property
    def promised_ms(self) -> int:
        """How long the guest may stand still at the most."""
        at = self.options.index("--max-downtime") + 1 if "--max-downtime" in self.options else None
        return units.parse_downtime_ms(self.options[at]) if at else 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A guest, a link, and how it is moved over it, back and forth."""

    guest: GuestSpec
    link: str
    moves: tuple[Move, ...]

    def __str__(self) -> str:
        guest = self.guest
        sizes = f"{guest.touch_bytes // units.MIB}+{guest.set_bytes // units.MIB} MiB at {guest.rate} MiB/s"
        parts = (guest.kind, sizes, guest.fill, "bursts" if guest.bursts else "", "disk" if guest.disk else "")
        return f"{', '.join(filter(None, parts))}, over {self.link}"


def scene(seed: int, number: int) -> Scene:
    """The scene of that number; no other has to be played before it."""
    dice = random.Random(f"{seed} {number}")  # noqa: S311  # not for secrets
    kind = dice.choice(("libvirt", "qemu"))
    touched, written = dice.choice(_TOUCHED_MIB), dice.choice(_SETS_MIB)
    guest = GuestSpec(
        name=f"s{number}",
        host=dice.choice(("alpha", "beta")),
        kind=kind,
        memory_bytes=(_BASE_MIB + touched + written) * units.MIB,
        touch_bytes=touched * units.MIB,
        set_bytes=written * units.MIB,
        rate=dice.choice(_RATES) if written else "0",
        bursts=dice.choice((None, None, (1000, 2000))) if written else None,
        fill=dice.choice(("random", "text", "whole")),
        disk=dice.random() < 0.5,
        persistent=dice.random() < 0.8,
    )
    return Scene(guest=guest, link=dice.choice(LINKS), moves=tuple(_move(dice, kind) for _ in range(MOVES_A_SCENE)))


def _move(dice: random.Random, kind: str) -> Move:
    options, detached = _together(dice, kind), dice.random() < 0.2
    blow = dice.choices(list(_WEIGHTS), weights=list(_WEIGHTS.values()))[0]
    tuned = dice.choice(_TUNINGS) if blow is Blow.TUNE else ()
    after_s = round(dice.uniform(0, LATEST_S) * dice.random(), 2)  # more in the first seconds, where more happens
    if blow in _OF_LIBVIRT and kind != "libvirt":
        blow = Blow.KILL
    if blow is Blow.LIBVIRTD_DESTINATION and any("postcopy" in option for option in options):
        blow = Blow.LIBVIRTD_SOURCE  # libvirt ends what has arrived by then: `tests.faults.cells.ENDED_BY_LIBVIRT`
    return Move(options=options, detached=detached, blow=blow, after_s=after_s, tuned=tuned)


def _together(dice: random.Random, kind: str) -> tuple[str, ...]:
    """Options that go together."""
    while True:
        ends = dice.choice(_ENDS)
        misses = dice.choice(_MISSES) if ends else ()
        drawn = (dice.choice(_WAYS[kind]), dice.choice(_POSTCOPY), dice.choice(_DOWNTIMES), ends, misses, dice.choice(_OTHERS))
        options = tuple(word for words in drawn for word in words)
        asked = set(options) | ({"--postcopy"} if "postcopy" in misses else set())
        if not any(asked.issuperset(pair) for pair in _NEVER_TOGETHER):
            return options
