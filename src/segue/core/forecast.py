"""What will happen when a guest is moved: will pre-copy converge, how long will it take, how long will the guest stand still.

With M bytes of memory in use, a path that carries B bytes a second, and D(T) the bytes that the guest dirties in T, pre-copy
sends M first, and each time then what was dirtied meanwhile, V' = D(V/B). So it converges when the fixed point V* = D(V*/B) fits
into the allowed downtime L, the smallest limit that works is L* = V*/B, and a guest that hardly writes stands still for nearly L.
How long it takes is played (`precopy`).

D has a lowest, a likely and a highest course (`dirtying`), and every number that comes out has the range that these give.

What may live here: pure arithmetic on measurements. Who measures them is a driver (`segue.core.ports.Hypervisor`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from segue import units
from segue.core.dirtying import TICK_MS, Curve, curves, fixed_point
from segue.core.measured import GOODPUT, LEVEL_SHARE, Range, Seen, UnderWay
from segue.core.model import Limits
from segue.core.precopy import Run, play

SPREAD_OF_SWITCHOVER_MS: Final = (20, 40, 330)
"""Beside what is left, the guest stands for its devices' state, to be resumed and to be heard of again: lowest, likely, highest
as a client saw it under software emulation."""
QUEUED_BYTES: Final = 1_400_000
"""And for what QEMU has handed to the socket when it stops the guest, and the link has not carried yet: 40 ms of 300 Mbit/s."""
FAST_BPS: Final = round(125_000_000 * GOODPUT)
"""A gigabit: what a switchover takes besides is hardly less over anything faster."""
SPREAD_OF_GOING_OVER_MS: Final = (70, 290, 650)
"""The same for going over to post-copy, where hypervisors themselves report 1 to 6 ms."""
FETCHED_BYTES: Final = 12_300_000
"""And for what the link carries before a client is answered: all that the guest asks for over there, and what is sent besides.
Both fit the medians of what clients of libvirt's guests waited for, 645 ms over 300 Mbit/s and 406 over 1 Gbit/s (of bare ones
577 and 317), with the rest held back (`convergence.BACKGROUND_SHARE`); single runs were 349 to 1138."""
FETCHED_SHARE: Final = 0.45
AT_ONCE_SHARE: Final = 0.1
"""Of a set that the guest writes flat out, whole within a tenth of the time in which it is sent, so much is carried before that.
Over 300 Mbit/s clients waited for 580, 600, 1164 and 1986 ms for sets of 16, 32, 64 and 128 MiB (medians of 3 to 9 moves, 0.77 to
1.39 s for 64 MiB); over 1 Gbit/s for 440 and 550 ms for 32 and 64, for 128 only for 300 where this gives 800."""
MOST_THROTTLE: Final = 99
THROTTLE_STEP: Final = 15
WORTH_THROTTLE: Final = 90
"""Beyond that auto-converge does not win: the guest hardly runs, and QEMU gets there by steps of many seconds."""
HARDLY_RUNNING_PERCENT: Final = 75
"""From here on clients wait for 60 ms and more. At 90 it is 180; to allow less again kept guests there until QEMU took 99."""
LOOK_S: Final = 1.0
TRIGGER_SHARE: Final = 0.5
"""QEMU's own: so often it looks whether a guest needs to be slowed, and by so much dirtied of what is sent it does."""
SMALLEST_LIMIT_MS: Final = 2 * TICK_MS
"""With less than that QEMU may not find its moment: it looks every tick."""
WORTH_TIME: Final = 1.02
"""A shorter standstill is worth so many times the time."""
WORTH_LESS_PERCENT: Final = 75
"""A smaller limit must be enough by so much: with one that is not, iterations go by without progress until it is raised (5.1 s in
place of 3.2, where 124 ms were given and 128 needed), and all that is won is some of a standstill that was promised anyway."""


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
        hopeless: not even at the best does pre-copy keep what was promised, by a slow-down neither, where that is allowed.
    """

    seen: Seen
    needed_downtime_ms: Range
    precopy: Prospect
    throttled: Prospect
    postcopy: Prospect
    choice: Means | None
    reason: str
    confidence_percent: int
    hopeless: bool

    @property
    def chosen(self) -> Prospect | None:
        """The way that it would take."""
        return {Means.PRECOPY: self.precopy, Means.THROTTLED: self.throttled, Means.POSTCOPY: self.postcopy, None: None}[
            self.choice
        ]


# --- the forecast


def switchover_ms(bps: float) -> tuple[float, float, float]:
    """What a client waits beside what is left to be sent: lowest, likely, highest."""
    low, likely, high = SPREAD_OF_SWITCHOVER_MS
    return low, likely + QUEUED_BYTES / bps * 1000, high


def slowed_ms(percent: int) -> int:
    """How much longer a client waits for a guest that is slowed by so much, at a switchover or at any time.

    Auto-converge lets a CPU run for 10 ms and then sleep (softmmu/cpu-throttle.c, CPU_THROTTLE_TIMESLICE_NS): at 90 % for 90 ms.
    An answer takes it two turns: clients of one that stood for 208 ms waited for 435.
    """
    return 2 * 10 * percent // (100 - percent) if percent < 100 else 0


def slowed_limit(limits: Limits, percent: int) -> int:
    """The downtime limit for a guest that is slowed by so much, in ms: its clients wait for its turn besides."""
    if percent < HARDLY_RUNNING_PERCENT:
        return limits.max_downtime_ms
    room_ms = limits.max_downtime_ms - slowed_ms(HARDLY_RUNNING_PERCENT) - SPREAD_OF_SWITCHOVER_MS[1]
    return min(limits.max_downtime_ms, max(SMALLEST_LIMIT_MS, room_ms))


@dataclass(frozen=True, slots=True)
class Course:
    """One way it may go: the guest, the path, and where the migration is; bytes and milliseconds.

    Attributes:
        behind: of `sent`, what the iteration that sends all memory has sent so far; ``None`` once it is over.
        clears_when_sent: as in `segue.core.precopy.play`.
    """

    curve: Curve
    left: float
    bps: float
    sent: float = 0.0
    spent_ms: float = 0.0
    behind: float | None = 0.0
    dense: float = 1.0
    clears_when_sent: bool = False

    @property
    def first(self) -> bool:
        """All memory is being sent, for the first time."""
        return self.behind is not None

    @property
    def stuck_bytes(self) -> float:
        """What an iteration leaves in the end, of a guest that is not slowed."""
        return fixed_point(self.curve, self.curve.most_bytes, self.bps)

    def play(self, limit_ms: int, percent: int) -> Run:
        """QEMU's loop with that downtime limit, of a guest that is slowed by so many percent."""
        return play(
            self.curve.slowed(percent),
            self.left,
            self.bps,
            limit_ms,
            first=self.first,
            behind=self.behind or 0.0,
            dense=self.dense,
            clears_when_sent=self.clears_when_sent,
        )


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
    likely, high = (replace(curve, needs_percent=seen.needs_percent) for curve in (likely, high))
    # From what is best for convergence to what is worst.
    measured = ((low, memory.low, path.high), (likely, memory.likely, path.likely), (high, memory.high, path.low))
    needed = Range.of(fixed_point(curve, touched, bps) / bps * 1000 for curve, touched, bps in measured)
    courses = [_course(curve, touched, bps, now, seen.touched.dense) for curve, touched, bps in measured]
    courses[0] = replace(courses[0], clears_when_sent=True)
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
        hopeless=precopy.hopeless and (throttled.hopeless or not limits.auto_converge),
    )


