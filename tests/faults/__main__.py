"""Plays the whole matrix, and writes what really happened into docs/reference/faults.md.

./run faults                            everything, more than an hour
./run faults --since HEAD               what has no good result yet from that commit, or a later one: goes on with a run
./run faults --only "qemu direct"       the cells whose words contain that; the others stay on the page as they are
./run faults --only X --times 5         those, five times each
./run faults --only X --afresh          what was mended: how it ended before is forgotten
./run faults --random 200 --seed 7      kills of any process at any time, the same ones for the same seed

How every play of a cell ended counts, not only the last. The page is written again after each, from docs/reference/faults.jsonl:
a run may be broken off at any time.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import sys
import time
import traceback

from segue.lab import Lab, down, up
from tests.faults import results
from tests.faults.cast import Cast
from tests.faults.cells import Cell, Path, at_random, by_failpoint, by_moment
from tests.faults.page import PAGE, page
from tests.faults.play import Recovery, play
from tests.faults.results import Key, Result
from tests.support.labs import lab_name, to_its_end


async def everything(cells: list[tuple[int, Cell]], name: str, seed: int, forgotten: set[Key]) -> list[Result]:
    """How each play ended; each is kept as soon as it is known, beside how the cell ended before, or in place of that."""
    played: list[Result] = []
    await down(name)
    lab = await up(name=name, hosts=2)
    cast = Cast(lab)
    try:
        for number, cell in cells:
            result = await one(lab, cast, number, cell, seed)
            kept = results.load()
            result = result.after(None if result.key in forgotten else kept.get(result.key))
            forgotten.discard(result.key)
            played.append(result)
            kept[result.key] = result
            results.save(kept)
            PAGE.write_text(page(kept), encoding="utf-8")
            times = f"recover {result.recover_s:.2f} s, watching {result.watched_s:.2f} s, cell {result.cell_s:.1f} s"
            print(f"{len(played)}/{len(cells)} {cell}: {result.word} ({times})", flush=True)
        await cast.dismiss()
    finally:
        await down(name)
    return played


async def one(lab: Lab, cast: Cast, number: int, cell: Cell, seed: int) -> Result:
    """One cell; one that cannot be played is told, and the others have their turn."""
    began, recovery = time.monotonic(), Recovery()
    try:
        done = await play(lab, cell, cast)
        word, recovery = done.word, done.recovery
    except (Exception, asyncio.CancelledError) as error:
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise  # the whole play is broken off
        traceback.print_exc()
        word = f"{results.NOT_PLAYED}: {type(error).__name__}: {error}"
    times_s = (recovery.took_s, recovery.watched_s, time.monotonic() - began)
    return results.made(cell, word, number=number, seed=seed, times_s=times_s)


def main() -> int:
    """Play, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cells whose words contain this")
    parser.add_argument("--since", metavar="COMMIT", help="only cells that have no good result from that commit or a later one")
    parser.add_argument("--times", type=int, default=1, metavar="N", help="each of them so often (default 1)")
    parser.add_argument("--afresh", action="store_true", help="forget how they ended before")
    parser.add_argument("--random", type=int, default=0, metavar="N", help="N kills instead: any process, any time")
    parser.add_argument("--seed", type=int, default=1, help="of those (default 1)")
    words = parser.parse_args()
    seed = words.seed if words.random else 0
    matrix = [(0, cell) for path in Path for cell in (*by_moment(path), *by_failpoint(path))]
    cells = list(enumerate(at_random(words.random, seed), start=1)) or matrix
    cells = [(number, cell) for number, cell in cells if words.only in str(cell)]
    if words.since:
        is_since = functools.cache(functools.partial(results.is_since, words.since))
        good = {key for key, result in results.load().items() if result.is_good and is_since(result.commit)}
        cells = [(number, cell) for number, cell in cells if (seed, number, str(cell)) not in good]
    forgotten = {(seed, number, str(cell)) for number, cell in cells} if words.afresh else set()
    cells = [one for one in cells for _ in range(words.times)]
    print(f"{len(cells)} cells{f', seed {seed}' if seed else ''}", flush=True)
    ended = to_its_end(everything(cells, lab_name("kills" if seed else "faults"), seed, forgotten))
    print(f"wrote {PAGE.name}", file=sys.stderr)
    return int(not all(result.is_good for result in ended))


if __name__ == "__main__":
    sys.exit(main())
