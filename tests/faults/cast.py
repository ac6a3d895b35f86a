"""Who plays: guests of the lab that go from one cell to the next.

What may live here: getting a guest for a cell, and how long a move of it takes when nothing dies.
"""

from __future__ import annotations

import secrets
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path as FilePath

from segue import units
from segue.lab import Lab, guests
from segue.lab.guests import GuestSpec
from segue.lab.shell import run
from tests.faults.cells import Path

SEGUE = str(FilePath(sys.executable).with_name("segue"))
MOST_PLAYS = 25
LENGTH_HOLDS_FOR = 10
"""Plays after which it is measured again: what else the machine does changes."""


@dataclass(slots=True, kw_only=True)
class _Length:
    seconds: float
    plays: int = 0


class Cast:
    """The guests that play: one of a kind, as long as it comes through whole, for to start one takes longer than most cells."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._free: dict[str, tuple[str, int]] = {}
        self._lengths: dict[Path, _Length] = {}

    async def take(self, kind: str) -> tuple[str, int]:
        """A guest that runs on one host, and how often it has played."""
        if kind in self._free:
            return self._free.pop(kind)
        name = f"f{secrets.token_hex(3)}"
        spec = GuestSpec(
            name=name, host="alpha", kind=kind, disk=True, touch_bytes=32 * units.MIB, set_bytes=8 * units.MIB, rate="4"
        )
        await guests.start(self._lab, spec)
        return name, 0

    async def length_s(self, path: Path, name: str) -> float:
        """How long `segue migrate` takes here when nothing dies, from the command to its end; measured now and then."""
        length = self._lengths.get(path)
        if length is None or length.plays >= LENGTH_HOLDS_FOR:
            [(here, _)] = guests.where(self._lab, name)
            there = "beta" if here == "alpha" else "alpha"
            state = self._lab.root / f"written-{name}"
            words = ["migrate", name, there, "--control", path.control, "--max-downtime", "400ms"]
            began = time.monotonic()
            await run(self._lab.enter_argv("admin", ["env", f"SEGUE_STATE={state}", SEGUE, *words]), deadline_s=100)
            length = self._lengths[path] = _Length(seconds=time.monotonic() - began)
            shutil.rmtree(state)
        length.plays += 1
        return length.seconds

    async def give_back(self, kind: str, name: str, plays: int, *, whole: bool) -> None:
        """Keep it for the next cell, or stop it. Its disk's records grow, and with them what the auditor has to read."""
        if whole and plays < MOST_PLAYS:
            self._free[kind] = name, plays
        else:
            await guests.stop(self._lab, name)

    async def dismiss(self) -> None:
        """Stop all."""
        while self._free:
            await guests.stop(self._lab, self._free.popitem()[1][0])
