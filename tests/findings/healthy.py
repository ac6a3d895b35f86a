"""Moves a guest that nothing is wrong with back and forth, and counts what preflight says all the same.

What may live here: the moves, by Segue's front door, and the count. The moves are a program for a host of the lab, which prints
one JSON object: ``python -m tests.findings.healthy GUEST TIMES``.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import segue
from segue.core.phases import State
from segue.core.preflight.findings import Severity
from segue.errors import SegueError
from segue.lab import Lab, guests
from segue.lab.guests import GuestSpec

KINDS = ("libvirt", "qemu")
HOSTS = ("beta", "alpha")
"""Where it goes, in turn."""
MOVE_DEADLINE_S = 10.0
"""For one of many moves, on the average."""


async def counted(lab: Lab, kind: str, times: int) -> dict[str, Any]:
    """Start a guest of the lab with a disk and a NIC, and what came of so many moves of it."""
    guest = await guests.start(lab, GuestSpec(name=f"healthy-{kind}", host="alpha", kind=kind, disk=True))
    try:
        program = ["env", f"PYTHONPATH={Path(__file__).parents[2]}", sys.executable, "-m", __name__, guest.name, str(times)]
        done = await lab.run("admin", program, check=False, deadline_s=MOVE_DEADLINE_S * (times + 2))
        sys.stderr.write(done.stderr)
        found: dict[str, Any] = json.loads(done.stdout)
        return found
    finally:
        await guests.stop(lab, guest.name)


async def back_and_forth(guest: str, times: int) -> dict[str, object]:
    """What came of so many moves: how many arrived, how often each finding was told, and how long it took to look.

    A move is looked at from the call to the first action: finding the guest and connecting to both hosts is in it.
    """
    moved, looked_s = 0, []
    counted: Counter[tuple[str, str]] = Counter()
    for number in range(times):
        migration = segue.migrate(guest, HOSTS[number % 2])
        began = time.monotonic()
        try:
            looked_s += [time.monotonic() - began async for event in migration if event is State.PREPARE]
            moved += 1
        except SegueError as error:
            sys.stderr.write(f"move {number + 1}: {error}\n")
        if migration.seen is not None:
            counted.update((one.severity, one.code) for one in migration.seen.findings)
        if migration.outcome is None or migration.outcome.owner != HOSTS[number % 2]:
            break  # it is not where the next move would find it
    found = {str(severity): {code: count for (how, code), count in counted.items() if how == severity} for severity in Severity}
    return {"moves": times, "moved": moved, "looked_s": statistics.median(looked_s or [0.0]), **found}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(back_and_forth(sys.argv[1], int(sys.argv[2])))))
