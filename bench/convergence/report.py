"""What the runs come to: medians with their spread, against the physical bound, and who won or lost where."""

from __future__ import annotations

import os
import platform
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from convergence.grid import CONTENDERS, PROMISED_MS, Cell
from convergence.play import Run
from segue import units

ANNOUNCED: Final = 1.2
"""By so much a client may see more than was promised: the network's part, and a late answer."""
NEAR: Final = 1.05
"""So much slower than the best peer is not slower."""
POSTCOPY: Final = frozenset({"segue-postcopy", "virsh-postcopy", "ovirt-postcopy", "ganeti-postcopy"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Of several runs."""

    median: float
    least: float
    most: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One contender in one cell. Figures are of the runs in which the guest moved; ``None`` where none did, or nobody told.

    Where none did, what a client saw and what was announced are of those that gave up: they must not surprise it either.
    """

    contender: str
    runs: int
    ends: Mapping[str, int]
    seconds: Spread | None
    factor: float | None
    sent_bytes: float | None
    hypervisor_ms: float | None
    guest_ms: float | None
    client_ms: Spread | None
    slowed_percent: float | None
    announced_ms: float | None
    declined_s: float | None
    """How soon it gave up, where it did."""
    unclean: int

    @property
    def converged(self) -> bool:
        """In every run."""
        return self.ends.get("moved") == self.runs

    @property
    def kept(self) -> bool:
        """It moved in every run, and its clients saw no more than was promised."""
        return self.converged and self.client_ms is not None and self.client_ms.median <= PROMISED_MS * ANNOUNCED


@dataclass(frozen=True, slots=True, kw_only=True)
class CellResult:
    """One cell."""

    cell: Cell
    memory_bytes: int
    bound_s: float | None
    rows: tuple[Row, ...]

    def row(self, contender: str) -> Row | None:
        """That contender's."""
        return next((row for row in self.rows if row.contender == contender), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """All of it."""

    cells: tuple[CellResult, ...]
    cut_s: float
    machine: str
    loads: Spread | None


def judge(runs: Sequence[Run], wanted: Mapping[str, Cell], *, cut_s: float) -> Judged:
    """Put the runs together, cell by cell."""
    results = []
    for name, cell in wanted.items():
        if here := [run for run in runs if run.cell == name]:
            memory_bytes = int(statistics.median(run.memory_bytes for run in here))
            bound_s = memory_bytes / cell.goodput_bps if cell.goodput_bps else None
            by_whom = [(who, [run for run in here if run.contender == who]) for who in CONTENDERS]
            rows = tuple(_row(who, theirs, bound_s) for who, theirs in by_whom if theirs)
            results.append(CellResult(cell=cell, memory_bytes=memory_bytes, bound_s=bound_s, rows=rows))
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    machine = f"{os.cpu_count()} cores, {platform.machine()}, software emulation (TCG) where no guest boots under KVM, {system}"
    return Judged(cells=tuple(results), cut_s=cut_s, machine=machine, loads=_spread([run.load for run in runs]))


def _row(contender: str, runs: Sequence[Run], bound_s: float | None) -> Row:
    moved = [run for run in runs if run.end == "moved"]
    with_clients = moved or [run for run in runs if run.end == "gave up"]
    seconds = _spread([run.seconds for run in moved])
    slowed = [
        100 * (1 - run.loop_during_bps / run.loop_before_bps)
        for run in moved
        if run.loop_before_bps and run.loop_during_bps is not None
    ]
    return Row(
        contender=contender,
        runs=len(runs),
        ends=dict(Counter(run.end for run in runs)),
        seconds=seconds,
        factor=seconds.median / bound_s if seconds and bound_s else None,
        sent_bytes=_median([run.sent_bytes for run in moved]),
        hypervisor_ms=_median([run.hypervisor_ms for run in moved]),
        guest_ms=_median([run.guest_ms for run in moved]),
        client_ms=_spread([float(run.client_ms) for run in with_clients]),
        slowed_percent=_median(slowed),
        announced_ms=_median([run.announced_ms for run in with_clients]),
        declined_s=_median([run.seconds for run in runs if run.end == "gave up"]),
        unclean=sum(not run.clean for run in runs),
    )


def _spread(values: Sequence[float]) -> Spread | None:
    return Spread(median=statistics.median(values), least=min(values), most=max(values)) if values else None


def _median(values: Sequence[float | None]) -> float | None:
    told = [value for value in values if value is not None]
    return statistics.median(told) if told else None


def verdicts(result: CellResult) -> list[str]:
    """Where Segue stands in a cell: beside every peer, and without post-copy beside those without it. One sentence each."""
    said = []
    for ours, field in (("segue", frozenset(CONTENDERS) - POSTCOPY), ("segue-postcopy", frozenset(CONTENDERS))):
        mine = result.row(ours)
        peers = [row for row in result.rows if CONTENDERS[row.contender].is_peer and row.contender in field]
        if mine is None or not peers:
            continue
        ladders = [row for row in peers if CONTENDERS[row.contender].tool == "segue"]
        said.append(f"{ours}: {_verdict(mine, _quickest(peers), _quickest(ladders))}")
    return said


def _quickest(rows: Sequence[Row]) -> Row | None:
    """Of those that keep the promise."""
    kept = [row for row in rows if row.kept and row.seconds]
    return min(kept, key=lambda row: row.seconds.median if row.seconds else 0.0, default=None)


def _verdict(mine: Row, best: Row | None, ladder: Row | None) -> str:
    if best is None or best.seconds is None:
        return (
            "no peer keeps the promise; it does" if mine.kept else f"no peer keeps the promise; it {_ended(mine)}{_waited(mine)}"
        )
    if not mine.converged or mine.seconds is None:
        return f"LOST: {best.contender} keeps the promise, it {_ended(mine)}"
    ratio = mine.seconds.median / best.seconds.median
    if not mine.kept:
        return f"LOST: {best.contender} keeps the promise{_waited(mine)}"
    word = "won" if ratio <= 1 else "even" if ratio <= NEAR else "LOST"
    beside = ""
    if word == "LOST" and ladder is not None and ladder is not best and ladder.seconds is not None:
        times = mine.seconds.median / ladder.seconds.median
        beside = f"; {times:.2f} times {ladder.contender}, the best ladder that starts as it does"
    return f"{word}: {ratio:.2f} times {best.contender}, the best that keeps the promise{beside}"


def _waited(row: Row) -> str:
    """How much longer than was promised a client waited, and whether that had been announced."""
    if row.kept or row.client_ms is None or row.client_ms.median <= PROMISED_MS * ANNOUNCED:
        return ""
    announced = f"announced were {row.announced_ms:.0f}" if row.announced_ms else "UNANNOUNCED"
    return f"; a client waited for {row.client_ms.median:.0f} ms, {announced}"


def _ended(row: Row) -> str:
    ended = ", ".join(f"{end} {count} of {row.runs}" for end, count in sorted(row.ends.items()))
    return f"{ended}, within {row.declined_s:.1f} s" if row.declined_s is not None else ended


HEADINGS: Final = (
    "CONTENDER",
    "CONVERGED",
    "SECONDS (LEAST-MOST)",
    "BOUNDS",
    "SENT MiB",
    "DOWNTIME: HYPERVISOR",
    "GUEST",
    "CLIENT (LEAST-MOST)",
    "SLOWED",
)


def _cells(row: Row) -> tuple[str, ...]:
    ended = "yes" if row.converged else _ended(row)
    return (
        row.contender,
        f"{ended}{', HARMED' if row.unclean else ''}",
        f"{row.seconds.median:.2f} ({row.seconds.least:.2f}-{row.seconds.most:.2f})" if row.seconds else "-",
        f"{row.factor:.2f}" if row.factor is not None else "-",
        f"{row.sent_bytes / units.MIB:.0f}" if row.sent_bytes is not None else "-",
        _number(row.hypervisor_ms, "ms"),
        _number(row.guest_ms, "ms"),
        f"{row.client_ms.median:.0f} ({row.client_ms.least:.0f}-{row.client_ms.most:.0f}) ms" if row.client_ms else "-",
        _number(row.slowed_percent, "%"),
    )


def _number(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.0f} {unit}"


def _heading(result: CellResult) -> str:
    bound = f"bound M/B {result.bound_s:.2f} s" if result.bound_s else "no bound: the link is as fast as the machine"
    return f"{result.cell.workload}, {result.cell.link}: {units.format_bytes(result.memory_bytes)} to send, {bound}"


def _preface(judged: Judged) -> list[str]:
    runs = sum(row.runs for result in judged.cells for row in result.rows)
    loads = judged.loads
    noisy = f"; the machine's load was {loads.median:.1f} ({loads.least:.1f} to {loads.most:.1f})" if loads else ""
    return [
        f"{judged.machine}; {runs} runs{noisy}.",
        f"Promised: {PROMISED_MS} ms. Interrupted after {judged.cut_s:g} s. Medians of the runs that moved, least and "
        "most beside them; BOUNDS: how many times what the link allows (memory that holds anything, by what the link carries).",
    ]


def text(judged: Judged) -> str:
    """The tables for a terminal."""
    lines = _preface(judged)
    for result in judged.cells:
        rows = [HEADINGS, *(_cells(row) for row in result.rows)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
        lines += ["", f"{result.cell.name}: {_heading(result)}"]
        lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines += [f"  {verdict}" for verdict in verdicts(result)]
    return "\n".join(lines)


def markdown(judged: Judged, *, picture: Path | None) -> str:
    """The same as a page's tables; what stands around them is written by people."""
    lines = [*_preface(judged), ""]
    if picture is not None:
        lines += [f"![Time to move, as a multiple of the physical bound, per cell and contender]({picture.name})", ""]
    lines += ["| cell | Segue | Segue, post-copy allowed |", "|---|---|---|"]
    for result in judged.cells:
        said = {verdict.partition(": ")[0]: verdict.partition(": ")[2] for verdict in verdicts(result)}
        lines.append(f"| {result.cell.name} | {said.get('segue', '-')} | {said.get('segue-postcopy', '-')} |")
    for result in judged.cells:
        lines += ["", f"### {result.cell.name}", "", f"{_heading(result)}.", ""]
        lines += [f"| {' | '.join(heading.lower() for heading in HEADINGS)} |", "|---" * len(HEADINGS) + "|"]
        lines += [f"| {' | '.join(_cells(row))} |" for row in result.rows]
    return "\n".join(lines) + "\n"


def as_object(judged: Judged) -> dict[str, Any]:
    """For a program."""
    return {
        "machine": judged.machine,
        "cut_s": judged.cut_s,
        "promised_ms": PROMISED_MS,
        "cells": [
            {
                "cell": result.cell.name,
                "workload": asdict(result.cell.workload),
                "link": result.cell.link,
                "memory_bytes": result.memory_bytes,
                "bound_s": result.bound_s,
                "contenders": [{**asdict(row), "converged": row.converged, "kept": row.kept} for row in result.rows],
                "verdicts": verdicts(result),
            }
            for result in judged.cells
        ],
    }
