"""Plays every way to move a libvirt guest, and as many that are refused; writes what happened to docs/reference/libvirt-table.md.

./run table                       all of it, about ten minutes on two quiet cores; the page is written again after each cell
./run table --only "p2p tls"      the cells whose words contain that; the page is not written then
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from segue.lab import Lab, down, up
from segue.units import parse_rate
from tests.support.labs import lab_name, to_its_end
from tests.table.cells import Cell, refusals, ways
from tests.table.play import Played, play, serve_tls, start_guests

PAGE = Path(__file__).parents[2] / "docs/reference/libvirt-table.md"
TEXT = """# Every way to move a libvirt guest

Written by `./run table`: what really happened in the lab, two hosts, links of 1 Gbit/s, software emulation, guests of 160 MiB
with a disk on NFS. Segue ran on the source. Each way was gone there and back; judged by the auditor (one copy at any time, no
tick and no record lost) and by plain `virsh list`: the guest runs on the destination, persistent where it was, and the source
knows it no more. `local` is `qemu:///system` and `unix` is `qemu+unix:///system?socket=…` on the source; the destination is then
reached by tcp.

Of {all} ways {played} were played and {good} are good; of {others} that do not exist {refused} were refused with their own
sentence, and changed nothing.

| control | transport | scheme | guest | total there, back | answered nobody for | |
|---|---|---|---|---|---|---|
{ways}

## Refused, before anything is touched

| asked for | said |
|---|---|
{refusals}
"""


async def _all(cells: list[Cell], name: str, *, write: bool) -> list[tuple[Cell, Played]]:
    results: list[tuple[Cell, Played]] = []
    await down(name)
    lab = await up(name=name, hosts=2, rate_bps=parse_rate("1gbit"))
    try:
        await serve_tls(lab)
        await start_guests(lab)
        for number, cell in enumerate(cells, 1):
            results.append((cell, await _told(lab, cell, number, len(cells))))
            if write:
                PAGE.write_text(page(results), encoding="utf-8")
        return results
    finally:
        await down(name)


async def _told(lab: Lab, cell: Cell, number: int, count: int) -> Played:
    played = await play(lab, cell)
    print(f"{number}/{count} {cell}: {played.wrong or played.said or f'moved, {played.total_ms} ms'}", flush=True)  # noqa: T201
    return played


def page(results: list[tuple[Cell, Played]]) -> str:
    """The page of these results."""
    moved = [(cell, played) for cell, played in results if not cell.said]
    refused = [(cell, played) for cell, played in results if cell.said]
    return TEXT.format(
        good=sum(not played.wrong for _, played in moved),
        played=len(moved),
        all=len(ways()),
        refused=sum(not played.wrong for _, played in refused),
        others=len(refusals()),
        ways="\n".join(
            f"| {cell.control} | {cell.transport} | {cell.scheme} | {'persistent' if cell.persistent else 'transient'} | "
            f"{_pair(played.total_ms)} | {_pair(played.gap_ms)} | {played.wrong or 'good'} |"
            for cell, played in moved
        ),
        refusals="\n".join(f"| {cell} | {played.wrong or played.said} |" for cell, played in refused),
    )


def _pair(times_ms: tuple[int, ...]) -> str:
    return f"{', '.join(str(one) for one in times_ms)} ms" if times_ms else ""


def main() -> int:
    """Play, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cells whose words contain this")
    words = parser.parse_args()
    cells = [cell for cell in (*ways(), *refusals()) if words.only in str(cell)]
    cells.sort(key=lambda cell: not cell.persistent)
    results = to_its_end(_all(cells, lab_name("table"), write=not words.only))
    return int(any(played.wrong for _, played in results))


if __name__ == "__main__":
    sys.exit(main())
