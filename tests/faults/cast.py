"""Who plays: guests of the lab that go from one cell to the next.

What may live here: getting a guest for a cell, and how long a move of it takes when nothing dies.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path as FilePath

from segue import units
from segue.lab import Lab, guests
from segue.lab.guests import GuestSpec
from tests.faults.cells import Path

SEGUE = str(FilePath(sys.executable).with_name("segue"))
MOST_PLAYS = 25
LENGTH_HOLDS_FOR = 10
"""Plays after which it is measured again: what else the machine does changes."""


@dataclass(slots=True, kw_only=True)
class Length:
    """How long `segue migrate` takes when nothing dies: from the command to the first sample, and from there to the end."""

    before_s: float = 0.0
    after_s: float = 0.0
    plays: int = 0


async def measured(argv: list[str]) -> Length:
    """Run a move to its end.

    Raises:
        AssertionError: it did not move, though nothing died.
    """
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(*argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE)
    assert process.stdout
    async with asyncio.timeout(100):
        await process.stdout.readline()
        before_s = time.monotonic() - began
        await process.stdout.read()
        if await process.wait():
            raise AssertionError(f"{' '.join(argv)} ended with {process.returncode}")
    return Length(before_s=before_s, after_s=time.monotonic() - began - before_s)


class Cast:
    """The guests that play: one of a kind, as long as it comes through whole, for to start one takes longer than most cells."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._free: dict[str, tuple[str, int]] = {}
        self._lengths: dict[Path, Length] = {}

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

    async def length(self, path: Path, name: str) -> Length:
        """Of a move by that path, measured now and then."""
        length = self._lengths.get(path)
        if length is None or length.plays >= LENGTH_HOLDS_FOR:
            [(here, _)] = guests.where(self._lab, name)
            there = "beta" if here == "alpha" else "alpha"
            state = self._lab.root / f"written-{name}"
            words = ["migrate", name, there, "--control", path.control, "--max-downtime", "400ms", "--json"]
            argv = self._lab.enter_argv("admin", ["env", f"SEGUE_STATE={state}", SEGUE, *words])
            length = self._lengths[path] = await measured(argv)
            shutil.rmtree(state)
        length.plays += 1
        return length

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
