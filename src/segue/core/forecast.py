"""What will happen when a guest is moved: will pre-copy converge, how long will it take, how long will the guest stand still.

The model is QEMU's own loop (migration/migration.c, migration_iteration_run). With M bytes of memory in use, a path that
carries B bytes a second, and D(T) the bytes that the guest dirties in T: the first iteration sends M, each next one what was
dirtied while the one before was sent, V' = D(V/B). QEMU looks at the dirty pages anew as soon as what is left fits into the
allowed downtime L, so about L x B is left over each time; when what is left still fits then, it stops the guest and sends it.
So it converges when the fixed point V* = D(V*/B) fits, the smallest limit that works is L* = V*/B, and a guest that hardly
writes stands still for nearly L.

D is not known but for a few windows, and what is known of those has noise. It is concave (what was dirtied already is not dirtied
again), which bounds it between and beyond them: `Curve` has a lowest, a likely and a highest course, and every number that comes
out has the range that these give.

What may live here: pure arithmetic on measurements. Who measures them is a driver (`segue.core.ports.Hypervisor`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from segue import units
from segue.core.model import Limits, Progress

WINDOWS_S: Final = (1, 2, 4)
"""Windows that tell a rate from a working set: one alone cannot, as it shows min(working set, rate
x T). QEMU 7.2 knows only whole seconds."""
GOODPUT: Final = 0.956
"""Of a link's rate, what is left for the guest's memory at an MTU of 1500: Ethernet's, IP's and TCP's own bytes taken off."""
TICK_MS: Final = 50
"""QEMU looks at what is left after each burst of at most so long (migration/ram.c, MAX_WAIT)."""
PATIENCE: Final = 20
"""A pre-copy that has not ended after so many times M/B (and ten seconds) does not end: V hardly falls."""
SPREAD_OF_SWITCHOVER_MS: Final = (30, 110, 330)
"""Beside what is left, the guest stands for its devices' state, to be resumed and to be heard of again: lowest, likely, highest
as a client saw it under software emulation."""
POSTCOPY_STANDSTILL_MS: Final = (150, 350, 600)
"""The same for going over to post-copy, where hypervisors themselves report 1 to 6 ms."""
MOST_THROTTLE: Final = 99
WORTH_THROTTLE: Final = 90
"""Beyond that auto-converge does not win: the guest hardly runs, and QEMU gets there by steps of many seconds."""
SMALLEST_LIMIT_MS: Final = 2 * TICK_MS
"""With less than that QEMU may not find its moment: it looks every tick."""
SLOWEST_PERCENT: Final = 60
"""A guest may be this slow while it is sent: where CPUs are short, sending takes them from it. (160 MiB written at 150 MiB/s
converged over 114 MiB/s on two busy cores.)"""
LEVEL_SHARE: Final = 0.9
"""Of what a window twice as long shows: then the set was dirtied whole, but for the noise of sampling."""
WORTH_TIME: Final = 1.02
"""A shorter standstill is worth so many times the time."""
RAMP_SHARE: Final = 0.25
"""A working set that is dirtied whole within the shortest window was, likely, so within this share of
it: who writes again and again mostly writes as fast as it can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A number that is not known exactly: three values of one unit."""

    low: int
    likely: int
    high: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Range:
        """The range of three values in any order of size; the second one is the likely one."""
        first, likely, last = values
        return cls(low=round(min(first, likely, last)), likely=round(likely), high=round(max(first, likely, last)))

    def shown(self, unit: Callable[[int], str]) -> str:
        """For people."""
        if unit(self.low) == unit(self.high):
            return unit(self.likely)
        return f"{unit(self.likely)} ({unit(self.low)} to {unit(self.high)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What a guest dirtied in a window of time.

    Attributes:
        ms: how long it was.
        dirtied_bytes: of memory, each page counted once: D(T).
        error_bytes: that may be off by so much (two standard deviations of the sampling).
    """

    ms: int
    dirtied_bytes: int
    error_bytes: int = 0


def sampled(mib_per_second: object, *, seconds: int, per_gib: int, memory_bytes: int | None) -> Window:
    """A window from what QEMU says after sampling pages, with the error of a sample (binomial, two deviations) and of rounding.

    Args:
        mib_per_second: its answer, whole MiB/s; what is no such number counts as nothing dirtied.
        seconds: how long the window was.
        per_gib: so many pages of each GiB were looked at.
        memory_bytes: of the guest; ``None`` where it is not known.
    """
    rate = mib_per_second if isinstance(mib_per_second, int) and mib_per_second >= 0 else 0
    dirty = round((rate + 0.5) * units.MIB * seconds) if rate else 0  # it cuts off what is less than 1 MiB/s
    hits = dirty * per_gib / units.GIB
    share = min(1.0, dirty / memory_bytes) if memory_bytes else 0.0
    error = 2 * dirty * math.sqrt((1 - share) / hits) if hits else 0.0
    return Window(ms=seconds * 1000, dirtied_bytes=dirty, error_bytes=round(error + units.MIB * seconds / 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Touched:
    """How much of a guest's memory is in use, so that it has to be sent.

    Attributes:
        bytes: low, likely, high.
        how: where it comes from, in words.
        of_bytes: the guest's memory; 0 where it is not known.
    """

    bytes: Range
    how: str
    of_bytes: int = 0

    @property
    def dense(self) -> float:
        """The share of the guest's memory that is in use."""
        return min(1.0, max(0.05, self.bytes.likely / self.of_bytes)) if self.of_bytes else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """What the way between two hosts carries.

    Attributes:
        bps: goodput, in bytes of guest memory per second.
        how: where it comes from, in words.
    """

    bps: Range
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """All that was measured. What is ``None`` or empty was not.

    Attributes:
        touched: memory in use.
        windows: what was dirtied, by length of the window.
        path: what the link carries.
        own_ms: what a migration takes beside sending: both hosts are looked at, the destination is started, the end is proven.
    """

    touched: Touched | None = None
    windows: tuple[Window, ...] = ()
    path: Path | None = None
    own_ms: Range = field(default_factory=lambda: Range(low=400, likely=1200, high=2500))


