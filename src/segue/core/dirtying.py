"""How a guest dirties its memory: D(T), the bytes that it changes in T, from what it was seen to change in a few windows.

D is not known but for those, and what is known has noise. It is concave (what was dirtied already is not dirtied again), which
bounds it between and beyond them: there is a lowest, a likely and a highest course, and every number that is made from them has
the range that these give.

What may live here: pure arithmetic on windows. What a migration makes of a course is in `forecast`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from segue import units
from segue.core.measured import BUSY_PERCENT, LEVEL_SHARE, Window, kept_pace

TICK_MS: Final = 50
"""QEMU looks at what is left after each burst of at most so long (migration/ram.c, MAX_WAIT)."""
SLOWEST_PERCENT: Final = 60
"""A guest may be this slow while it is sent: where CPUs are short, sending takes them from it. (160 MiB written at 150 MiB/s
converged over 114 MiB/s on two busy cores.)"""
RAMP_SHARE: Final = 0.25
"""A working set that is dirtied whole within the shortest window was, likely, so within this share of it, as far as nobody knows
what keeps the guest busy."""
FLAT_OUT_BPS: Final = 2 * units.GIB
"""So fast, likely, is dirtied what is written as fast as a CPU can: 2 us a page, for the fault that the first write to it costs
while it is watched. The writing itself is nothing beside that: the lab's guest goes through 32 MiB, a word a page, in 0.3 ms."""
FIT_WINDOWS: Final = 3
FIT_STEPS: Final = 40
"""A working set is fitted to so many windows or more, on so fine a grid of times."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One course of D(T): straight between points that are in order of time, level or rising after the last.

    Attributes:
        points: seconds and bytes; (0, 0) is not among them.
        after_bps: how it goes on.
        most_bytes: it never is more.
        needs_percent: what the guest needs for it of one CPU's time.
    """

    points: tuple[tuple[float, float], ...]
    after_bps: float
    most_bytes: float
    needs_percent: int = 100

    def dirtied(self, seconds: float) -> float:
        """D(T)."""
        before = (0.0, 0.0)
        for point in self.points:
            if seconds <= point[0]:
                share = (seconds - before[0]) / (point[0] - before[0])
                return min(self.most_bytes, before[1] + share * (point[1] - before[1]))
            before = point
        more = self.after_bps * (seconds - before[0]) if self.after_bps else 0.0
        return min(self.most_bytes, before[1] + more)

    def slowed(self, percent: int) -> Curve:
        """The same of a guest whose CPUs lose so much of their time."""
        share = kept_pace(percent, self.needs_percent)
        if share == 1:
            return self
        return replace(self, points=tuple((at / share, bytes_) for at, bytes_ in self.points), after_bps=self.after_bps * share)


def curves(windows: Sequence[Window], most_bytes: float) -> tuple[Curve, Curve, Curve]:
    """The lowest, the likely and the highest course that go through what was measured.

    Args:
        windows: at least one.
        most_bytes: the guest has no more memory than this.
    """
    longest: dict[int, Window] = {}
    for window in sorted(windows, key=lambda one: one.ms):
        longest[window.ms] = window
    courses = []
    for sign in (-1, 0, 1):
        points = [(one.ms / 1000, max(0.0, one.dirtied_bytes + sign * one.error_bytes)) for one in longest.values()]
        courses.append(_concave(points))
    low, likely, high = courses
    fitted = _whole(list(longest.values())) or _fitted(list(longest.values()))
    level = _ramp(likely, _ramp_share(windows)) if _is_level(likely) else []
    return (
        Curve(tuple(low), 0.0, most_bytes).slowed(100 - SLOWEST_PERCENT),
        Curve((fitted,), 0.0, most_bytes) if fitted is not None else Curve((*level, *likely), _slope_at_end(likely), most_bytes),
        # Under migration guests have been seen to dirty twice as much as before: what is not bounded by a set may double.
        Curve((*_ramp(high, 0.02), *high), 2 * _slope_at_end(high), most_bytes),
    )


