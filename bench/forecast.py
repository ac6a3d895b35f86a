"""How well forecasts come true: what is said beforehand of a migration, beside what it comes to.

    ./run bench forecast [--workloads steady-16,flat-16] [--links 300mbit,1gbit] [--limits 100,300,1000] [--rounds 5]
    ./run bench forecast --show [--markdown docs/bench/forecast.md]

One bare guest a workload, in a lab of two hosts. For each link the guest is moved once by post-copy, so that the path was seen,
and watched once, as `segue forecast` does it; then for each downtime limit it is moved by pre-copy alone, with just that limit,
without throttling and without any help: it converges, or it is given up after a time in which it could have been sent
`PATIENCE` times. Standstill is what a client on the network saw. All of that is a round; of several the medians count, of what
was said and of what came. Results are kept as JSON lines, and what is there already is not played again, so that it can be
played in parts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import msgspec

from convergence.play import spoken_ms
from segue import units
from segue.core.forecast import Prospect, forecast, switchover_ms
from segue.core.measured import GOODPUT, Range, Seen
from segue.core.measured import Path as Way
from segue.core.model import Limits
from segue.lab import Lab, down, guests, up
from segue.lab.observe import observe
from told import until_told

LAB = "forecast"
BELOW = "<!-- what follows is written by ./run bench forecast --show --markdown -->"
GUEST = "cell"
SEGUE = str(Path(sys.executable).with_name("segue"))
RESULTS = Path(__file__).parent / "results" / "forecast.jsonl"
LINKS = ("300mbit", "1gbit")
LIMITS_MS = (100, 300, 1000)
PATIENCE = 3
POLICY = "alone"
# MiB touched, MiB written again and again, MiB/s of writing.
WORKLOADS = {
    "idle-64": (64, 0, "0"),
    "idle-192": (192, 0, "0"),
    "steady-8": (96, 64, "8"),
    "steady-24": (96, 64, "24"),
    "steady-40": (128, 96, "40"),
    "steady-60": (96, 64, "60"),
    "wide-90": (192, 160, "90"),
    "wide-120": (256, 224, "120"),
    "wide-150": (192, 160, "150"),
    "flat-8": (96, 8, "max"),
    "flat-16": (96, 16, "max"),
    "flat-32": (96, 32, "max"),
    "flat-64": (96, 64, "max"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One migration: what was measured before it, what it told first itself, and what it came to."""

    workload: str
    link: str
    limit_ms: int
    seen: dict[str, Any]
    moved: bool
    total_ms: int
    client_ms: int
    sent_bytes: int
    iterations: int
    told: str = ""
    round: int = 1

    @property
    def cell(self) -> tuple[str, str, int]:
        """What was played: workload, link and limit."""
        return self.workload, self.link, self.limit_ms