@dataclass(frozen=True, slots=True, kw_only=True)
class UnderWay:
    """Where a migration is that has begun, so that its forecast can be corrected.

    Attributes:
        elapsed_ms: since it began.
        sent_bytes: so far.
        left_bytes: in the iteration that is being sent.
        first: that is the one that sends all memory.
    """

    elapsed_ms: int
    sent_bytes: int
    left_bytes: int
    first: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What a migration that is under way shows of the guest and of the path.

    Attributes:
        began_ms: when memory began to flow, by its samples' clock; ``None`` before it did.
        rates: what its newest samples got, in bytes per second.
        iteration: the last one seen.
        first: what was dirtied while all memory was sent: a window of that length; ``None`` before it was.
        memory_bytes: what was sent in that iteration; 0 before it was.
    """

    began_ms: int | None = None
    rates: tuple[int, ...] = ()
    iteration: int = 0
    first: Window | None = None
    memory_bytes: int = 0

    def then(self, sample: Progress) -> Live:
        """With one more sample of pre-copy."""
        if self.began_ms is None:
            return replace(self, began_ms=sample.elapsed_ms, iteration=sample.iteration)
        rates = (*self.rates, sample.throughput_bps)[-RATES_KEPT:] if sample.throughput_bps else self.rates
        first, memory = self.first, self.memory_bytes
        if self.iteration == 1 < sample.iteration and sample.dirty_bps:
            ms = sample.elapsed_ms - self.began_ms
            dirtied = sample.dirty_bps * ms // 1000
            first, memory = Window(ms=ms, dirtied_bytes=dirtied, error_bytes=dirtied // 10), sample.sent_bytes
        return replace(self, rates=rates, iteration=sample.iteration, first=first, memory_bytes=memory)

    def correct(self, seen: Seen) -> Seen:
        """What was measured before, with what is seen now in its place."""
        path, touched, windows = seen.path, seen.touched, seen.windows
        if len(self.rates) >= RATES_NEEDED:
            likely = round(statistics.median(self.rates))
            path = Path(bps=Range(low=likely * 96 // 100, likely=likely, high=likely * 104 // 100), how="seen now")
        if self.first is not None:
            windows = (*(one for one in windows if one.ms < self.first.ms), self.first)
            low, high = self.memory_bytes * 95 // 100, self.memory_bytes
            of_bytes = touched.of_bytes if touched is not None else 0
            touched = Touched(bytes=Range(low=low, likely=self.memory_bytes, high=high), how="sent now", of_bytes=of_bytes)
        return replace(seen, path=path, touched=touched, windows=windows)


RATES_KEPT: Final = 25
RATES_NEEDED: Final = 4


class Means(StrEnum):
    """A way to move a guest."""

    PRECOPY = "pre-copy"
    THROTTLED = "pre-copy with throttling"
    POSTCOPY = "post-copy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """What one way would come to.

    Attributes:
        converges: it ends, likely; ``sure`` says whether it could also be otherwise.
        sure: the lowest and the highest course say the same.
        total_ms, downtime_ms, sent_bytes: ``None`` where it never ends.
        throttle_percent: by how much the guest is slowed.
        broken: the promises that it does not keep, in words; empty when it keeps all.
        hopeless: so it is at the best, too.
    """

    means: Means
    converges: bool
    sure: bool
    total_ms: Range | None = None
    downtime_ms: Range | None = None
    sent_bytes: Range | None = None
    throttle_percent: int = 0
    broken: tuple[str, ...] = ()
    hopeless: bool = False

    @property
    def keeps(self) -> bool:
        """It ends, and keeps every promise."""
        return self.converges and not self.broken


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What to expect.

    Attributes:
        seen: what it is made from.
        needed_downtime_ms: L*, the smallest downtime limit with which pre-copy converges.
        precopy, throttled, postcopy: what each way would come to.
        choice: the way that Segue would take; ``None`` where none that is allowed keeps what was promised.
        reason: of the choice, one sentence.
        confidence_percent: how often what happens lies within the ranges.
    """

    seen: Seen
    needed_downtime_ms: Range
    precopy: Prospect
    throttled: Prospect
    postcopy: Prospect
    choice: Means | None
    reason: str
    confidence_percent: int

    @property
    def chosen(self) -> Prospect | None:
        """The way that it would take."""
        return {Means.PRECOPY: self.precopy, Means.THROTTLED: self.throttled, Means.POSTCOPY: self.postcopy, None: None}[
            self.choice
        ]