def _concave(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """What noise has made fall, or rise more steeply than before, brought back to a course that D can take."""
    kept: list[tuple[float, float]] = []
    steepest, before = math.inf, (0.0, 0.0)
    for at, bytes_ in points:
        slope = max(0.0, min((bytes_ - before[1]) / (at - before[0]), steepest))
        before = (at, before[1] + slope * (at - before[0]))
        steepest = slope
        kept.append(before)
    return kept


def _slope_at_end(points: list[tuple[float, float]]) -> float:
    (t0, v0), (t1, v1) = [(0.0, 0.0), *points][-2:]
    return max(0.0, (v1 - v0) / (t1 - t0))


def _fitted(windows: list[Window]) -> tuple[float, float] | None:
    """The one working set, and the time in which it is dirtied whole, that all windows fit to within their errors.

    It takes the noise out of short windows. ``None`` where no such set does, or where it is dirtied whole within the first
    window, so that nobody saw how soon, or not within the last, so that nobody saw how large it is.
    """
    best: tuple[float, tuple[float, float]] | None = None
    if len(windows) < FIT_WINDOWS or not all(window.error_bytes for window in windows):
        return None
    first, last = windows[0].ms / 1000, windows[-1].ms / 1000
    for step in range(1, FIT_STEPS):
        whole = first + (last - first) * step / FIT_STEPS
        shapes = [min(1.0, window.ms / 1000 / whole) for window in windows]
        weights = [window.error_bytes**-2.0 for window in windows]
        square = sum(weight * shape * shape for weight, shape in zip(weights, shapes, strict=True))
        dot = sum(weight * shape * window.dirtied_bytes for weight, shape, window in zip(weights, shapes, windows, strict=True))
        size = dot / square
        off = max(
            abs(size * shape - window.dirtied_bytes) / window.error_bytes for shape, window in zip(shapes, windows, strict=True)
        )
        if best is None or off < best[0]:
            best = (off, (whole, size))
    return best[1] if best is not None and best[0] <= 1 and not _is_level_window(windows) else None


def _is_level_window(windows: list[Window]) -> bool:
    """The first window may have seen the whole set, or the last one not yet."""
    first = windows[0].dirtied_bytes + windows[0].error_bytes >= LEVEL_SHARE * windows[1].dirtied_bytes
    return first or windows[-1].dirtied_bytes > 2 * LEVEL_SHARE * windows[-2].dirtied_bytes


def _whole(windows: list[Window]) -> tuple[float, float] | None:
    """The set, where all windows may have seen it whole, and in which time it is likely dirtied; ``None`` where they did not."""
    if len(windows) < FIT_WINDOWS or not all(window.error_bytes for window in windows):
        return None
    weights = [window.error_bytes**-2.0 for window in windows]
    size = sum(weight * window.dirtied_bytes for weight, window in zip(weights, windows, strict=True)) / sum(weights)
    if any(abs(size - window.dirtied_bytes) > window.error_bytes for window in windows):
        return None
    return windows[0].ms / 1000 * _ramp_share(windows), size


def _ramp_share(windows: Sequence[Window]) -> float:
    """In which share of the shortest window the set was dirtied that it saw whole."""
    first = min(windows, key=lambda one: one.ms)
    if first.busy_percent is None:
        return RAMP_SHARE
    if first.busy_percent < BUSY_PERCENT:
        return 1.0
    return min(RAMP_SHARE, max(0.001, first.dirtied_bytes / FLAT_OUT_BPS / (first.ms / 1000)))


def _is_level(points: list[tuple[float, float]]) -> bool:
    """The set was dirtied whole within the first window, as far as the second one tells."""
    return len(points) > 1 and points[0][1] >= LEVEL_SHARE * points[1][1]


def _ramp(points: list[tuple[float, float]], share: float) -> list[tuple[float, float]]:
    """A point before the first window, where D rose more steeply than its chord as far as concavity lets it.

    The line through the first two windows, drawn back, is the most that D can have been; where it stays level the set was dirtied
    whole within the first window, nobody saw how soon.
    """
    (t1, v1) = points[0]
    after = (points[1][1] - v1) / (points[1][0] - t1) if len(points) > 1 else v1 / t1
    at = t1 * share
    most = v1 - after * (t1 - at)
    return [(at, max(v1 * share, min(v1, most)))]


def fixed_point(curve: Curve, touched: float, bps: float) -> float:
    """V*: what an iteration leaves in the end, however often it is repeated."""
    left = touched
    for _ in range(500):
        now = curve.dirtied(left / bps)
        if now >= left * 0.999:
            return now
        left = now
        if left < bps * TICK_MS / 1000 / 20:
            return 0.0
    return left
