"""Plays every guest by every transport, and writes what really happened into docs/reference/shapes.md.

./run shapes                   everything: a quarter of an hour on a quiet machine
./run shapes --resume          what earlier runs have not played so often, or not found clean
./run shapes --only "ssh"      the cells whose words contain that
./run shapes --times 1         once there and back in place of three times in a row

The page is written when every cell was played; it says how often.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import traceback
from dataclasses import asdict
from pathlib import Path

from segue.lab import down, up
from segue.units import parse_rate
from tests.shapes.play import RATE, Moved, certified, played, started
from tests.shapes.shapes import SHAPES, WAYS, Shape, Way
from tests.support.labs import lab_name, to_its_end

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/reference/shapes.md"
PLAYED = ROOT / ".cache/shapes.json"
TIMES = 3
MOST_WORDS = 240
"""Of a cell: so much of what went wrong tells what it was."""
Cells = dict[str, Moved]

HEAD = f"""# Guests and transports, as they were played

Written by `./run shapes`, which plays every cell on the lab with real QEMU: a guest that is started as people start them,
changed over its monitor while it runs, and then moved there and back again and again, by each way some times in a row. In it
runs the auditor's workload: it ticks every 10 ms, writes {RATE} MiB/s of memory and checks it, and appends records to a disk.

A cell is clean when each move ended with status 0 and the guest was on the other host and nowhere else; post-copy was used
where it was asked for; no tick, page or record was lost or doubled, one copy ran at any time, and the guest was alive at the
end; its last command line has what was plugged and changed, and not what was taken away; it runs as the same user; and nothing
was left behind. The figures: how many moves, their median time, the longest standstill of all by the guest's serial lines, and
the longest in which a client on the network had no answer. They are no bench: other work may have run beside it.

"""
TAIL = """
The keys in `/etc/pki/qemu` belong to the user of *nobody* here: whoever runs QEMU must be able to read them.

Under emulation QEMU before 9.0 can lose what a guest writes while it migrates, whoever moves it; guests of the lab are made so
that it does not ([what was seen](../guide/bare-qemu.md#what-was-seen)).

Post-copy needs userfaultfd on the destination, which kernels keep for root unless `vm.unprivileged_userfaultfd` is 1: a QEMU of
another user is refused before a byte moves, with that reason, and goes on where it is.
"""


def title(shape: Shape, way: Way) -> str:
    """The name of a cell."""
    return f"{shape.title}, {way.title}"


async def everything(cells: list[tuple[Shape, Way]], times: int) -> None:
    """Play these, and write down how each ended. A guest is started once for all its ways."""
    name = lab_name("shapes")
    await down(name)
    lab = await up(name=name, hosts=2, rate_bps=parse_rate("1gbit"))
    try:
        await certified(lab)
        for shape in SHAPES:
            ways = [way for one, way in cells if one is shape]
            while ways:
                try:
                    async with started(lab, shape) as guest:
                        while ways:
                            found = await played(lab, guest, shape, way := ways.pop(0), times)
                            keep(title(shape, way), found)
                            if found.wrong:  # the next way has a guest that nothing has happened to
                                break
                except Exception as error:  # the others have their turn
                    traceback.print_exc()
                    if ways:
                        keep(title(shape, ways.pop(0)), Moved(wrong=(f"not played: {type(error).__name__}: {error}",)))
    finally:
        await down(name)


def keep(cell: str, moved: Moved) -> None:
    """Write down how a cell ended, so that a run can be gone on with."""
    print(f"{cell}: {word(moved)}", flush=True)
    PLAYED.parent.mkdir(exist_ok=True)
    ended = {**kept(), cell: moved}
    PLAYED.write_text(json.dumps({cell: asdict(moved) for cell, moved in ended.items()}), encoding="utf-8")


def kept() -> Cells:
    """How cells ended when they were played last."""
    if not PLAYED.exists():
        return {}
    said = json.loads(PLAYED.read_text(encoding="utf-8"))
    return {cell: Moved(**{key: tuple(one) for key, one in moved.items()}) for cell, moved in said.items()}


def is_done(moved: Moved | None, times: int) -> bool:
    """It was played that often, and found clean; once is enough for what is refused."""
    return moved is not None and not moved.wrong and (not moved.seconds or len(moved.seconds) >= 2 * times)


def word(moved: Moved) -> str:
    """The cell in the table."""
    if moved.wrong:
        return f"BROKEN: {' '.join('; '.join(moved.wrong).replace('|', '/').split())[:MOST_WORDS]}"
    if not moved.seconds:
        return "refused, and why was said"
    silence = f"/{max(moved.silences_ms)}" if moved.silences_ms else ""
    return f"clean: {len(moved.seconds)}, {statistics.median(moved.seconds):.1f} s, {max(moved.standstills_ms)}{silence} ms"


def page(ended: Cells) -> str:
    """The page."""
    broken = sum(1 for moved in ended.values() if moved.wrong)
    moves = sum(len(moved.seconds) for moved in ended.values())
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, links of 1 Gbit/s, software emulation"
    rows = [f"| {shape.title} | {' | '.join(word(ended[title(shape, way)]) for way in WAYS)} |\n" for shape in SHAPES]
    return "".join(
        [
            HEAD,
            f"{moves} moves on {machine}; {broken} cells broken.\n\n",
            f"| guest | {' | '.join(way.title for way in WAYS)} |\n|---|{'---|' * len(WAYS)}\n",
            *rows,
            "\nThe guests; each has besides a raw virtio disk on storage that both hosts share, and a serial line:\n\n",
            *(f"- **{shape.title}** (its name: {shape.name!r}): {shape.about}.\n" for shape in SHAPES),
            "\nThe ways:\n\n",
            *(f"- **{way.title}**: `segue migrate GUEST HOST {' '.join(way.words)}`\n" for way in WAYS),
            TAIL,
        ]
    )


def main() -> int:
    """Play, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cells whose words contain this, as 'daemon, through ssh'")
    parser.add_argument("--times", type=int, default=TIMES, help=f"there and back so often in a row (default {TIMES})")
    parser.add_argument("--resume", action="store_true", help="leave out what an earlier run has found clean")
    words = parser.parse_args()
    cells = [(shape, way) for shape in SHAPES for way in WAYS if words.only in title(shape, way)]
    if words.resume:
        ended = kept()
        cells = [(shape, way) for shape, way in cells if not is_done(ended.get(title(shape, way)), words.times)]
    print(f"{len(cells)} cells", flush=True)
    to_its_end(everything(cells, words.times))
    ended = kept()
    if len(ended) == len(SHAPES) * len(WAYS):
        PAGE.write_text(page(ended), encoding="utf-8")
        print(f"wrote {PAGE.name}", file=sys.stderr)
    return int(any(ended[title(shape, way)].wrong for shape, way in cells))


if __name__ == "__main__":
    sys.exit(main())
