"""Plays moves that are drawn at random, on the real lab, one after the other.

./run soak                        ten minutes, another seed each time; it is printed
./run soak --minutes 60 --seed 7  the same moves for the same seed, for an hour
./run soak --seed 7 --scene 12    one guest and its moves, as they were drawn then

Each move is a line: what was asked for, what happened meanwhile, what came of it. The exit status is 1 where something came of
one that may not be; that line has BROKEN in it, and says how to play it again.
"""

from __future__ import annotations

import argparse
import itertools
import secrets
import shutil
import sys
import time
import traceback
from collections.abc import Iterable

from segue.lab import Lab, down, guests, up
from segue.units import parse_rate
from tests.soak.draws import Scene, scene
from tests.soak.play import play
from tests.support.labs import lab_name, to_its_end


async def scenes(seed: int, numbers: Iterable[int], until_s: float) -> tuple[int, int]:
    """Play them until the time is over; how many moves were played, and in how many something was wrong."""
    name = lab_name("soak")
    await down(name)
    lab = await up(name=name, hosts=2)
    played = broken = 0
    try:
        for number in numbers:
            moves, wrong = await one(lab, seed, number, scene(seed, number), until_s)
            played, broken = played + moves, broken + wrong
            if time.monotonic() > until_s:
                break
    finally:
        await down(name)
    return played, broken


async def one(lab: Lab, seed: int, number: int, drawn: Scene, until_s: float) -> tuple[int, int]:
    """Play one scene; how many moves, and in how many something was wrong. A guest that is not whole moves no more."""
    print(f"scene {number}: {drawn}", flush=True)
    for host in lab.hosts:
        await lab.set_rate(host, parse_rate(drawn.link))
    state = lab.root / f"written-{drawn.guest.name}"
    await guests.start(lab, drawn.guest)
    played = 0
    try:
        for move in drawn.moves:
            played += 1
            try:
                result = await play(lab, drawn.guest, move, state)
            except Exception:  # of the play itself; others have their turn
                traceback.print_exc()
                print(f"  {move}: BROKEN: not played to its end; ./run soak --seed {seed} --scene {number}", flush=True)
                return played, 1
            again = f"; ./run soak --seed {seed} --scene {number}" if result.wrong else ""
            print(f"  {move}: {result}, {move.promised_ms} promised{again}", flush=True)
            if not result.guest_is_whole:
                return played, int(bool(result.wrong))
            if time.monotonic() > until_s:
                break
    finally:
        await guests.stop(lab, drawn.guest.name)
        shutil.rmtree(state, ignore_errors=True)
    return played, 0


def main() -> int:
    """Play, and print."""
    parser = argparse.ArgumentParser(prog="./run soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="no move is begun after that (default 10)")
    parser.add_argument("--seed", type=int, default=None, help="of what is drawn (default: another each time; it is printed)")
    parser.add_argument("--scene", type=int, default=None, metavar="N", help="only that guest and its moves")
    words = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if words.seed is None else words.seed
    numbers = itertools.count(1) if words.scene is None else [words.scene]
    print(f"seed {seed}", flush=True)
    played, broken = to_its_end(scenes(seed, numbers, time.monotonic() + 60 * words.minutes))
    print(f"{played} moves, {broken} of them BROKEN; ./run soak --seed {seed} plays the same ones")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
