"""docs/reference/faults.md, from what is kept of every cell. `python -m tests.faults.page` writes it again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import groupby

from tests.faults import results
from tests.faults.cells import Cell, Fault, Moment, Path, by_failpoint, by_moment, why_impossible
from tests.faults.results import Key, Result

PAGE = results.FILE.with_suffix(".md")
Results = Mapping[Key, Result]

HEAD = """# The fault matrix

Written by `./run faults`, which plays every cell on the lab, with real QEMU and real libvirt: a guest, a migration, a death at
that moment, `segue recover` from a fresh process, and the auditor's verdict. A cell says how the migration ended, and where the
guest runs then. Broken would mean: two copies ran, or none though the guest itself was not killed; a tick was lived through
twice; a disk record was lost or doubled; something was left behind; or the stated owner is not the true one.
Where a cell was played more than once and did not always end the same way, all its ends are told, the gravest first.

In post-copy libvirt itself ends a guest that does not run on the destination yet, when the daemon there is started again:
[why, and what to do](../guide/libvirt.md#the-instant-of-post-copy).

What recovery took is the whole process by the wall clock, Python's start included. Where the hypervisors go on with the
migration by themselves (bare QEMU, libvirt peer-to-peer), `segue recover` watches that to its end: how long it watched is told
apart. (Memory is sent at 12 MiB/s in the cells that need time for something to die in it.)

"""


def page(kept: Results) -> str:
    """The page, tables first."""
    matrix = [result for result in kept.values() if not result.kill]
    broken = sum(any(word.startswith(results.BROKEN) for word in result.ends) for result in kept.values())
    missing = sum(result.word.startswith(results.NOT_PLAYED) for result in kept.values())
    counts = f"{broken} broken{f', {missing} not played to their end' if missing else ''}"
    parts = [HEAD, f"{len(matrix)} cells and {len(kept) - len(matrix)} random kills are below; {counts}.\n"]
    for path in Path:
        parts += [f"\n## {path}\n\n", *_of_path(path, kept)]
    parts += _at_random([result for result in kept.values() if result.kill])
    return "".join(parts)


def _of_path(path: Path, kept: Results) -> Iterable[str]:
    def result(cell: Cell) -> Result | None:
        return kept.get((0, 0, str(cell)))

    yield _played(one for cell in (*by_moment(path), *by_failpoint(path)) if (one := result(cell)))
    yield f"\n| fault | {' | '.join(Moment)} |\n|---|{'---|' * len(Moment)}\n"
    for fault in Fault:
        cells = [
            f"*{why}*"
            if (why := why_impossible(path, fault, moment))
            else _ended(one)
            if (one := result(Cell(path=path, fault=fault, moment=moment)))
            else ""
            for moment in Moment
        ]
        yield f"| {fault} | {' | '.join(cells)} |\n"
    yield f"\n`kill -9 segue` at each failpoint, {path}:\n\n"
    yield "| failpoint | ended | recovery took | of that, watching |\n|---|---|---|---|\n"
    for cell in by_failpoint(path):
        back = ", while cancelling" if cell.turning_back else ""
        one = result(cell)
        ended = (_ended(one), *_times(one)) if one is not None else ("", "", "")
        yield f"| `{cell.failpoint}`{back} | {' | '.join(ended)} |\n"


GRAVEST_FIRST = (results.BROKEN, results.NOT_PLAYED, "guest killed", "moved, then killed", "ambiguous", "failed", "cancelled")


def _ended(result: Result) -> str:
    """How it ended, each way that it did."""
    ends = sorted(result.ends.items(), key=lambda end: (_gravity(end[0]), -end[1]))
    return result.word if len(ends) == 1 else "; ".join(f"{word} ({count} of {result.ends.total()})" for word, count in ends)


def _gravity(word: str) -> int:
    return next((rank for rank, begin in enumerate(GRAVEST_FIRST) if word.startswith(begin)), len(GRAVEST_FIRST))


def _times(result: Result) -> tuple[str, str]:
    if not result.recover_s:
        return "not needed", ""
    return f"{result.recover_s:.2f} s", f"{result.watched_s:.2f} s" if result.watched_s else ""


def _played(of: Iterable[Result]) -> str:
    """When and with which code; more than one line where parts were played again."""
    lines = []
    for (day, commit, machine), group in groupby(sorted(of, key=_when), key=_when):
        ones = list(group)
        loads = [one.load for one in ones if one.load]
        load = f", load {min(loads):.0f} to {max(loads):.0f}" if loads else ""
        lines.append(f"{len(ones)} cells played on {day} with {commit}, on {machine}{load}, software emulation.\n")
    return "".join(lines)


def _when(result: Result) -> tuple[str, str, str]:
    return result.day, result.commit, result.machine


def _at_random(kills: list[Result]) -> Iterable[str]:
    """How the random ones ended, counted."""
    for seed, of_seed in groupby(kills, key=lambda result: result.seed):
        ones = list(of_seed)
        yield f"\n## Random kills, seed {seed}\n\n{_played(ones)}"
        yield f"\n`./run faults --random {len(ones)} --seed {seed}`: any process, at any moment of a move.\n"
        longest = max(ones, key=lambda one: one.recover_s - one.watched_s)
        yield f"The longest recovery took {longest.recover_s - longest.watched_s:.2f} s, watching aside.\n"
        yield "\n| killed | how often | how it ended |\n|---|---|---|\n"
        for what, group in groupby(sorted(ones, key=_killed), key=_killed):
            words = Counter(result.word for result in group)
            told = "; ".join(f"{word} ({count})" for word, count in words.most_common())
            yield f"| {what} | {words.total()} | {told} |\n"


def _killed(result: Result) -> str:
    return result.cell.rpartition(" at ")[0]


if __name__ == "__main__":
    PAGE.write_text(page(results.load()), encoding="utf-8")
