"""Pre-copy as QEMU does it, played: how long it sends, how much, and how much is left when it stops the guest, if it ever does.

QEMU's loop (migration/migration.c, migration_iteration_run; migration/ram.c): it sends the pages that its bitmap has, in order of
address, round and round. As soon as what the bitmap still has fits into the allowed downtime, and whenever it is empty, it looks:
it takes over what was written since it looked last, also where that was written before the page was sent. What fits then is sent
while the guest stands; else it goes on. What does not fit for long is the fixed point V* = D(V*/B) (`dirtying.fixed_point`).

A course D(T) is taken for sets of pages that are written round and round, each in its own time: any concave course is a sum of
such (`writers`). Memory is cut into a few hundred blocks that lie scattered, and only the moments are played at which QEMU
looks: a run takes milliseconds. Beside a simulation of every page, and beside measured migrations over 300 Mbit/s and
1 Gbit/s, it ends at the same limits and within a few percent of the time (docs/bench/forecast.md).

What may live here: pure arithmetic, no randomness: where blocks lie is a sequence of low discrepancy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from segue.core.dirtying import TICK_MS, Curve

PATIENCE: Final = 20
"""A pre-copy that has not ended after so many times M/B (and ten seconds) does not end."""
MOST_STALE: Final = 60
"""Nor does one of which QEMU looked so often without finding less left than ever before."""
BLOCKS: Final = 256
"""In which all that is written again and again is cut."""
LEAST_BLOCKS: Final = 8
OTHER_BLOCKS: Final = 128
"""In which memory is cut that is sent but once."""
UPPER_SHARE: Final = 0.5
UPPER_AT: Final = 0.95
"""Of what a guest has never touched, so much lies together below the uppermost part of its memory, where Linux keeps what it
allocates at boot; the rest lies scattered. (Seen of guests of 224 and 352 MiB that had used 60 and 70 % of it.)"""
_SCATTER: Final = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, slots=True)
class Run:
    """One pre-copy, as it was played: milliseconds, bytes. Not ended: these are of the moment at which it was given up."""

    ended: bool
    sending_ms: float
    standing_ms: float
    sent_bytes: float


@dataclass(frozen=True, slots=True)
class Writer:
    """A set of pages that is written round and round, in bytes, and the seconds that one round takes."""

    size: float
    period: float


def writers(curve: Curve) -> list[Writer]:
    """The sets that, each written round and round at its own pace, together dirty as the course says."""
    segments, before = [], (0.0, 0.0)
    for point in curve.points:
        if point[0] > before[0]:  # two may say the same
            segments.append((point[0], (point[1] - before[1]) / (point[0] - before[0])))
            before = point
    sets, room = [], curve.most_bytes
    for (period, slope), (_, after) in pairwise([*segments, (math.inf, curve.after_bps)]):
        size = min(room, (slope - after) * period)
        if size > 0:
            sets.append(Writer(size, size / (slope - after)))
            room -= size
    if curve.after_bps > 0 and room > 0:
        sets.append(Writer(room, room / curve.after_bps))
    return sets


@dataclass(slots=True)
class _Block:
    """A part of memory: what has to be sent of it, what QEMU counts, and when it is written (never: an endless period)."""

    bytes: float
    counted: float
    phase: float = 0.0
    period: float = math.inf
    dirty: bool = True
    sent_at: float = 0.0

    def written(self, since: float, until: float) -> bool:
        return (until - self.phase) // self.period > (since - self.phase) // self.period


def play(
    curve: Curve,
    left: float,
    bps: float,
    limit_ms: float,
    *,
    first: bool = True,
    behind: float = 0.0,
    dense: float = 1.0,
    clears_when_sent: bool = False,
) -> Run:
    """Play QEMU's loop from where it is.

    Args:
        curve: how the guest dirties.
        left: bytes that are to be sent in the iteration that is under way.
        bps: what the path carries.
        limit_ms: the downtime that is allowed.
        first: that iteration sends all memory.
        behind: what it has sent so far.
        dense: of the memory that QEMU counts in it, the share that has to be sent: pages of zeros are sent in no time.
        clears_when_sent: what was written before it was sent is not sent again: so with KVM, which write-protects pages anew
            only then (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, Linux 5.1, QEMU 4.2).
    """
    fits = limit_ms / 1000 * bps
    blocks = _memory(curve, left + behind, dense) if first else _written(curve, left)
    again = [block for block in blocks if block.period < math.inf]
    coarse = max((block.counted for block in again), default=0.0)
    fits_seen = max(fits, 2 * coarse)
    looked = -behind / bps  # when the iteration began; it is now 0
    cursor, sent = 0, 0.0
    while cursor < len(blocks) and blocks[cursor].bytes <= behind:
        block, cursor = blocks[cursor], cursor + 1
        behind -= block.bytes
        block.dirty, block.sent_at = False, -behind / bps
    cursor %= max(1, len(blocks))
    now = 0.0
    counted = sum(block.counted for block in blocks if block.dirty)
    waiting = sum(block.dirty for block in blocks)
    least, stale, patience = math.inf, 0, PATIENCE * left / bps + 10
    if first and counted <= fits:
        return Run(True, 0.0, left / bps * 1000, left)
    while now < patience and stale < MOST_STALE:
        # It is found at the next look, half a tick later on average.
        over = bps * TICK_MS / 2000
        while waiting and (counted > fits_seen or over > 0):
            block = blocks[cursor]
            cursor = (cursor + 1) % len(blocks)
            if not block.dirty:
                continue
            over -= block.bytes if counted <= fits_seen else 0.0
            counted, waiting = counted - block.counted, waiting - 1
            sent += block.bytes
            now += block.bytes / bps
            block.dirty, block.sent_at = False, now
        now += 0.0 if waiting else max(over, bps * TICK_MS / 2000) / bps
        for block in again:
            if not block.dirty and block.written(max(looked, block.sent_at) if clears_when_sent else looked, now):
                block.dirty = True
        looked = now
        counted = sum(block.counted for block in blocks if block.dirty)
        waiting = sum(block.dirty for block in blocks)
        if counted <= fits_seen:
            rest = min(fits, sum(block.bytes for block in blocks if block.dirty))
            return Run(True, now * 1000, rest / bps * 1000, sent + rest)
        stale = 0 if counted < 0.99 * least else stale + 1
        least = min(least, counted)
    return Run(False, now * 1000, math.inf, sent)


def _memory(curve: Curve, memory: float, dense: float) -> Sequence[_Block]:
    """All memory in order of address: what is written again and again lies scattered in what is not."""
    sets = writers(curve)
    working_set = sum(one.size for one in sets)
    share = min(1.0, memory / working_set) if working_set else 1.0
    once = max(0.0, memory - working_set)
    untouched = memory / dense - memory
    counted = once + (1 - UPPER_SHARE) * untouched
    others = [((n + 0.5) / OTHER_BLOCKS, _Block(once / OTHER_BLOCKS, counted / OTHER_BLOCKS)) for n in range(OTHER_BLOCKS)]
    upper = (UPPER_AT, _Block(0.0, UPPER_SHARE * untouched))
    return [block for _, block in sorted([*_scattered(sets, share), *others, upper], key=lambda one: one[0])]


def _written(curve: Curve, left: float) -> Sequence[_Block]:
    """A later iteration: so much is left of what is written again and again; what is more than that is sent but once."""
    sets = writers(curve)
    blocks = [block for _, block in sorted(_scattered(sets), key=lambda one: one[0])]
    for block in blocks:
        block.dirty = left > 0
        left -= block.bytes
    if left > 0:
        blocks.insert(0, _Block(left, left))
    return blocks


def _scattered(sets: Sequence[Writer], share: float = 1.0) -> Iterator[tuple[float, _Block]]:
    """The blocks of those sets, each with its place between 0 and 1."""
    total, number = sum(one.size for one in sets), 0
    for one in sets:
        count = max(LEAST_BLOCKS, round(BLOCKS * one.size / total))
        size = one.size * share / count
        for index in range(count):
            number += 1
            yield number * _SCATTER % 1.0, _Block(size, size, (index + 0.5) / count * one.period, one.period)
