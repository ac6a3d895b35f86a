"""Provokes every finding that a lab can provoke, and writes what really happened into docs/reference/findings.md.

./run findings                    everything, some minutes
./run findings --only disk        the cases whose words contain that, or that of another --only; the others stay as they are
./run findings --healthy 100      instead: so many moves of a healthy guest of each kind, and what preflight says of them
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence

from segue.core.preflight.findings import Severity
from segue.lab import Lab, down, up
from tests.findings.cases import Case
from tests.findings.healthy import KINDS, counted
from tests.findings.network import EVERY
from tests.findings.play import Play
from tests.findings.results import PAGE, load, page, row, save
from tests.support.labs import lab_name, to_its_end


async def everything(cases: Sequence[Case], name: str, times: int) -> int:
    """How many did not come out as they should."""
    await down(name)
    lab = await up(name=name, hosts=2)
    try:
        if times:
            return sum([await healthy(lab, kind, times) for kind in KINDS])
        return sum([await one(lab, case) for case in cases])
    finally:
        await down(name)


async def one(lab: Lab, case: Case) -> bool:
    """Whether it did not come out as it should."""
    try:
        came = await Play(lab, case).play()
    except Exception:
        traceback.print_exc()
        print(f"{case}: NOT PLAYED", flush=True)
        return True
    severity = came.found.get(case.code, "NOT FOUND")
    keep(str(case), {"severity": severity, "forced": came.forced})
    wrong = severity != case.severity or came.harmless
    print(f"{case}: {severity}{f'; forced: {came.forced}' * bool(came.forced)}{' WRONG' * wrong}", flush=True)
    return wrong


async def healthy(lab: Lab, kind: str, times: int) -> bool:
    """Whether one of so many moves was not let through, or did not arrive."""
    found = await counted(lab, kind, times)
    keep(f"healthy {kind}", row(kind, found))
    wrong = found["moved"] != times or bool(found[Severity.BLOCKER])
    print(f"healthy {kind}: {found}{' WRONG' * wrong}", flush=True)
    return wrong


def keep(case: str, result: dict[str, str]) -> None:
    """Keep what came of it, and write the page."""
    kept = {**load(), case: result}
    save(kept)
    PAGE.write_text(page(kept), encoding="utf-8")


def main() -> int:
    """Play, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], help="cases whose words contain this; may be given again")
    parser.add_argument("--healthy", type=int, default=0, metavar="N", help="N moves of each healthy guest")
    words = parser.parse_args()
    cases = [case for case in EVERY if not words.only or any(one in str(case) for one in words.only)]
    return 1 if to_its_end(everything(cases, lab_name("find"), words.healthy)) else 0


if __name__ == "__main__":
    sys.exit(main())