# --- how the guest dirties memory


@dataclass(frozen=True, slots=True)
class Curve:
    """One course of D(T): straight between points that are in order of time, level or rising after the last.

    Attributes:
        points: seconds and bytes; (0, 0) is not among them.
        after_bps: how it goes on.
        most_bytes: it never is more.
    """

    points: tuple[tuple[float, float], ...]
    after_bps: float
    most_bytes: float

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
        if not percent:
            return self
        share = (100 - percent) / 100
        return Curve(tuple((at / share, bytes_) for at, bytes_ in self.points), self.after_bps * share, self.most_bytes)


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
    return (
        Curve(tuple(low), 0.0, most_bytes).slowed(100 - SLOWEST_PERCENT),
        Curve((fitted,), 0.0, most_bytes)
        if fitted is not None
        else Curve((*(_ramp(likely, RAMP_SHARE) if _is_level(likely) else []), *likely), _slope_at_end(likely), most_bytes),
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


FIT_WINDOWS: Final = 3
FIT_STEPS: Final = 40


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
    return windows[0].ms / 1000 * RAMP_SHARE, size


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


# --- what pre-copy comes to


@dataclass(frozen=True, slots=True)
class Run:
    """One pre-copy, as the model plays it: milliseconds, bytes. Not ended: these are of the moment at which it was given up."""

    ended: bool
    sending_ms: float
    standing_ms: float
    sent_bytes: float


def play(curve: Curve, left: float, bps: float, limit_ms: float, *, first: bool = True, dense: float = 1.0) -> Run:
    """Play QEMU's loop.

    Args:
        curve: how the guest dirties.
        left: bytes that are to be sent in the iteration that begins.
        bps: what the path carries.
        limit_ms: the downtime that is allowed.
        first: that iteration sends all memory, so that what it leaves over is not a part of the working set.
        dense: of what that iteration leaves over, the share that has to be sent: QEMU counts pages of zeros too.
    """
    fits = limit_ms / 1000 * bps
    over = max(0.0, fits - bps * TICK_MS / 2000)  # found at the next look, half a tick later on average
    sent, spent, patience = 0.0, 0.0, PATIENCE * left / bps + 10
    working_set = curve.dirtied(math.inf)
    if left <= fits:
        return Run(True, 0.0, left / bps * 1000, left)
    while spent < patience:
        counts = 1.0 if not first else dense
        seconds = max((left - over * counts) / bps, TICK_MS / 2000)
        sent += seconds * bps
        spent += seconds
        rest = max(0.0, left - seconds * bps)
        new = curve.dirtied(seconds)
        left = rest + new if first else min(rest + new, max(rest, working_set))
        first = False
        if left + rest / counts - rest <= fits:
            return Run(True, spent * 1000, left / bps * 1000, sent + left)
    return Run(False, spent * 1000, math.inf, sent)


# --- the forecast


@dataclass(frozen=True, slots=True)
class Course:
    """One way it may go: the guest, the path, and where the migration is; bytes and seconds."""

    curve: Curve
    left: float
    bps: float
    sent: float = 0.0
    spent_ms: float = 0.0
    first: bool = True
    dense: float = 1.0

    def play(self, limit_ms: int, percent: int) -> Run:
        """QEMU's loop with that downtime limit, of a guest that is slowed by so many percent."""
        return play(self.curve.slowed(percent), self.left, self.bps, limit_ms, first=self.first, dense=self.dense)


def forecast(seen: Seen, limits: Limits, now: UnderWay | None = None) -> Forecast | None:
    """Say what to expect; ``None`` where memory, dirtying or the path were not measured.

    Args:
        seen: what was measured.
        limits: what is promised, and what is allowed.
        now: where it is, when it has begun already.
    """
    if seen.touched is None or seen.path is None or not seen.windows:
        return None
    memory, path = seen.touched.bytes, seen.path.bps
    if limits.bandwidth_bps is not None:
        path = Range.of(min(limits.bandwidth_bps, bps) for bps in (path.low, path.likely, path.high))
    low, likely, high = curves(seen.windows, memory.high)
    # From what is best for convergence to what is worst.
    measured = ((low, memory.low, path.high), (likely, memory.likely, path.likely), (high, memory.high, path.low))
    needed = Range.of(fixed_point(curve, touched, bps) / bps * 1000 for curve, touched, bps in measured)
    courses = [_course(curve, touched, bps, now, seen.touched.dense) for curve, touched, bps in measured]
    own = (
        seen.own_ms
        if now is None
        else Range(low=seen.own_ms.low // 2, likely=seen.own_ms.likely // 2, high=seen.own_ms.high // 2)
    )
    precopy = _precopy(Means.PRECOPY, courses, limits, own)
    throttled = _throttled(courses, limits, own)
    postcopy = _postcopy(courses, limits, own)
    choice, reason = _choose(precopy, throttled, needed, limits)
    return Forecast(
        seen=seen,
        needed_downtime_ms=needed,
        precopy=precopy,
        throttled=throttled,
        postcopy=postcopy,
        choice=choice,
        reason=reason,
        confidence_percent=_confidence(seen),
    )


def _course(curve: Curve, touched: float, bps: float, now: UnderWay | None, dense: float) -> Course:
    if now is None:
        return Course(curve, touched, bps, dense=dense)
    # While all memory is sent, what is left counts pages that nobody touched.
    left = max(0.0, touched - now.sent_bytes) if now.first else now.left_bytes
    return Course(curve, left, bps, now.sent_bytes, now.elapsed_ms, now.first, dense)


Courses = Sequence[Course]


def _precopy(means: Means, courses: Courses, limits: Limits, own: Range, percent: int = 0) -> Prospect:
    runs = [one.play(limits.max_downtime_ms, percent) for one in courses]
    ends = [run.ended for run in runs]
    prospect = Prospect(means=means, converges=ends[1], sure=len(set(ends)) == 1, throttle_percent=percent)
    if not ends[1]:
        return Prospect(
            means=means,
            converges=False,
            sure=prospect.sure,
            throttle_percent=percent,
            broken=(f"does not fit into {limits.max_downtime_ms} ms of standstill",),
            hopeless=not any(ends),
        )
    # What may not end at all has no highest total: it is given as far as it was played.
    owns = (own.low, own.likely, own.high)
    standing = [
        (run.standing_ms if run.ended else limits.max_downtime_ms) + more
        for run, more in zip(runs, SPREAD_OF_SWITCHOVER_MS, strict=True)
    ]
    total = Range.of(
        one.spent_ms + run.sending_ms + stands + more
        for one, run, stands, more in zip(courses, runs, standing, owns, strict=True)
    )
    # What is left counts pages that nobody touched, too, and those are sent in no time.
    least = fixed_point(courses[0].curve.slowed(percent), courses[0].left, courses[0].bps) / courses[0].bps * 1000
    standing[0] = min(standing[0], least + SPREAD_OF_SWITCHOVER_MS[0])
    downtime = Range.of(standing)
    sent = Range.of(one.sent + run.sent_bytes for one, run in zip(courses, runs, strict=True))
    return Prospect(
        means=means,
        converges=True,
        sure=prospect.sure,
        total_ms=total,
        downtime_ms=downtime,
        sent_bytes=sent,
        throttle_percent=percent,
        broken=_broken(limits, total.likely, sent.likely),
        hopeless=bool(_broken(limits, total.low, sent.low)),
    )


def _throttled(courses: Courses, limits: Limits, own: Range) -> Prospect:
    """With the least slow-down that lets it converge, if there is one that is worth it."""
    most = min(limits.max_slowdown_percent or MOST_THROTTLE, WORTH_THROTTLE)
    one = courses[1]
    for percent in range(5, most + 1, 5):
        if one.play(limits.max_downtime_ms, percent).ended:
            return _precopy(Means.THROTTLED, courses, limits, own, percent=min(most, percent + 5))
    return Prospect(
        means=Means.THROTTLED,
        converges=False,
        sure=True,
        throttle_percent=most,
        broken=(f"slowing the guest by {most} % is not enough",),
        hopeless=True,
    )


def _postcopy(courses: Courses, limits: Limits, own: Range) -> Prospect:
    """All memory once, then over: what was dirtied meanwhile is sent while the guest runs there."""
    owns = (own.low, own.likely, own.high)
    # Where all memory was sent already, it can go over at once.
    first = [one.left / one.bps if one.first else 0.0 for one in courses]
    left = [
        one.curve.dirtied(one.spent_ms / 1000 + seconds) if one.first else one.left
        for one, seconds in zip(courses, first, strict=True)
    ]
    total = Range.of(
        one.spent_ms + (seconds + rest / one.bps) * 1000 + stands + more
        for one, seconds, rest, stands, more in zip(courses, first, left, POSTCOPY_STANDSTILL_MS, owns, strict=True)
    )
    sent = Range.of(one.sent + seconds * one.bps + rest for one, seconds, rest in zip(courses, first, left, strict=True))
    downtime = Range.of(POSTCOPY_STANDSTILL_MS)
    return Prospect(
        means=Means.POSTCOPY,
        converges=True,
        sure=True,
        total_ms=total,
        downtime_ms=downtime,
        sent_bytes=sent,
        broken=_broken(limits, total.likely, sent.likely, downtime.likely),
        hopeless=bool(_broken(limits, total.low, sent.low, downtime.low)),
    )


def _broken(limits: Limits, total_ms: int, sent_bytes: int, downtime_ms: int = 0) -> tuple[str, ...]:
    """The promises that would not be kept. Pre-copy keeps the downtime by itself, or does not end."""
    broken = {
        f"takes {units.format_duration_ms(total_ms)}": limits.within_ms is not None and total_ms > limits.within_ms,
        f"sends {units.format_bytes(sent_bytes)}": limits.max_bytes is not None and sent_bytes > limits.max_bytes,
        f"stands still for about {units.format_duration_ms(downtime_ms)}": downtime_ms > limits.max_downtime_ms,
    }
    return tuple(words for words, there in broken.items() if there)


def _choose(precopy: Prospect, throttled: Prospect, needed: Range, limits: Limits) -> tuple[Means | None, str]:
    """The way to take, and why in one sentence."""
    if limits.prefer_postcopy:
        return Means.POSTCOPY, "post-copy is preferred"
    if precopy.keeps:
        took = units.format_duration_ms(precopy.total_ms.likely) if precopy.total_ms else ""
        return Means.PRECOPY, f"pre-copy converges: about {took}"
    needs = f"pre-copy does not converge: it needs {needed.likely} ms of standstill, and {limits.max_downtime_ms} ms are allowed"
    why = f"pre-copy {precopy.broken[0]}" if precopy.converges else needs
    if limits.postcopy:
        return Means.POSTCOPY, f"{why}; post-copy is allowed"
    if limits.auto_converge and throttled.keeps:
        return Means.THROTTLED, f"{why}; slowing the guest by {throttled.throttle_percent} % lets it"
    would = []
    if not precopy.converges and needed.high + TICK_MS <= units.MAX_DOWNTIME_MS:
        would.append(f"--max-downtime {needed.high + TICK_MS}ms")
    if throttled.converges and not limits.auto_converge:
        would.append("--auto-converge")
    would.append("--postcopy")
    return None, f"{why}; what would move it: {' or '.join(would)}"


def _confidence(seen: Seen) -> int:
    """How often what happens lies within the ranges, as the bench of forecasts found it."""
    return {1: 60, 2: 70}.get(len(seen.windows), 80)


def right_limit(expected: Forecast, limits: Limits) -> int:
    """The downtime limit to begin with, in ms: what was promised, less what a switchover takes beside sending the rest.

    Where a smaller one converges all the same, and in hardly more time, the guest is given that: QEMU uses what it is allowed.
    """
    seen = expected.seen
    most = limits.max_downtime_ms - SPREAD_OF_SWITCHOVER_MS[1]
    if seen.touched is None or seen.path is None or most < SMALLEST_LIMIT_MS or not expected.precopy.converges:
        return limits.max_downtime_ms
    _, _, high = curves(seen.windows, seen.touched.bytes.high)
    memory, bps = seen.touched.bytes.high, seen.path.bps.low
    best = play(high, memory, bps, most, dense=seen.touched.dense)
    if not best.ended:
        return limits.max_downtime_ms
    for limit_ms in (max(SMALLEST_LIMIT_MS, most // 3), most // 2):
        run = play(high, memory, bps, limit_ms, dense=seen.touched.dense)
        if run.ended and run.sending_ms + run.standing_ms <= WORTH_TIME * (best.sending_ms + best.standing_ms):
            return limit_ms
    return most


# --- words


def sentence(expected: Forecast, limits: Limits) -> str:
    """The forecast in one sentence."""
    if expected.choice is None:
        return f"this cannot keep your promise: {expected.reason}"
    chosen = expected.chosen
    if chosen is None or chosen.total_ms is None or chosen.downtime_ms is None or chosen.sent_bytes is None:
        return expected.reason
    announced = ""
    if chosen.downtime_ms.likely > limits.max_downtime_ms * 6 // 5:
        announced = f" (more than the {limits.max_downtime_ms} ms that were asked for)"
    return (
        f"{chosen.means}: {chosen.total_ms.shown(units.format_duration_ms)} in all, "
        f"standing still for {chosen.downtime_ms.shown(units.format_duration_ms)}{announced}, "
        f"{chosen.sent_bytes.shown(units.format_bytes)} sent; {expected.reason}; {expected.confidence_percent} % of forecasts "
        "come true within these ranges"
    )
