"""What was measured of a guest and of the path between two hosts, for saying beforehand what a migration will come to.

What may live here: frozen measurements with their errors, and how one follows from what a hypervisor answered, or from samples
of a migration that is under way. Who measures is a driver (`segue.core.ports.Hypervisor`); what follows is `forecast`'s.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from segue import units
from segue.core.model import Progress

WINDOWS_S: Final = (1, 2, 4)
"""Windows that tell a rate from a working set: one alone cannot, as it shows min(working set, rate
x T). QEMU 7.2 knows only whole seconds."""
GOODPUT: Final = 0.956
"""Of a link's rate, what is left for the guest's memory at an MTU of 1500: Ethernet's, IP's and TCP's own bytes taken off."""
RATES_KEPT: Final = 25
RATES_NEEDED: Final = 4
"""So many of the newest samples tell what the path carries, and from so many on."""
SLOWED_KEPT: Final = 15
"""What an iteration leaves now was dirtied by a guest that was slowed as it was that many samples ago."""
COUNTED_MS: Final = 1000
"""QEMU tells a rate of dirtying as soon as an iteration ends and a second has passed since it told one (migration/ram.c,
migration_bitmap_sync): of an iteration that was shorter a page may be in it more than once."""
LEVEL_SHARE: Final = 0.9
"""Of what a window twice as long shows: then the set was dirtied whole, but for the noise of sampling."""
STUCK_SHARE: Final = 0.8
"""What iterations leave again and again is taken to be dirtied in so much of the time in which it is sent: with all of it each
would leave a hair less, and a forecast would say that it converges some day."""
BUSY_PERCENT: Final = 75
"""A guest that uses so much of a CPU writes as fast as it can; one that uses less is kept waiting by something else, and
would have been seen to write more if it wrote faster."""


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
        busy_percent: what the guest used meanwhile of one CPU's time, all of its CPUs together; ``None``: nobody looked.
    """

    ms: int
    dirtied_bytes: int
    error_bytes: int = 0
    busy_percent: int | None = None


def sampled(
    mib_per_second: object, *, seconds: int, per_gib: int, memory_bytes: int | None, busy_percent: int | None = None
) -> Window:
    """A window from what QEMU says after sampling pages, with the error of a sample (binomial, two deviations) and of rounding.

    Args:
        mib_per_second: its answer, whole MiB/s; what is no such number counts as nothing dirtied.
        seconds: how long the window was.
        per_gib: so many pages of each GiB were looked at.
        memory_bytes: of the guest; ``None`` where it is not known.
        busy_percent: as in `Window`.
    """
    rate = mib_per_second if isinstance(mib_per_second, int) and mib_per_second >= 0 else 0
    dirty = round((rate + 0.5) * units.MIB * seconds) if rate else 0  # it cuts off what is less than 1 MiB/s
    hits = dirty * per_gib / units.GIB
    share = min(1.0, dirty / memory_bytes) if memory_bytes else 0.0
    error = 2 * dirty * math.sqrt((1 - share) / hits) if hits else 0.0
    return Window(
        ms=seconds * 1000,
        dirtied_bytes=dirty,
        error_bytes=round(error + units.MIB * seconds / 2),
        busy_percent=busy_percent,
    )


def _needs(busy_percent: int) -> int:
    """Of one CPU's time, what a guest that is so busy needs for what it writes.

    All of it, where that may be all that one CPU does. Half of what another uses is taken to be for something else: one that was
    busy for 26 % and wrote 160 MiB/s wrote as much with 90 % taken from it.
    """
    return 100 if busy_percent >= BUSY_PERCENT else busy_percent // 2


def kept_pace(slowed_percent: int, needs_percent: int) -> float:
    """The share of its pace that a guest keeps whose CPUs lose so much of their time: what it did not use is lost first.

    A guest that wrote 160 MiB/s in an eighth of a CPU's time wrote as much when it was slowed by 75 %, and by 90 (docs/bench).

    Args:
        slowed_percent: what it loses.
        needs_percent: what it needs for what it writes, of one CPU's time.
    """
    return min(1.0, (100 - slowed_percent) / max(1, needs_percent))


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


def tried(bps: int, ms: int) -> Path:
    """A way that was tried for a moment: another moment may be worse by a third, and a burst made it look better than it is."""
    return Path(bps=Range(low=bps * 2 // 3, likely=bps, high=bps * 105 // 100), how=f"tried for {units.format_duration_ms(ms)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """All that was measured. What is ``None`` or empty was not.

    Attributes:
        touched: memory in use.
        windows: what was dirtied, by length of the window.
        path: what the link carries.
        own_ms: what a migration takes beside sending: both hosts are looked at, the destination is started, the end is proven.
        needs_percent: what the guest is taken to need of one CPU's time for what it writes; all of it where nobody looked.
    """

    touched: Touched | None = None
    windows: tuple[Window, ...] = ()
    path: Path | None = None
    own_ms: Range = field(default_factory=lambda: Range(low=400, likely=1200, high=2500))
    needs_percent: int = 100

    @property
    def outruns_path(self) -> bool:
        """More was dirtied in one of the windows, its error off, than the path carries in that time."""
        carries = self.path.bps.high if self.path is not None else math.inf
        return any(one.dirtied_bytes - one.error_bytes > carries * one.ms / 1000 for one in self.windows)

    def watched(self, window: Window) -> Seen:
        """With one more window; the first tells what the guest needs."""
        needs = self.needs_percent if self.windows or window.busy_percent is None else _needs(window.busy_percent)
        return replace(self, windows=(*self.windows, window), needs_percent=needs)


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
        rates: what its newest samples got, in bytes per second.
        slowed: by how many percent the guest was slowed at each of the newest samples.
        iteration: the last one seen.
        since_ms: when that one began, by its samples' clock; ``None`` before memory flows.
        dirty_bps: what QEMU told last of dirtying, and tells until it has counted anew, which it may be at for a tenth of a
            second after an iteration has begun.
        uncounted_ms: how long the iteration was that it has not counted yet; 0: it has, or that one was too short, or the guest
            was slowed in it.
        first: what was dirtied while all memory was sent: a window of that length; ``None`` before QEMU has counted it.
        last: the same of the newest iteration after it.
        memory_bytes: what was sent in the first; 0 before it was.
    """

    rates: tuple[int, ...] = ()
    slowed: tuple[int, ...] = ()
    iteration: int = 0
    since_ms: int | None = None
    dirty_bps: int = 0
    uncounted_ms: int = 0
    first: Window | None = None
    last: Window | None = None
    memory_bytes: int = 0

    def then(self, sample: Progress) -> Live:
        """With one more sample of pre-copy."""
        if self.since_ms is None:
            return replace(self, since_ms=sample.elapsed_ms, iteration=sample.iteration)
        # What deltas send says nothing of what the path carries, and whether they do, no forecast knows.
        plain = sample.throughput_bps and not sample.saved_bytes
        rates = (*self.rates, sample.throughput_bps)[-RATES_KEPT:] if plain else self.rates
        slowed = (*self.slowed, sample.throttle_percent)[-SLOWED_KEPT:]
        after = replace(self, rates=rates, slowed=slowed, dirty_bps=sample.dirty_bps)
        if sample.iteration != self.iteration:
            took_ms = sample.elapsed_ms - self.since_ms
            counts = 0 < self.iteration == sample.iteration - 1 and took_ms >= COUNTED_MS and not any(self.slowed)
            after = replace(
                after,
                iteration=sample.iteration,
                since_ms=sample.elapsed_ms,
                uncounted_ms=took_ms if counts else 0,
                memory_bytes=sample.sent_bytes if self.iteration == 1 else self.memory_bytes,
            )
        if not after.uncounted_ms or sample.dirty_bps == self.dirty_bps:
            return after
        dirtied = sample.dirty_bps * after.uncounted_ms // 1000
        counted = Window(ms=after.uncounted_ms, dirtied_bytes=dirtied, error_bytes=dirtied // 10)
        after = replace(after, uncounted_ms=0)
        return replace(after, first=counted) if sample.iteration == 2 else replace(after, last=counted)

    @property
    def _is_level(self) -> bool:
        """QEMU counted as much in an iteration as in the one that sent all memory: all that the guest writes again and again."""
        first, last = self.first, self.last
        return first is not None and last is not None and last.dirtied_bytes >= LEVEL_SHARE * first.dirtied_bytes

    def correct(self, seen: Seen, stuck_bytes: int | None = None) -> Seen:
        """What was measured before, with what is seen now in its place.

        Args:
            seen: what was measured.
            stuck_bytes: where iterations bring no progress, what each of them leaves: so much is dirtied while so much is sent,
                and at its own pace a guest that is slowed would take less for that.
        """
        path, touched, windows = seen.path, seen.touched, seen.windows
        if len(self.rates) >= RATES_NEEDED:
            likely = round(statistics.median(self.rates))
            path = Path(bps=Range(low=likely * 96 // 100, likely=likely, high=likely * 104 // 100), how="seen now")
        if counted := [one for one in (self.last, self.first) if one is not None]:
            shorter = [one for one in windows if one.ms < counted[0].ms]
            if self._is_level:
                shorter = [_whole(one, counted[0]) for one in shorter]
            windows = (*shorter, *counted)
        if self.memory_bytes:
            low, high = self.memory_bytes * 95 // 100, self.memory_bytes
            of_bytes = touched.of_bytes if touched is not None else 0
            touched = Touched(bytes=Range(low=low, likely=self.memory_bytes, high=high), how="sent now", of_bytes=of_bytes)
        if stuck_bytes and path is not None and (ms := stuck_bytes * 1000 // path.bps.likely):
            ms = max(1, round(ms * STUCK_SHARE * kept_pace(self.slowed[0] if self.slowed else 0, seen.needs_percent)))
            again = Window(ms=ms, dirtied_bytes=stuck_bytes, error_bytes=stuck_bytes // 20, busy_percent=seen.needs_percent)
            windows = (again, *(_no_less(one, stuck_bytes) for one in windows if one.ms > ms))
        return replace(seen, path=path, touched=touched, windows=windows)


def _whole(window: Window, level: Window) -> Window:
    """A sample of a guest that writes flat out, where it may have seen all that longer windows show: what it missed is noise.

    Of 64 MiB libvirt looks at some thirty pages, and told of 40 to 90.
    """
    flat_out = window.busy_percent is not None and window.busy_percent >= BUSY_PERCENT
    may_be = window.dirtied_bytes + window.error_bytes >= level.dirtied_bytes
    return replace(window, dirtied_bytes=level.dirtied_bytes, error_bytes=level.error_bytes) if flat_out and may_be else window


def _no_less(window: Window, bytes_: int) -> Window:
    """A window of which it is known that so much was dirtied in it: what is not surely more is noise."""
    return window if window.dirtied_bytes - window.error_bytes > bytes_ else replace(window, dirtied_bytes=bytes_)