def _course(curve: Curve, touched: float, bps: float, now: UnderWay | None, dense: float) -> Course:
    if now is None:
        return Course(curve, touched, bps, dense=dense)
    if now.first:  # what is left counts pages that nobody touched
        behind = min(touched, float(now.sent_bytes))
        return Course(curve, touched - behind, bps, now.sent_bytes, now.elapsed_ms, behind, dense)
    return Course(curve, now.left_bytes, bps, now.sent_bytes, now.elapsed_ms, None)


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
        for run, more in zip(runs, switchover_ms(courses[1].bps), strict=True)
    ]
    total = Range.of(
        one.spent_ms + run.sending_ms + stands + more
        for one, run, stands, more in zip(courses, runs, standing, owns, strict=True)
    )
    # What is left counts pages that nobody touched, too, and those are sent in no time.
    least = fixed_point(courses[0].curve.slowed(percent), courses[0].left, courses[0].bps) / courses[0].bps * 1000
    standing[0] = min(standing[0], least + SPREAD_OF_SWITCHOVER_MS[0])
    waits_ms = slowed_ms(percent)
    downtime = Range.of((standing[0], standing[1] + waits_ms, standing[2] + waits_ms))
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
    steps = [*range(THROTTLE_STEP, most, THROTTLE_STEP), most]
    held = limits.max_slowdown_percent is not None
    if held or _ends_before_more(courses[1], limits, most):
        for percent in steps:
            if courses[1].play(slowed_limit(limits, percent), percent).ended:
                allowed = replace(limits, max_downtime_ms=slowed_limit(limits, percent))
                return _precopy(Means.THROTTLED, courses, allowed, own, percent=percent)
    needs = courses[1].curve.needs_percent
    why = f", as it needs about {needs} % of a CPU for what it writes" if needs < most else ""
    return Prospect(
        means=Means.THROTTLED,
        converges=False,
        sure=True,
        throttle_percent=most,
        broken=(f"slowing the guest by {most} % is not enough{why}",),
        hopeless=held or not _ends_before_more(courses[0], limits, most),
    )


