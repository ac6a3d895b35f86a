"""Plays the whole matrix, and writes what really happened into docs/reference/faults.md.

./run faults                            everything, more than an hour
./run faults --only "qemu direct"       the cells whose words contain that; the page is not written
./run faults --random 200 --seed 7      kills of any process at any time, the same ones for the same seed
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
import time
import traceback
from pathlib import Path as FilePath

from segue.lab import down, up
from tests.faults.cells import Cell, Fault, Moment, Path, at_random, by_failpoint, by_moment, why_impossible
from tests.faults.play import play
from tests.support.labs import lab_name

PAGE = FilePath(__file__).parents[2] / "docs/reference/faults.md"

HEAD = """# The fault matrix

Written by `./run faults`, which plays every cell on the lab, with real QEMU and real libvirt: a guest, a migration, a death at
that moment, `segue recover` from a fresh process, and the auditor's verdict. A cell says how the migration ended, and where the
guest runs then. Broken would mean: two copies ran, or none though the guest itself was not killed; a tick was lived through
twice; a disk record was lost or doubled; something was left behind; or the stated owner is not the true one.

"""


async def everything(cells: list[Cell], name: str) -> dict[Cell, tuple[str, float]]:
    """How each cell ended, and how long its recovery took."""
    words: dict[Cell, tuple[str, float]] = {}
    await down(name)
    lab = await up(name=name, hosts=2)
    try:
        for number, cell in enumerate(cells, start=1):
            began = time.monotonic()
            try:
                played = await play(lab, cell)
                words[cell] = played.word, played.recover_s
            except (Exception, asyncio.CancelledError) as error:  # the other cells have their turn
                traceback.print_exc()
                words[cell] = f"NOT PLAYED: {type(error).__name__}: {error}", 0.0
            word, recover_s = words[cell]
            took = time.monotonic() - began
            print(f"{number}/{len(cells)} {cell}: {word} (recover {recover_s:.2f} s, cell {took:.1f} s)", flush=True)
    finally:
        await down(name)
    return words


def page(words: dict[Cell, tuple[str, float]], minutes: float) -> str:
    """The page, tables first."""
    broken = [cell for cell, (word, _) in words.items() if word.startswith(("BROKEN", "NOT PLAYED"))]
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, software emulation"
    parts = [HEAD, f"{len(words)} cells in {minutes:.0f} minutes on {machine}; {len(broken)} broken.\n"]
    for path in Path:
        parts.append(f"\n## {path}\n\n| fault | {' | '.join(Moment)} |\n|---|{'---|' * len(Moment)}\n")
        for fault in Fault:
            cells = [
                f"*{why}*"
                if (why := why_impossible(path, fault, moment))
                else words.get(Cell(path=path, fault=fault, moment=moment), ("", 0.0))[0]
                for moment in Moment
            ]
            parts.append(f"| {fault} | {' | '.join(cells)} |\n")
        parts.append(f"\n`kill -9 segue` at each failpoint, {path}:\n\n| failpoint | ended | recovery took |\n|---|---|---|\n")
        for cell in by_failpoint(path):
            word, recover_s = words.get(cell, ("", 0.0))
            back = ", while cancelling" if cell.turning_back else ""
            parts.append(f"| `{cell.failpoint}`{back} | {word} | {f'{recover_s:.2f} s' if recover_s else 'not needed'} |\n")
    return "".join(parts)


def main() -> int:
    """Play, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cells whose words contain this")
    parser.add_argument("--random", type=int, default=0, metavar="N", help="N kills instead: any process, any time; no page")
    parser.add_argument("--seed", type=int, default=1, help="of those (default 1)")
    words = parser.parse_args()
    all_cells = [cell for path in Path for cell in (*by_moment(path), *by_failpoint(path))]
    cells = list(at_random(words.random, words.seed)) or [cell for cell in all_cells if words.only in str(cell)]
    print(f"{len(cells)} cells{f', seed {words.seed}' if words.random else ''}", flush=True)
    began = time.monotonic()
    ended = asyncio.run(everything(cells, lab_name("kills" if words.random else "faults")))
    if not words.only and not words.random:
        PAGE.write_text(page(ended, (time.monotonic() - began) / 60), encoding="utf-8")
        print(f"wrote {PAGE.name}", file=sys.stderr)
    return int(any(word.startswith(("BROKEN", "NOT PLAYED")) for word, _ in ended.values()))


if __name__ == "__main__":
    sys.exit(main())
