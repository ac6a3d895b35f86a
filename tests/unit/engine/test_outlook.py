"""Forecasts that are corrected on the way: when there is news, and what it says."""

from __future__ import annotations

from typing import Any

from segue.core.forecast import Means
from segue.core.model import JobStatus, Limits, Progress
from segue.engine.outlook import Foresight
from segue.units import MIB

NOBODY: Any = None
"""Nothing is measured before: nobody is asked."""


def test_that_iterations_are_stuck_is_news_also_amid_one() -> None:
    """Over 1 Gbit/s an iteration stalls 0.8 s before that has lasted for a second, and post-copy must not begin unannounced."""
    foresight, limits = Foresight(NOBODY, NOBODY, NOBODY), Limits(postcopy=True)

    def look(ms: int, iteration: int, stuck_bytes: int | None = None) -> Means | None:
        sample = Progress(
            elapsed_ms=ms,
            status=JobStatus.ACTIVE,
            iteration=iteration,
            throughput_bps=114 * MIB,
            dirty_bps=48 * MIB if iteration > 1 else 0,
            sent_bytes=114 * MIB * ms // 1000,
            ram_remaining_bytes=90 * MIB,
        )
        said = foresight.take(sample, limits, stuck_bytes)
        return said.choice if said is not None else None

    for tenth in range(20):
        look(100 * tenth, 1)
    assert look(2000, 2) is Means.PRECOPY
    assert look(2100, 2) is None
    assert look(2200, 2, 90 * MIB) is Means.POSTCOPY
    assert look(2300, 2, 90 * MIB) is None


def test_what_qemu_counts_of_the_first_iteration_is_news_when_it_has_counted_it() -> None:
    """It numbers the second iteration before it has looked, which takes a quarter of a second of a busy guest under emulation."""
    foresight = Foresight(NOBODY, NOBODY, NOBODY)
    told = []
    looks = [*((100 * tenth, 1, 0) for tenth in range(20)), (2000, 2, 0), (2300, 2, 60 * MIB), (2400, 2, 60 * MIB)]
    for ms, iteration, dirty in looks:
        sample = Progress(
            elapsed_ms=ms,
            status=JobStatus.ACTIVE,
            iteration=iteration,
            throughput_bps=34 * MIB,
            dirty_bps=dirty,
            sent_bytes=34 * MIB * ms // 1000,
        )
        told.append(foresight.take(sample, Limits()))
    *_, before, counted, after = told
    assert before is None
    assert counted is not None
    assert [(window.ms, window.dirtied_bytes) for window in counted.seen.windows] == [(2000, 120 * MIB)]
    assert after is None
