"""What the auditor concludes: lines, answers and disk records in, a report out.

It knows nothing of migrations, hypervisors or hosts' states: it judges a guest by what the guest said and what its clients saw.
What may live here: the kinds of evidence, the report, and pure functions between them. Times are nanoseconds of
CLOCK_MONOTONIC.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

NS_PER_MS: Final = 1_000_000
OVERLAP_NS: Final = 100 * NS_PER_MS
"""A copy counts as running at a moment when it ticked within so long before and after it: ten ticks, so no late one hides it."""


STEADY_TICKS: Final = 10
"""So many ticks at either end of a window tell where the guest's clock stands: a tenth of a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """One tick of the guest, on the serial line of one host."""

    host: str
    boot: str
    seq: int
    mono_ms: int
    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """The guest says that a record is safely on its disk."""

    boot: str
    seq: int
    crc: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The guest says how many pages did not hold what it had written, and how many bytes of memory it has written so far."""

    boot: str
    errors: int
    at_ns: int
    written_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One packet to the guest; `answered_ns` is when its echo came, 0 while it has not."""

    sent_ns: int
    answered_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One slot of the guest's disk that is not empty; `valid` when its own checksum is right."""

    slot: int
    boot: str
    seq: int
    prev_crc: int
    crc: int
    valid: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskReport:
    """What the disk shows, compared with what the guest was told.

    Attributes:
        written: records on the disk.
        acknowledged: records that the guest was told are safe, as far as its serial lines were read.
        lost: acknowledged records that are not there, or are there with other contents, and slots that are damaged.
        doubled: records that stand in more than one slot.
        out_of_order: records that do not stand in the slot of their number.
        chain_breaks: records that do not follow on the one before: two copies wrote, or something was changed.
    """

    written: int = 0
    acknowledged: int = 0
    lost: int = 0
    doubled: int = 0
    out_of_order: int = 0
    chain_breaks: int = 0

    @property
    def clean(self) -> bool:
        """Nothing is wrong."""
        return not (self.lost or self.doubled or self.out_of_order or self.chain_breaks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The auditor's findings over a window of time.

    Attributes:
        window_ms: how long it watched.
        client_gap_ms: the longest time in which a client that kept asking got no answer.
        tick_gap_ms: the longest time between two ticks as they arrived on hosts, whichever host they arrived on.
        guest_gap_ms: the same by the guest's own clock, which stands still while the guest does.
        guest_lost_ms: how far the guest's own clock fell behind over the window; ``None`` without enough ticks.
        probes, answers: packets sent to the guest and echoed.
        ticks: how many ticks came.
        ticks_lost: numbers between the first and the last that never came.
        ticks_repeated: numbers that came more than once: the guest lived through them twice.
        memory_errors: pages that did not hold what the guest had written.
        disk: ``None`` for a guest without a disk.
        copies: the most copies that ran at one time.
        copies_at_ms: when more than one ran, in milliseconds from the start of the window; empty when never.
        hosts: on which hosts it ticked, in the order of the first tick there.
        running_on: the host of the last tick; empty when it had stopped ticking at the end.
    """

    window_ms: int
    client_gap_ms: int
    tick_gap_ms: int
    guest_gap_ms: int
    guest_lost_ms: int | None
    probes: int
    answers: int
    ticks: int
    ticks_lost: int
    ticks_repeated: int
    memory_errors: int
    disk: DiskReport | None
    copies: int
    copies_at_ms: tuple[int, ...]
    hosts: tuple[str, ...]
    running_on: str

    @property
    def clean(self) -> bool:
        """The guest lost nothing, did nothing twice, and one copy of it ran."""
        unharmed = not (self.ticks_lost or self.ticks_repeated or self.memory_errors)
        return unharmed and self.copies == 1 and (self.disk is None or self.disk.clean)


def judge(
    ticks: Sequence[Tick],
    probes: Sequence[Probe],
    memory: Sequence[Memory],
    disk: DiskReport | None,
    *,
    since_ns: int,
    until_ns: int,
) -> Report:
    """Conclude from everything that came between two moments.

    Args:
        ticks: in the order of their arrival.
        probes: in the order of sending.
        memory: what the guest said of its memory.
        disk: judged apart, as a whole.
        since_ns: where the window begins.
        until_ns: where it ends.
    """
    seen = [tick for tick in ticks if since_ns <= tick.at_ns <= until_ns]
    asked = [probe for probe in probes if since_ns <= probe.sent_ns <= until_ns]
    lost, repeated = missing_and_repeated(seen)
    moments = overlaps(seen)
    alive = bool(seen) and until_ns - seen[-1].at_ns <= OVERLAP_NS
    return Report(
        window_ms=(until_ns - since_ns) // NS_PER_MS,
        client_gap_ms=client_gap_ns(asked, until_ns=until_ns) // NS_PER_MS,
        tick_gap_ms=max((late.at_ns - early.at_ns for early, late in pairwise(seen)), default=0) // NS_PER_MS,
        guest_gap_ms=max((late.mono_ms - early.mono_ms for early, late in pairwise(seen) if late.boot == early.boot), default=0),
        guest_lost_ms=guest_lost_ms(seen),
        probes=len(asked),
        answers=sum(1 for probe in asked if probe.answered_ns),
        ticks=len(seen),
        ticks_lost=lost,
        ticks_repeated=repeated,
        memory_errors=_errors([say for say in memory if since_ns <= say.at_ns <= until_ns]),
        disk=disk,
        copies=max([1 if seen else 0, 2 if repeated else 0, *moments.values()]),
        copies_at_ms=tuple(sorted({(moment - since_ns) // NS_PER_MS for moment in moments})),
        hosts=tuple(dict.fromkeys(tick.host for tick in seen)),
        running_on=seen[-1].host if alive else "",
    )


def guest_lost_ms(ticks: Sequence[Tick]) -> int | None:
    """How far the guest's clock fell behind ours between the first ticks and the last.

    A tick may arrive late and never early: so of the first `STEADY_TICKS` and the last, the quickest counts.
    """
    if len(ticks) < 2 * STEADY_TICKS or ticks[0].boot != ticks[-1].boot:
        return None
    behind = [tick.at_ns - tick.mono_ms * NS_PER_MS for tick in ticks]
    return max(0, min(behind[-STEADY_TICKS:]) - min(behind[:STEADY_TICKS])) // NS_PER_MS


def _errors(said: Iterable[Memory]) -> int:
    """The guest counts its errors since its boot; the last count of each boot is the sum."""
    last = {say.boot: say.errors for say in said}
    return sum(last.values())


def client_gap_ns(probes: Sequence[Probe], *, until_ns: int) -> int:
    """The longest time in which a client got no answer: from the sending of a probe to the next answer.

    It begins with a probe that was really sent, so a prober that was late itself is not held against the guest; it is short of
    the truth by at most the time between two probes.
    """
    answers = sorted(probe.answered_ns for probe in probes if probe.answered_ns)
    gap = 0
    for probe in probes:
        following = bisect_left(answers, probe.sent_ns)
        answered = answers[following] if following < len(answers) else until_ns
        gap = max(gap, answered - probe.sent_ns)
    return gap


def missing_and_repeated(ticks: Iterable[Tick]) -> tuple[int, int]:
    """How many numbers are missing between the first and the last tick of each boot, and how many came more than once."""
    boots: dict[str, Counter[int]] = {}
    for tick in ticks:
        boots.setdefault(tick.boot, Counter())[tick.seq] += 1
    lost = sum(max(seqs) - min(seqs) + 1 - len(seqs) for seqs in boots.values())
    repeated = sum(1 for seqs in boots.values() for times in seqs.values() if times > 1)
    return lost, repeated


def overlaps(ticks: Sequence[Tick]) -> Mapping[int, int]:
    """The moments at which more than one copy ran, and how many did.

    A copy is a boot on a host. At the moment of one copy's tick another one runs if it ticked shortly before and shortly after
    it.
    """
    arrivals: dict[tuple[str, str], list[int]] = {}
    for tick in ticks:
        arrivals.setdefault((tick.host, tick.boot), []).append(tick.at_ns)
    moments: dict[int, int] = {}
    if len(arrivals) < 2:
        return moments
    for tick in ticks:
        own = (tick.host, tick.boot)
        others = sum(1 for copy, times in arrivals.items() if copy != own and _runs_at(times, tick.at_ns))
        if others:
            moments[tick.at_ns] = others + 1
    return moments


def _runs_at(times: Sequence[int], moment: int) -> bool:
    before, after = bisect_left(times, moment), bisect_right(times, moment)
    return before > 0 and after < len(times) and moment - times[before - 1] <= OVERLAP_NS and times[after] - moment <= OVERLAP_NS


def judge_disk(records: Sequence[Record], acks: Iterable[Ack]) -> DiskReport:
    """Compare what is on the disk with what the guest was told.

    Args:
        records: every slot that is not empty, in order of slot.
        acks: every acknowledgement that was heard.
    """
    whole = [record for record in records if record.valid]
    found: dict[tuple[str, int], set[int]] = {}
    for record in whole:
        found.setdefault((record.boot, record.seq), set()).add(record.crc)
    places = Counter((record.boot, record.seq) for record in whole)
    told = set(acks)
    by_slot = {record.slot: record for record in whole}
    last = max(by_slot, default=-1)
    damaged = sum(1 for slot in range(last) if slot not in by_slot)
    unsafe = sum(1 for ack in told if ack.crc not in found.get((ack.boot, ack.seq), set()))
    follows = [(by_slot[slot], by_slot.get(slot - 1)) for slot in sorted(by_slot) if slot > 0]
    return DiskReport(
        written=len(whole),
        acknowledged=len(told),
        lost=max(unsafe, damaged),
        doubled=sum(1 for times in places.values() if times > 1),
        out_of_order=sum(1 for record in whole if record.seq != record.slot),
        chain_breaks=sum(1 for record, before in follows if before is None or record.prev_crc != before.crc),
    )
