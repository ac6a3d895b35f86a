"""What Segue costs on top of virsh: one idle guest, two hosts, moved by each in turn.

    ./run bench overhead [--pairs 10]

Whole processes by the wall clock, alternating within each round, so that a drift of the machine hits all alike: `virsh migrate
--live --persistent --undefinesource`; `segue migrate` with the same two URIs; that with post-copy allowed, where a process of
its own makes libvirt's call; `segue migrate` with names from segue.toml, which has to find the guest on every host, libvirt's and
bare ones, first. Prints medians, the spread, and the difference to virsh
round by round; `segue --help` beside them.
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
from collections.abc import Sequence
from pathlib import Path

from segue import units
from segue.lab import Lab, down, guests, up

GUEST = "idle"
SEGUE = str(Path(sys.executable).with_name("segue"))


def uri(host: str) -> str:
    return f"qemu+tcp://{host}/system"


def commands(source: str, destination: str) -> dict[str, list[str]]:
    """The contenders, as a user would type them."""
    virsh = ["virsh", "-c", uri(source), "migrate", "--live", "--persistent", "--undefinesource", GUEST, uri(destination)]
    uris = [SEGUE, "migrate", GUEST, uri(destination), "--from", uri(source)]
    return {
        "virsh migrate": virsh,
        "segue migrate, URIs": uris,
        "segue migrate, postcopy": [*uris, "--postcopy", "allowed"],
        "segue migrate, names": [SEGUE, "migrate", GUEST, destination],
    }


async def timed(argv: Sequence[str]) -> float:
    """Seconds of one whole process; a failure ends the bench."""
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL
    )
    _, stderr = await asyncio.wait_for(process.communicate(), timeout=120)
    took = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"{' '.join(argv)} failed: {stderr.decode()}")
    return took


async def rounds(lab: Lab, count: int) -> dict[str, list[float]]:
    """Wall times of each contender, one a round; the guest goes back and forth, and who goes first rotates."""
    names = list(commands("", ""))
    took: dict[str, list[float]] = {name: [] for name in names}
    here, there = "alpha", "beta"
    for number in range(count + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            seconds = await timed(lab.enter_argv("admin", commands(here, there)[name]))
            here, there = there, here
            if number:  # the first round warms caches up and is not counted
                took[name].append(seconds)
        print(f"round {number} of {count}", file=sys.stderr)
    return took


async def measure(count: int) -> dict[str, list[float]]:
    """Everything, in a lab of its own."""
    lab = await up(name="bench", hosts=2)
    try:
        await guests.start(lab, guests.GuestSpec(name=GUEST, host="alpha", kind="libvirt", memory_bytes=256 * units.MIB))
        took = await rounds(lab, count)
        took["segue --help"] = [await timed([SEGUE, "--help"]) for _ in range(count)]
    finally:
        await down("bench")
    return took


def show(took: dict[str, list[float]]) -> None:
    """The table, with the machine named."""
    print(f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}; wall seconds")
    print(f"{'':24}{'median':>8}{'min':>8}{'max':>8}{'median - virsh':>16}{'n':>4}")
    base = took["virsh migrate"]
    for name, values in took.items():
        over = statistics.median(a - b for a, b in zip(values, base, strict=True)) if "migrate" in name else None
        cells = f"{statistics.median(values):8.3f}{min(values):8.3f}{max(values):8.3f}"
        print(f"{name:24}{cells}{'' if over is None else f'{over:+.3f}':>16}{len(values):4}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10, help="rounds that count (default 10)")
    parser.add_argument("--json", action="store_true", help="the raw seconds as one JSON object")
    words = parser.parse_args()
    took = asyncio.run(measure(words.pairs))
    print(json.dumps(took)) if words.json else show(took)


if __name__ == "__main__":
    main()