def _ends_before_more(course: Course, limits: Limits, percent: int) -> bool:
    """It converges with that slow-down before QEMU takes a larger one.

    QEMU does at the second look that finds more than half as much dirtied as was sent; looks are at the ends of iterations, a
    second apart at least (migration/ram.c, migration_trigger_throttle; throttle-trigger-threshold).
    """
    slowed = course.curve.slowed(percent)
    if slowed.dirtied(LOOK_S) <= TRIGGER_SHARE * course.bps * LOOK_S:
        return True
    stuck = course.stuck_bytes
    run = play(slowed, stuck, course.bps, slowed_limit(limits, percent), first=False)
    return run.ended and run.sending_ms <= 2000 * max(LOOK_S, stuck / course.bps)


def _postcopy(courses: Courses, limits: Limits, own: Range) -> Prospect:
    """All memory once, then over: what was dirtied meanwhile is sent while the guest runs there."""
    owns = (own.low, own.likely, own.high)
    # Where all memory was sent already, it can go over at once.
    first = [one.left / one.bps if one.first else 0.0 for one in courses]
    left = [
        one.curve.dirtied(one.spent_ms / 1000 + seconds) if one.first else one.left
        for one, seconds in zip(courses, first, strict=True)
    ]
    fetched = _fetched(courses[1])
    asked = zip(courses, SPREAD_OF_GOING_OVER_MS, (FETCHED_BYTES, fetched, fetched), strict=True)
    stand = [stands + bytes_ / one.bps * 1000 for one, stands, bytes_ in asked]
    total = Range.of(
        one.spent_ms + (seconds + rest / one.bps) * 1000 + stands + more
        for one, seconds, rest, stands, more in zip(courses, first, left, stand, owns, strict=True)
    )
    sent = Range.of(one.sent + seconds * one.bps + rest for one, seconds, rest in zip(courses, first, left, strict=True))
    downtime = Range.of(stand)
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


