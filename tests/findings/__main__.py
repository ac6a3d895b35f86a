"""Provokes every finding that a lab can provoke, and writes what really happened into docs/reference/findings.md.

./run findings                    everything, some minutes
./run findings --only disk        the cases whose words contain that; the others stay on the page as they are
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import traceback

from segue.lab import Lab, down, up
from tests.findings.cases import Case
from tests.findings.network import EVERY
from tests.findings.play import Play
from tests.findings.results import PAGE, load, page, save
from tests.support.labs import lab_name


async def everything(cases: list[Case], name: str) -> int:
    """How many did not come out as they should."""
    await down(name)
    lab = await up(name=name, hosts=2)
    try:
        return sum([await one(lab, case) for case in cases])
    finally:
        await down(name)


async def one(lab: Lab, case: Case) -> bool:
    """Whether it did not come out as it should."""
    try:
        played = await Play(lab, case).play()
    except Exception:
        traceback.print_exc()
        print(f"{case}: NOT PLAYED", flush=True)
        return True
    severity = played.found.get(case.code, "NOT FOUND")
    kept = {**load(), str(case): {"severity": severity, "forced": played.forced}}
    save(kept)
    PAGE.write_text(page(kept), encoding="utf-8")
    wrong = severity != case.severity or played.harmless
    print(f"{case}: {severity}{f'; forced: {played.forced}' * bool(played.forced)}{' WRONG' * wrong}", flush=True)
    return wrong


def main() -> int:
    """Play, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose words contain this")
    only = parser.parse_args().only
    return 1 if asyncio.run(everything([case for case in EVERY if only in str(case)], lab_name("find"))) else 0


if __name__ == "__main__":
    sys.exit(main())
