"""How well forecasts come true: what is said beforehand of a migration, beside what it comes to.

    ./run bench forecast [--workloads steady-16,flat-16] [--links 300mbit,1gbit] [--limits 100,300,1000]
    ./run bench forecast --show [--markdown docs/bench/forecast.md]

One bare guest a workload, in a lab of two hosts. For each link the guest is moved once by post-copy, so that the path was seen,
and watched once, as `segue forecast` does it; then for each downtime limit it is moved by pre-copy alone, with just that limit,
without throttling and without any help: it converges, or it is given up after a time in which it could have been sent
`PATIENCE` times. Standstill is what a client on the network saw. Results are kept as JSON lines, and what is there already is
not played again, so that it can be played in parts.
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
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from convergence.play import spoken_ms
from segue import units
from segue.core.forecast import forecast, switchover_ms
from segue.core.measured import GOODPUT, Range, Seen
from segue.core.measured import Path as Way
from segue.core.model import Limits
from segue.lab import Lab, down, guests, up
from segue.lab.observe import observe

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
class Cell:
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


def seen_of(cell: Cell) -> Seen:
    """What was measured; where nobody had seen the path yet, with the link's rate as segue.toml would say it."""
    seen = TypeAdapter(Seen).validate_python(cell.seen)
    bps = round(units.parse_rate(cell.link) * GOODPUT)
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


async def play(lab: Lab, workload: str, link: str, limits_ms: Sequence[int], file: Path) -> None:
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
        cell = Cell(
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
        )
        with file.open("a", encoding="utf-8") as kept:
            kept.write(json.dumps(asdict(cell)) + "\n")
        print(line(cell), file=sys.stderr)


async def measure(workloads: Sequence[str], links: Sequence[str], limits_ms: Sequence[int], file: Path) -> None:
    """All that is not in the results yet, in a lab of its own."""
    done = {(cell.workload, cell.link, cell.limit_ms) for cell in read(file)}
    file.parent.mkdir(parents=True, exist_ok=True)
    lab = await up(name=LAB, hosts=2)
    try:
        with lab.layout.config.open("a", encoding="utf-8") as config:
            config.write(f"\n[policies.{POLICY}]\n")
        for workload in workloads:
            left = {link: [one for one in limits_ms if (workload, link, one) not in done] for link in links}
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
                    await play(lab, workload, link, limits, file)
            await guests.stop(lab, GUEST)
    finally:
        await asyncio.shield(down(LAB))


