"""Measures what a forecast is made from: what the guest uses and dirties, and what the way to the destination carries.

What a path carries is what the last migrations over it were seen to get, or what the operator says of the link. Only where there
is neither it is tried out, for half a second, as that takes it from others; what cannot be tried was not measured, and that is
said. What may live here: asking the drivers and the store; the arithmetic is `segue.core.forecast`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from segue import units
from segue.core import forecast
from segue.core.connectivity import Sent, carried_bps
from segue.core.deltas import come_first
from segue.core.forecast import Forecast, Prospect
from segue.core.measured import GOODPUT, RATES_NEEDED, WINDOWS_S, Live, Path, Range, Seen, Touched, UnderWay, Window, tried
from segue.core.model import DriverKind, HostAddress, JobStatus, Limits, OutcomeKind, Progress
from segue.core.ports import Hypervisor, Store
from segue.core.record import Record
from segue.errors import SegueError

MOST_LOOKED_AT: Final = 3
"""Migrations over the same path whose rates are looked at, the newest."""


SHORT_WINDOWS_S: Final = (1, 2)
"""Enough to tell a rate from a small set, where somebody waits for the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What was measured, and what it comes to.

    Attributes:
        expected: ``None`` where something that it needs was not measured.
        unmeasured: what was not, and why, one sentence each.
    """

    seen: Seen
    expected: Forecast | None
    unmeasured: tuple[str, ...] = ()


async def look(
    record: Record,
    source: Hypervisor,
    store: Store,
    *,
    trial: Callable[[], Awaitable[Sent]],
    windows_s: Sequence[int] = WINDOWS_S,
    tell: Callable[[str], None] = lambda _: None,
) -> Outlook:
    """Measure, and say what to expect. The guest runs on as before; it takes as long as `windows_s` together.

    Args:
        record: the migration that is thought of.
        source: where the guest runs.
        store: where earlier migrations are written down.
        trial: sends something over the way to the destination, where nobody knows what that carries.
        windows_s: how long it is watched, one after another.
        tell: is told what is being measured.
    """
    unmeasured: list[str] = []
    seen = Seen()
    path = await asyncio.to_thread(path_of, store, record)
    if path is None:
        tell(f"trying what the way from {record.spec.source} to {record.spec.destination} carries")
        path, why = await _try(trial)
        if path is None:
            unmeasured.append(
                f"what the way from {record.spec.source} to {record.spec.destination} carries: no migration over it is written "
                f"down, and it was not tried: {why}; give a link_speed in segue.toml, or --bandwidth"
            )
    try:
        seen = replace(seen, touched=await source.touched(record.spec.guest))
    except SegueError as error:
        unmeasured.append(f"memory in use: {error.message}")
    try:
        for seconds in windows_s:
            tell(f"watching for {seconds} s how much memory {record.spec.guest} dirties")
            seen = seen.watched(await source.dirtied(record.spec.guest, seconds=seconds))
    except SegueError as error:
        unmeasured.append(f"dirtied memory: {error.message}")
    own_ms = await asyncio.to_thread(own_of, store, record)
    seen = replace(seen, path=path, own_ms=own_ms or seen.own_ms)
    return Outlook(seen=seen, expected=forecast.forecast(seen, record.spec.limits), unmeasured=tuple(unmeasured))


async def _try(trial: Callable[[], Awaitable[Sent]]) -> tuple[Path | None, str]:
    try:
        sent = await trial()
    except SegueError as error:
        return None, error.message.removesuffix(".")
    bps, why = carried_bps(sent)
    return (None, why) if bps is None else (tried(bps, sent.took_ms), "")


class Foresight:
    """The forecast of a migration that begins, corrected while it runs.

    The guest is watched while both hosts are made ready and while its memory is sent for the first time: nothing waits for it.

    Args:
        record: the migration.
        source: where the guest runs.
        store: where earlier migrations are written down, which tell what the way to the destination carries.
    """

    def __init__(self, record: Record, source: Hypervisor, store: Store) -> None:
        self._record = record
        self._source = source
        self._store = store
        self._seen = Seen()
        self._live = Live()
        self._fresh = False
        self._stuck = False
        self._told: Forecast | None = None
        self._measuring: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Begin to measure. libvirt takes the request only before the migration has begun, and the answer is there later."""
        self._measuring = asyncio.create_task(self._measure())

    async def _measure(self) -> None:
        guest = self._record.spec.guest
        by_libvirt = self._record.spec.driver is DriverKind.LIBVIRT
        watching = asyncio.create_task(self._source.dirtied(guest, seconds=WINDOW_S))
        try:
            with contextlib.suppress(SegueError):  # then the path is known when it is seen
                self._learn(path=await asyncio.to_thread(path_of, self._store, self._record))
            with contextlib.suppress(SegueError):  # then there is no forecast, and iterations decide
                self._learn(touched=await self._source.touched(guest))
                self._learn(window=await watching)
                if not by_libvirt:
                    self._learn(window=await self._source.dirtied(guest, seconds=2))
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    def _learn(self, *, path: Path | None = None, touched: Touched | None = None, window: Window | None = None) -> None:
        seen = self._seen if window is None else self._seen.watched(window)
        self._seen = replace(seen, path=path or seen.path, touched=touched or seen.touched)
        self._fresh = True

    def take(self, sample: Progress, limits: Limits, stuck_bytes: int | None = None) -> Forecast | None:
        """One more sample.

        Args:
            sample: it.
            limits: what is promised now.
            stuck_bytes: what each iteration leaves, where they bring no progress.

        Returns:
            The forecast where something new is known; ``None`` where nothing is, or not enough for one.
        """
        if sample.status is not JobStatus.ACTIVE:
            return None
        before, self._live = self._live, self._live.then(sample)
        news = (
            self._fresh,
            before.iteration != self._live.iteration,
            (before.first, before.last) != (self._live.first, self._live.last),
            len(before.rates) < RATES_NEEDED <= len(self._live.rates),
            self._stuck is (stuck_bytes is None),
        )
        if not any(news):
            return None
        self._fresh, self._stuck = False, stuck_bytes is not None
        now = UnderWay(
            elapsed_ms=sample.elapsed_ms,
            sent_bytes=sample.sent_bytes,
            left_bytes=sample.ram_remaining_bytes,
            first=sample.iteration <= 1,
        )
        return forecast.forecast(self._live.correct(self._seen, stuck_bytes), limits, now)

    def words(self, expected: Forecast, limits: Limits) -> str:
        """The forecast in a sentence where it differs from what was told last; empty where it is much the same."""
        last, self._told = self._told, expected
        if last is not None and last.choice is expected.choice and not _is_another(last.chosen, expected.chosen):
            self._told = last
            return ""
        said = forecast.sentence(expected, limits, deltas=come_first(self._record.spec, expected))
        return f"forecast{', corrected' if last is not None else ''}: {said}"

    async def aclose(self) -> None:
        """Stop measuring. May be repeated."""
        if self._measuring is not None:
            self._measuring.cancel()
            await asyncio.gather(self._measuring, return_exceptions=True)