def _fetched(course: Course) -> float:
    """What the link carries over there before a client is answered, in bytes."""
    whole = course.stuck_bytes
    at_once = course.curve.dirtied(AT_ONCE_SHARE * whole / course.bps) >= LEVEL_SHARE * whole
    return max(FETCHED_BYTES, FETCHED_SHARE * whole) if at_once else FETCHED_BYTES


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
    if limits.auto_converge:
        slowed = f"slowed by {throttled.throttle_percent} % it " if throttled.converges else ""
        why += f", and {slowed}{throttled.broken[0]}"
    would = []
    if not precopy.converges and needed.high + TICK_MS <= units.MAX_DOWNTIME_MS:
        would.append(f"--max-downtime {needed.high + TICK_MS}ms")
    if throttled.converges and not limits.auto_converge:
        would.append("--auto-converge")
    would.append("--postcopy")
    if limits.auto_converge and limits.max_slowdown_percent is None:
        would.append(f"--on-miss extend, which slows it by up to {MOST_THROTTLE} %")
    return None, f"{why}; what would move it: {' or '.join(would)}"


def _confidence(seen: Seen) -> int:
    """How often what happens lies within the ranges: counted, not derived (docs/bench/forecast.md).

    Of guests that moved it was nine in ten by one window, as a migration has it when it begins, and all of some forty by more:
    for sure is nothing.
    """
    return 90 if len(seen.windows) == 1 else 95


def first_limit(limits: Limits, bps: float = FAST_BPS) -> int:
    """The downtime limit to begin with, in ms: what was promised, less what a switchover takes beside sending the rest.

    All of it where hardly anything would be left.
    """
    room_ms = limits.max_downtime_ms - round(switchover_ms(bps)[1])
    return room_ms if room_ms >= SMALLEST_LIMIT_MS else limits.max_downtime_ms


def right_limit(expected: Forecast, limits: Limits) -> int:
    """The downtime limit for a guest and a path that are known, in ms: `first_limit`, or less.

    Where a smaller one converges all the same, by a margin and in hardly more time, the guest is given that: QEMU uses what it is
    allowed. Where it may not converge with less than was promised, it is tried with less, and the rest is given when an iteration
    stalls.
    """
    seen = expected.seen
    if seen.touched is None or seen.path is None or not expected.precopy.converges:
        return limits.max_downtime_ms
    most = first_limit(limits, seen.path.bps.likely)
    if most == limits.max_downtime_ms:
        return most
    _, likely, high = curves(seen.windows, seen.touched.bytes.high)
    worst = Course(high, seen.touched.bytes.high, seen.path.bps.low, dense=seen.touched.dense)
    best = worst.play(most, 0)
    if not best.ended:
        hoped = Course(likely, seen.touched.bytes.likely, seen.path.bps.likely, dense=seen.touched.dense)
        return most if hoped.play(most, 0).ended else limits.max_downtime_ms
    for limit_ms in (max(SMALLEST_LIMIT_MS, most // 3), most // 2):
        run = worst.play(limit_ms * WORTH_LESS_PERCENT // 100, 0)
        if run.ended and run.sending_ms + run.standing_ms <= WORTH_TIME * (best.sending_ms + best.standing_ms):
            return limit_ms
    return most


# --- words


def sentence(expected: Forecast, limits: Limits, *, deltas: bool = False) -> str:
    """The forecast in one sentence.

    Args:
        expected: it.
        limits: what is promised.
        deltas: it is tried with them first, where no other way keeps that or post-copy would.
    """
    if expected.choice is None:
        only_if = "this can keep your promise only if the guest changes little of each page, and that is tried"
        return f"{only_if if deltas else 'this cannot keep your promise'}: {expected.reason}"
    chosen = expected.chosen
    if chosen is None or chosen.total_ms is None or chosen.downtime_ms is None or chosen.sent_bytes is None:
        return expected.reason
    announced = ""
    if limits.is_longer(chosen.downtime_ms.likely):
        announced = f" (more than the {limits.max_downtime_ms} ms that were asked for)"
    first = deltas and chosen.means is Means.POSTCOPY
    tried = "; before that it is tried whether the guest changes little of each page" if first else ""
    return (
        f"{chosen.means}: {chosen.total_ms.shown(units.format_duration_ms)} in all, "
        f"standing still for {chosen.downtime_ms.shown(units.format_duration_ms)}{announced}, "
        f"{chosen.sent_bytes.shown(units.format_bytes)} sent; {expected.reason}{tried}; "
        f"{expected.confidence_percent} % of forecasts come true within these ranges"
    )