def read(file: Path) -> list[Cell]:
    """Every cell that was played."""
    return [Cell(**json.loads(one)) for one in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


HEADINGS = ("workload", "link", "limit", "said", "moved", "total said", "total came", "standstill said", "standstill came")


def row(cell: Cell) -> tuple[str, ...]:
    """What was said and what came."""
    expected = forecast(seen_of(cell), Limits(max_downtime_ms=cell.limit_ms))
    assert expected is not None
    prospect = expected.precopy
    said = ("" if prospect.sure else "likely ") + ("yes" if prospect.converges else "no")
    total = prospect.total_ms.shown(units.format_duration_ms) if prospect.total_ms else "-"
    stands = prospect.downtime_ms.shown(units.format_duration_ms) if prospect.downtime_ms else "-"
    came = (units.format_duration_ms(cell.total_ms), f"{cell.client_ms} ms") if cell.moved else ("-", "-")
    return (cell.workload, cell.link, f"{cell.limit_ms} ms", said, "yes" if cell.moved else "no", total, came[0], stands, came[1])


def line(cell: Cell) -> str:
    return "  ".join(row(cell))


def kept(cell: Cell) -> bool:
    """It moved, and the guest stood for no longer than was allowed, with a fifth and the switchover's own part on top.

    QEMU switches over when what is left fits by its own estimate of the bandwidth, which is of a tenth of a second. On a busy
    machine that jumps, so that a guest which does not converge is moved all the same, some time, and stands for longer than was
    allowed.
    """
    return cell.moved and cell.client_ms <= 1.2 * cell.limit_ms + switchover_ms(units.parse_rate(cell.link) * GOODPUT)[1]


def came_true(cell: Cell, windows: int) -> bool:
    """Of a guest that moved: total, standstill and bytes lie within the ranges of a forecast that is made of so many windows."""
    seen = seen_of(cell)
    expected = forecast(replace(seen, windows=seen.windows[:windows]), Limits(max_downtime_ms=cell.limit_ms))
    assert expected is not None
    prospect = expected.precopy
    came = ((prospect.total_ms, cell.total_ms), (prospect.downtime_ms, cell.client_ms), (prospect.sent_bytes, cell.sent_bytes))
    return all(told is not None and told.low <= value <= told.high for told, value in came)


# The ranges in a forecast's sentence, as `segue.core.forecast.sentence` writes them.
_TOLD = re.compile(r"pre-copy: [^(]*\(([^)]*)\) in all, standing still for [^(]*\(([^)]*)\)")


def told_true(cell: Cell) -> bool | None:
    """The same of total and standstill in what the migration told first itself; ``None`` where it told no ranges."""
    if (told := _TOLD.search(cell.told)) is None:
        return None
    ranges = [[spoken_ms(end) for end in words.split(" to ")] for words in told.groups()]
    return all(low <= value <= high for (low, high), value in zip(ranges, (cell.total_ms, cell.client_ms), strict=True))


def verdict(cells: Sequence[Cell]) -> list[str]:
    """How often it was right, and how far off."""
    calls = []
    totals: list[float] = []
    stands: list[float] = []
    within: list[bool] = []
    for cell in cells:
        expected = forecast(seen_of(cell), Limits(max_downtime_ms=cell.limit_ms))
        assert expected is not None
        prospect = expected.precopy
        calls.append((prospect.converges is cell.moved, prospect.converges is kept(cell), prospect.sure))
        if cell.moved and prospect.total_ms and prospect.downtime_ms:
            totals.append(abs(prospect.total_ms.likely - cell.total_ms) / cell.total_ms)
            stands.append(abs(prospect.downtime_ms.likely - cell.client_ms) / cell.client_ms)
            within.append(prospect.total_ms.low <= cell.total_ms <= prospect.total_ms.high)
    count, sure = len(calls), [call for call in calls if call[2]]
    moved = [cell for cell in cells if cell.moved]
    told = [true for true in map(told_true, moved) if true is not None]
    most = max(len(cell.seen["windows"]) for cell in cells)
    covered = [f"{sum(came_true(cell, count) for cell in moved)} by {count} of its windows" for count in range(1, 1 + most)]
    ninth = sorted(totals)[max(0, round(len(totals) * 0.9) - 1)] if totals else 0.0
    return [
        f"{count} cells, one run each; {os.cpu_count()} cores, {platform.system()} {platform.release()}, software emulation",
        f"converges or not, by whether it moved at all: right in {sum(moved for moved, _, _ in calls)} of {count}; "
        f"of {len(sure)} that were said for sure, in {sum(moved for moved, _, _ in sure)}",
        f"converges or not, by whether it moved within the standstill that was allowed: right in "
        f"{sum(well for _, well, _ in calls)} of {count}; of {len(sure)} said for sure, in {sum(well for _, well, _ in sure)}",
        f"total: median off by {statistics.median(totals):.0%}, 90th percentile {ninth:.0%}; "
        f"within the range in {sum(within)} of {len(within)}",
        f"standstill: median off by {statistics.median(stands):.0%} of what a client saw",
        f"total, standstill and bytes all within their ranges, of {len(moved)} that moved: {', '.join(covered)}",
        f"total and standstill within what `segue migrate` told first: in {sum(told)} of {len(told)}",
    ]


def show(cells: Sequence[Cell], markdown: Path | None) -> None:
    """The table and the verdict, printed and where it was asked for written."""
    rows = [row(cell) for cell in cells]
    widths = [max(len(one[column]) for one in [HEADINGS, *rows]) for column in range(len(HEADINGS))]
    for one in [HEADINGS, *rows]:
        print("  ".join(text.ljust(width) for text, width in zip(one, widths, strict=True)).rstrip())
    for words in verdict(cells):
        print(words)
    if markdown is not None:
        table = [HEADINGS, tuple("---" for _ in HEADINGS), *rows]
        body = "\n".join(f"| {' | '.join(one)} |" for one in table)
        head = markdown.read_text(encoding="utf-8").partition(BELOW)[0] if markdown.exists() else ""
        said = "\n".join(f"- {words}" for words in verdict(cells))
        markdown.write_text(f"{head}{BELOW}\n\n{said}\n\n{body}\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help=f"of {', '.join(WORKLOADS)}")
    parser.add_argument("--links", default=",".join(LINKS), help=f"default {','.join(LINKS)}")
    parser.add_argument("--limits", default=",".join(map(str, LIMITS_MS)), help="of standstill, in ms")
    parser.add_argument("--into", type=Path, default=RESULTS, help="where results are kept")
    parser.add_argument("--show", action="store_true", help="play nothing, show what there is")
    parser.add_argument("--markdown", type=Path, help="write the table there too; what stands above it stays")
    words = parser.parse_args()
    if not words.show:
        limits = [int(one) for one in words.limits.split(",")]
        asyncio.run(measure(words.workloads.split(","), words.links.split(","), limits, words.into))
    if cells := read(words.into):
        show(cells, words.markdown)


if __name__ == "__main__":
    main()
