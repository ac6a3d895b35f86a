"""How long `segue recover` takes after Segue was killed: an idle guest, a kill -9 at three moments, each way to move it.

    ./run bench recover [--rounds 5]

The whole process by the wall clock, Python's start included, from a fresh process with nothing but what was written down. The
guest has 256 MiB and writes nothing, so that what recovery sees through is short: with a busy guest that goes on moving,
`segue recover` takes as long as the rest of the move does. The moments follow each other within a round, and so do the ways.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import time
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path

from segue import units
from segue.lab import Lab, down, guests, up
from segue.lab.shell import run

SEGUE = str(Path(sys.executable).with_name("segue"))
WAYS = (("qemu", "direct"), ("libvirt", "direct"), ("libvirt", "p2p"))
MOMENTS = {"start.intended": "before the memory", "start.acted": "in the memory", "confirm.entered": "after the hand-over"}


@dataclass(kw_only=True)
class Row:
    """One way to move, killed at one moment: seconds, one a round, and what it came to."""

    way: str
    moment: str
    seconds: list[float] = field(default_factory=list)
    ends: set[str] = field(default_factory=set)


async def killed_and_recovered(lab: Lab, kind: str, control: str, failpoint: str) -> tuple[float, str]:
    """Seconds of one recovery, and its outcome."""
    [(here, _)] = guests.where(lab, kind)
    there = "beta" if here == "alpha" else "alpha"
    state = f"SEGUE_STATE={lab.root / 'written'}"

    def admin(*words: str) -> list[str]:
        return lab.enter_argv("admin", ["env", state, *words])

    move = admin(f"SEGUE_FAILPOINT={failpoint}=kill", SEGUE, "migrate", kind, there, "--control", control)
    if (await run(move, check=False, deadline_s=60)).status >= 0:
        raise SystemExit(f"{kind}, {control}: Segue was not killed at {failpoint}")
    began = time.perf_counter()
    done = await run(admin(SEGUE, "recover", "--json"), check=False, deadline_s=60)
    took = time.perf_counter() - began
    return took, json.loads(done.stdout.splitlines()[-1])["outcome"]


async def measure(rounds: int) -> list[Row]:
    """Everything, in a lab of its own; a first round is not counted."""
    rows = {
        (kind, control, moment): Row(way=f"{kind} {control}", moment=words)
        for (kind, control), (moment, words) in product(WAYS, MOMENTS.items())
    }
    lab = await up(name="bench", hosts=2)
    try:
        for kind in ("qemu", "libvirt"):
            await guests.start(lab, guests.GuestSpec(name=kind, host="alpha", kind=kind, memory_bytes=256 * units.MIB))
        for number in range(rounds + 1):
            for key, row in rows.items():
                took, end = await killed_and_recovered(lab, *key)
                if number:
                    row.seconds.append(took)
                    row.ends.add(end)
            print(f"round {number} of {rounds}", file=sys.stderr)
    finally:
        await down("bench")
    return list(rows.values())


def show(rows: list[Row]) -> None:
    """The table, with the machine named."""
    print(f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}; wall seconds")
    print(f"{'':16}{'killed':22}{'median':>8}{'min':>8}{'max':>8}{'n':>4}  ended")
    for row in rows:
        cells = f"{statistics.median(row.seconds):8.2f}{min(row.seconds):8.2f}{max(row.seconds):8.2f}{len(row.seconds):4}"
        print(f"{row.way:16}{row.moment:22}{cells}  {', '.join(sorted(row.ends))}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count (default 5)")
    parser.add_argument("--json", action="store_true", help="the raw seconds as one JSON object a row")
    words = parser.parse_args()
    rows = asyncio.run(measure(words.rounds))
    if not words.json:
        return show(rows)
    for row in rows:
        print(json.dumps(asdict(row) | {"ends": sorted(row.ends)}))
    return None


if __name__ == "__main__":
    main()