def _is_another(last: Prospect | None, now: Prospect | None) -> bool:
    """It will take so much longer or shorter that it should be told."""
    if last is None or now is None or last.total_ms is None or now.total_ms is None:
        return False
    return abs(now.total_ms.likely - last.total_ms.likely) * 100 > WORTH_TELLING_PERCENT * last.total_ms.likely


WORTH_TELLING_PERCENT: Final = 20
WINDOW_S: Final = 1
"""What can be asked for while all memory is sent; a second and longer one only of a bare QEMU, as libvirt takes no other request
while it migrates. Of 64 MiB written flat out two seconds showed a guest of 32 MiB/s, which a link of 300 Mbit/s carries."""


def path_of(store: Store, record: Record) -> Path | None:
    """What the way between the two hosts carries; ``None`` where nobody knows. Blocks."""
    said = link(record.source, record.destination)
    limit_bps = record.spec.limits.bandwidth_bps
    rates = _rates(store, _past(store, record))
    over = "over the same path"
    if not rates:
        rates, over = _rates(store, _past(store, record, both_ways=True)), "the other way round"
    if rates:
        low, likely, high = min(rates), round(statistics.median(rates)), max(rates)
        how = f"seen in {len(rates)} migration{'s' * (len(rates) > 1)} {over}"
        return Path(bps=Range(low=low * 97 // 100, likely=likely, high=high * 103 // 100), how=how)
    if said is not None:
        likely = round(said * GOODPUT)
        return Path(bps=Range(low=likely * 95 // 100, likely=likely, high=likely), how="link_speed in segue.toml")
    if limit_bps is not None:
        return Path(bps=Range(low=limit_bps * 9 // 10, likely=limit_bps, high=limit_bps), how="the limit that was asked for")
    return None


def own_of(store: Store, record: Record) -> Range | None:
    """What the last migrations between the two hosts took beside sending memory; ``None`` where there was none. Blocks."""
    took = []
    for past in _past(store, record, both_ways=True)[:MOST_LOOKED_AT]:
        sending = [one.progress.elapsed_ms for one in store.samples(past.id) if one.progress.status in _SENDING]
        taken_up = past.lease is not None and past.lease.epoch > 1  # what its leaders left between them is nobody's work
        if past.outcome is not None and sending and past.spec.disks is None and not taken_up:
            took.append(max(0, past.outcome.total_ms - (sending[-1] - sending[0])))
    return Range(low=min(took) * 3 // 4, likely=round(statistics.median(took)), high=max(took) * 3 // 2) if took else None


_SENDING: Final = (JobStatus.ACTIVE, JobStatus.SWITCHOVER, JobStatus.POSTCOPY)


def link(source: HostAddress, destination: HostAddress) -> int | None:
    """The slower of both links, as segue.toml has them; ``None`` where it says nothing."""
    said = [address.link_bps for address in (source, destination) if address.link_bps is not None]
    return min(said) if said else None


def _past(store: Store, record: Record, *, both_ways: bool = False) -> list[Record]:
    """Migrations of that kind between the two hosts that were not held back; `both_ways`: also from there to here."""
    spec = record.spec
    ways = [(spec.source, spec.destination), *([(spec.destination, spec.source)] if both_ways else [])]
    return [
        past
        for past in store.find(host=spec.destination, limit=20)
        if past.outcome is not None
        and past.outcome.outcome is OutcomeKind.MOVED
        and past.spec.limits.bandwidth_bps is None
        and (past.spec.source, past.spec.destination) in ways
        and (past.spec.driver, past.spec.transport) == (spec.driver, spec.transport)
    ]


def _rates(store: Store, past: Sequence[Record]) -> list[int]:
    return [rate for one in past if (rate := _rate(store, one)) is not None][:MOST_LOOKED_AT]


def _rate(store: Store, past: Record) -> int | None:
    """What a migration got while it sent: the median of its samples, less their first, in which TCP only begins.

    Those do not count in which deltas went over: they do not fill a path.
    """
    rates = [
        sample.progress.throughput_bps
        for sample in store.samples(past.id)
        if sample.progress.status is JobStatus.ACTIVE
        and sample.progress.throughput_bps > units.MIB
        and not sample.progress.saved_bps
    ][1:]
    return round(statistics.median(rates)) if len(rates) > 2 else None