def seen_of(run: Run) -> Seen:
    """What was measured; where nobody had seen the path yet, with the link's rate as segue.toml would say it."""
    seen = msgspec.convert(run.seen, Seen)
    bps = round(units.parse_rate(run.link) * GOODPUT)
    path = Way(bps=Range(low=bps * 95 // 100, likely=bps, high=bps), how="the link")
    return seen if seen.path is not None else replace(seen, path=path)


async def segue(lab: Lab, link: str, *words: str) -> tuple[int, list[dict[str, Any]], str]:
    """Run it as an admin would; its exit status, its JSON, its other words."""
    pipe = asyncio.subprocess.PIPE
    state = f"SEGUE_STATE={lab.layout.written}-{link}"  # what was seen of one link says nothing of another
    argv = lab.enter_argv("admin", ["env", state, SEGUE, *words])
    process = await asyncio.create_subprocess_exec(*argv, stdout=pipe, stderr=pipe, stdin=asyncio.subprocess.DEVNULL)
    stdout, stderr = await asyncio.wait_for(process.communicate(), timeout=300)
    return process.returncode or 0, [json.loads(line) for line in stdout.splitlines()], stderr.decode()


async def play(lab: Lab, workload: str, link: str, limits_ms: Sequence[int], number: int, file: Path) -> None:
    """Watch the guest, then move it with each limit."""
    for host in lab.hosts:
        await lab.set_rate(host, units.parse_rate(link))
    [(source, _)] = guests.where(lab, GUEST)
    destination = "beta" if source == "alpha" else "alpha"
    await segue(lab, link, "migrate", GUEST, destination, "--from", source, "--postcopy", "--json")  # so that the path was seen
    source, destination = destination, source
    _, [said], stderr = await segue(lab, link, "forecast", GUEST, destination, "--from", source, "--json")
    if not said["seen"]["windows"]:
        raise SystemExit(f"nothing was measured: {said['unmeasured']} {stderr}")
    touched = said["seen"]["touched"]["bytes"]["likely"]
    within_ms = round(PATIENCE * touched / (units.parse_rate(link) * GOODPUT) * 1000) + 8_000
    for limit_ms in limits_ms:
        [(source, _)] = guests.where(lab, GUEST)
        destination = "beta" if source == "alpha" else "alpha"
        words = ("--from", source, "--json", "--policy", POLICY, "--no-auto-converge", "--within", f"{within_ms}ms")
        async with observe(lab, GUEST) as watch:
            _, told, stderr = await segue(lab, link, "migrate", GUEST, destination, "--max-downtime", f"{limit_ms}ms", *words)
            report = await watch.report()
        outcome = told[-1]
        if not report.clean or outcome["outcome"] not in ("moved", "failed"):
            raise SystemExit(f"{workload} on {link} with {limit_ms} ms: {outcome} {stderr} {report}")
        run = Run(
            workload=workload,
            link=link,
            limit_ms=limit_ms,
            seen=said["seen"],
            moved=outcome["outcome"] == "moved",
            total_ms=outcome["total_ms"],
            client_ms=report.client_gap_ms,
            sent_bytes=outcome["bytes_sent"],
            iterations=outcome["iterations"],
            told=next((words for words in stderr.splitlines() if "forecast: " in words), ""),
            round=number,
        )
        with file.open("a", encoding="utf-8") as kept:
            kept.write(json.dumps(asdict(run)) + "\n")
        print("  ".join(row([run])), file=sys.stderr)


async def measure(workloads: Sequence[str], links: Sequence[str], limits_ms: Sequence[int], rounds: int, file: Path) -> None:
    """All that is not in the results yet, in a lab of its own."""
    done = {(*run.cell, run.round) for run in read(file)}
    file.parent.mkdir(parents=True, exist_ok=True)
    lab = await up(name=LAB, hosts=2)
    try:
        with lab.layout.config.open("a", encoding="utf-8") as config:
            config.write(f"\n[policies.{POLICY}]\n")
        for number, workload in product(range(1, rounds + 1), workloads):
            left = {link: [one for one in limits_ms if (workload, link, one, number) not in done] for link in links}
            if not any(left.values()):
                continue
            touch, working_set, rate = WORKLOADS[workload]
            spec = guests.GuestSpec(
                name=GUEST,
                host="alpha",
                kind="qemu",
                memory_bytes=(touch + 160) * units.MIB,
                touch_bytes=touch * units.MIB,
                set_bytes=working_set * units.MIB,
                rate=rate,
            )
            await guests.start(lab, spec)
            for link, limits in left.items():
                if limits:
                    await play(lab, workload, link, limits, number, file)
            await guests.stop(lab, GUEST)
    finally:
        await asyncio.shield(down(LAB))


def read(file: Path) -> list[Run]:
    """Every run that was played."""
    return [Run(**json.loads(one)) for one in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def by_cell(runs: Sequence[Run]) -> list[list[Run]]:
    """The rounds of each cell, in the order of their first run."""
    cells: dict[tuple[str, str, int], list[Run]] = {}
    for run in runs:
        cells.setdefault(run.cell, []).append(run)
    return list(cells.values())


def said(run: Run, windows: int | None = None) -> Prospect:
    """What was said of pre-copy, by so many of its windows (default: all)."""
    seen = seen_of(run)
    expected = forecast(replace(seen, windows=seen.windows[:windows]), Limits(max_downtime_ms=run.limit_ms))
    assert expected is not None
    return expected.precopy


def median(ranges: Sequence[Range]) -> Range:
    """Of each end, and of what is likely."""
    return Range(**{end: round(statistics.median(getattr(one, end) for one in ranges)) for end in ("low", "likely", "high")})


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What was said in the rounds of a cell, and what came. Durations are medians, ``None`` where nothing moved, or was to.

    Attributes:
        moves, sure: what was said, by most rounds: it converges; the lowest and the highest course agree.
        moved, kept: what came, by most rounds: it moved; it moved within the standstill that was allowed (`kept`).
        steady: every round said, and came to, the same.
    """

    moves: bool
    sure: bool
    moved: bool
    kept: bool
    steady: bool
    total_said: Range | None
    stands_said: Range | None
    total_ms: float | None
    client_ms: float | None


def judge(runs: Sequence[Run]) -> Cell:
    """Rounds of one cell → what they come to."""
    prospects = [said(run) for run in runs]
    moved = [run for run in runs if run.moved]
    totals = [one.total_ms for one in prospects if one.total_ms]
    stands = [one.downtime_ms for one in prospects if one.downtime_ms]
    return Cell(
        moves=_most([one.converges for one in prospects]),
        sure=_most([one.sure for one in prospects]),
        moved=_most([run.moved for run in runs]),
        kept=_most([kept(run) for run in runs]),
        steady=len({(one.converges, run.moved) for one, run in zip(prospects, runs, strict=True)}) == 1,
        total_said=median(totals) if totals else None,
        stands_said=median(stands) if stands else None,
        total_ms=statistics.median(run.total_ms for run in moved) if moved else None,
        client_ms=statistics.median(run.client_ms for run in moved) if moved else None,
    )


def _most(calls: Sequence[bool]) -> bool:
    return sum(calls) * 2 > len(calls)


HEADINGS = ("workload", "link", "limit", "said", "moved", "total said", "total came", "standstill said", "standstill came")


def row(runs: Sequence[Run]) -> tuple[str, ...]:
    """What was said and what came in the rounds of one cell."""
    cell, (workload, link, limit_ms) = judge(runs), runs[0].cell
    calls = ("" if cell.sure else "likely ") + ("yes" if cell.moves else "no")
    moved = sum(run.moved for run in runs)
    ended = "yes" if moved == len(runs) else f"{moved} of {len(runs)}" if moved else "no"
    total = cell.total_said.shown(units.format_duration_ms) if cell.total_said else "-"
    stands = cell.stands_said.shown(units.format_duration_ms) if cell.stands_said else "-"
    came = ("-", "-")
    if cell.total_ms is not None and cell.client_ms is not None:
        came = (units.format_duration_ms(round(cell.total_ms)), f"{cell.client_ms:.0f} ms")
    return (workload, link, f"{limit_ms} ms", calls, ended, total, came[0], stands, came[1])


def kept(run: Run) -> bool:
    """It moved, and the guest stood for no longer than was allowed, with a fifth and the switchover's own part on top.

    QEMU switches over when what is left fits by its own estimate of the bandwidth, which is of a tenth of a second. On a busy
    machine that jumps, so that a guest which does not converge is moved all the same, some time, and stands for longer than was
    allowed.
    """
    return run.moved and run.client_ms <= 1.2 * run.limit_ms + switchover_ms(units.parse_rate(run.link) * GOODPUT)[1]


def came_true(run: Run, windows: int) -> bool:
    """Of a guest that moved: total, standstill and bytes lie within the ranges of a forecast that is made of so many windows."""
    prospect = said(run, windows)
    came = ((prospect.total_ms, run.total_ms), (prospect.downtime_ms, run.client_ms), (prospect.sent_bytes, run.sent_bytes))
    return all(told is not None and told.low <= value <= told.high for told, value in came)


# The ranges in a forecast's sentence, as `segue.core.forecast.sentence` writes them.
_TOLD = re.compile(r"pre-copy: [^(]*\(([^)]*)\) in all, standing still for [^(]*\(([^)]*)\)")


def told_true(run: Run) -> bool | None:
    """The same of total and standstill in what the migration told first itself; ``None`` where it told no ranges."""
    if (told := _TOLD.search(run.told)) is None:
        return None
    ranges = [[spoken_ms(end) for end in words.split(" to ")] for words in told.groups()]
    return all(low <= value <= high for (low, high), value in zip(ranges, (run.total_ms, run.client_ms), strict=True))


def verdict(runs: Sequence[Run]) -> list[str]:
    """How often it was right, and how far off."""
    rounds = by_cell(runs)
    cells = [judge(one) for one in rounds]
    sure = [cell for cell in cells if cell.sure]
    totals: list[float] = []
    stands: list[float] = []
    within: list[bool] = []
    for cell in cells:
        if cell.total_said and cell.stands_said and cell.total_ms and cell.client_ms:
            totals.append(abs(cell.total_said.likely / cell.total_ms - 1))
            stands.append(abs(cell.stands_said.likely / cell.client_ms - 1))
            within.append(cell.total_said.low <= cell.total_ms <= cell.total_said.high)
    moved = [run for run in runs if run.moved]
    told = [true for true in map(told_true, moved) if true is not None]
    most = max(len(run.seen["windows"]) for run in runs)
    covered = [f"{sum(came_true(run, count) for run in moved)} by {count} of its windows" for count in range(1, 1 + most)]
    ninth = sorted(totals)[max(0, round(len(totals) * 0.9) - 1)] if totals else 0.0
    least, count = min(map(len, rounds)), len(cells)
    each = "one run each" if len(runs) == count else f"medians of {least} runs each" + " or more" * (len(runs) != least * count)
    return [
        f"{count} cells, {each}; {os.cpu_count()} cores, {platform.system()} {platform.release()}, software emulation",
        f"converges or not, by whether it moved at all: right in {sum(cell.moves is cell.moved for cell in cells)} of {count}; "
        f"of {len(sure)} that were said for sure, in {sum(cell.moves is cell.moved for cell in sure)}",
        f"converges or not, by whether it moved within the standstill that was allowed: right in "
        f"{sum(cell.moves is cell.kept for cell in cells)} of {count}; "
        f"of {len(sure)} said for sure, in {sum(cell.moves is cell.kept for cell in sure)}",
        f"in {sum(cell.steady for cell in cells)} of {count} every run said, and came to, the same",
        f"total: median off by {statistics.median(totals):.0%}, 90th percentile {ninth:.0%}; "
        f"within the range in {sum(within)} of {len(within)}",
        f"standstill: median off by {statistics.median(stands):.0%} of what a client saw",
        f"total, standstill and bytes all within their ranges, of {len(moved)} runs that moved: {', '.join(covered)}",
        f"total and standstill within what `segue migrate` told first: in {sum(told)} of {len(told)}",
    ]


def show(runs: Sequence[Run], markdown: Path | None) -> None:
    """The table and the verdict, printed and where it was asked for written."""
    rows = [row(one) for one in by_cell(runs)]
    widths = [max(len(one[column]) for one in [HEADINGS, *rows]) for column in range(len(HEADINGS))]
    for one in [HEADINGS, *rows]:
        print("  ".join(text.ljust(width) for text, width in zip(one, widths, strict=True)).rstrip())
    for words in verdict(runs):
        print(words)
    if markdown is not None:
        table = [HEADINGS, tuple("---" for _ in HEADINGS), *rows]
        body = "\n".join(f"| {' | '.join(one)} |" for one in table)
        head = markdown.read_text(encoding="utf-8").partition(BELOW)[0] if markdown.exists() else ""
        words = "\n".join(f"- {one}" for one in verdict(runs))
        markdown.write_text(f"{head}{BELOW}\n\n{words}\n\n{body}\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help=f"of {', '.join(WORKLOADS)}")
    parser.add_argument("--links", default=",".join(LINKS), help=f"default {','.join(LINKS)}")
    parser.add_argument("--limits", default=",".join(map(str, LIMITS_MS)), help="of standstill, in ms")
    parser.add_argument("--rounds", type=int, default=1, help="of each cell, whose medians count (default 1)")
    parser.add_argument("--into", type=Path, default=RESULTS, help="where results are kept")
    parser.add_argument("--show", action="store_true", help="play nothing, show what there is")
    parser.add_argument("--markdown", type=Path, help="write the table there too; what stands above it stays")
    words = parser.parse_args()
    workloads, links = words.workloads.split(","), words.links.split(",")
    limits = [int(one) for one in words.limits.split(",")]
    if not words.show:
        asyncio.run(until_told(measure(workloads, links, limits, words.rounds, words.into)))
    chosen = set(product(workloads, links, limits))
    if runs := [run for run in read(words.into) if run.cell in chosen]:
        show(runs, words.markdown)


if __name__ == "__main__":
    main()
