"""What to do about a migration that does not converge: `decide(history, limits) -> (decision, reason)`.

"Remaining" is a saw-tooth: it falls to nearly nothing while an iteration is sent and jumps up when the next one begins, so single
samples say nothing. What counts is one number an iteration: what was left when it began (V, the bytes the guest dirtied while the
one before was sent), the most that was ever seen in it. `History` folds samples into that, and only those numbers are compared.

QEMU switches over by itself as soon as what is left fits into the allowed downtime. When V stops falling before that,
sending on is waste: what the guest dirties while V bytes are sent at B is again V (the fixed point V* = D(V*/B)). Then there
are three ways out, in this order as far as they are allowed: post-copy at once; throttling by auto-converge, which QEMU climbs by
itself once it was allowed at the start; and at the deadline, giving up with the guest running on the source.

What may live here: pure functions on progress samples. No I/O, no clock: time comes in with the samples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from segue import units
from segue.core.model import JobStatus, Limits, Progress


class Decision(StrEnum):
    """What the runner is to do now."""

    CONTINUE = "continue"
    START_POSTCOPY = "start-post-copy"
    GIVE_UP = "give-up"


# V counts as progress when it is at least this much below the best one before it; less is noise of the sampling.
PROGRESS_MARGIN: Final = 0.05
# Iterations without progress before it is called a stall. The first iteration sends all memory and proves nothing; two more
# show a trend. (oVirt acts at stall counts 1 to 6, Ganeti starts post-copy after the second dirty sync.)
STALLED_ITERATIONS: Final = 2
# And that long. Just above what fits into the downtime V falls by less than the margin, in iterations of milliseconds, and QEMU
# switches over a moment later (0.24 s for a guest that dirties at 3/4 of the wire's rate, with 300 ms allowed).
STALLED_MS: Final = 1000


# Without a byte sent the link is dead. After a shorter cut TCP goes on by itself: it tries again after 0.2, 0.4 … 25.6 s (RFC
# 6298).
SILENCE_MS: Final = 30_000


# What is over at the deadline, also where it never got going. A switchover is not: it ends in a moment, and better so.
_OVER_AT_DEADLINE: Final = frozenset({JobStatus.NONE, JobStatus.SETUP, JobStatus.ACTIVE, JobStatus.UNKNOWN})


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What the samples so far say, iteration by iteration.

    Attributes:
        iteration: the iteration that is being sent; 0 before the first sample.
        left_bytes: what was left when it began, as far as samples show.
        best_bytes: the least that was left at the beginning of any iteration that has ended, the first one not counted; ``None``
            before there is one.
        stalled: how many iterations ended in a row without getting below the best by `PROGRESS_MARGIN`.
        improved_ms: when the last one ended that did.
    """

    iteration: int = 0
    left_bytes: int = 0
    best_bytes: int | None = None
    stalled: int = 0
    improved_ms: int = 0


def observe(history: History, sample: Progress, limits: Limits) -> History:
    """Take one more sample into the history. Samples outside pre-copy change nothing.

    An iteration that was seen to begin with less than fits into the allowed downtime was seen too late (a busy hypervisor is slow
    to answer): QEMU would have switched over. It counts neither as progress nor as a stall.
    """
    if sample.status is not JobStatus.ACTIVE or sample.iteration < 1:
        return history
    if sample.iteration <= history.iteration:
        return replace(history, left_bytes=max(history.left_bytes, sample.ram_remaining_bytes))
    begun = replace(history, iteration=sample.iteration, left_bytes=sample.ram_remaining_bytes)
    fits = sample.throughput_bps * limits.max_downtime_ms // 1000
    # The first iteration carries all memory: what was left then says nothing about dirtying.
    if history.iteration <= 1 or history.left_bytes < fits * (1 - PROGRESS_MARGIN):
        return begun
    if history.best_bytes is None or history.left_bytes < history.best_bytes * (1 - PROGRESS_MARGIN):
        return replace(begun, best_bytes=history.left_bytes, stalled=0, improved_ms=sample.elapsed_ms)
    return replace(begun, best_bytes=min(history.best_bytes, history.left_bytes), stalled=history.stalled + 1)


def decide(history: History, sample: Progress, limits: Limits, *, silent_ms: int = 0) -> tuple[Decision, str]:
    """Say what to do now, and why in one sentence.

    Args:
        history: all samples up to now, this one included.
        sample: the newest one.
        limits: what is promised and what is allowed.
        silent_ms: how long not one byte has been sent.
    """
    if _may_give_up(sample.status, limits) and limits.within_ms is not None and sample.elapsed_ms >= limits.within_ms:
        return Decision.GIVE_UP, f"not done within {units.format_duration_ms(limits.within_ms)}"
    if sample.status is not JobStatus.ACTIVE:
        return Decision.CONTINUE, f"nothing to steer while {sample.status}"
    if silent_ms >= SILENCE_MS:
        return Decision.GIVE_UP, f"nothing was sent for {units.format_duration_ms(silent_ms)}: the link does not carry"
    if history.stalled < STALLED_ITERATIONS or sample.elapsed_ms - history.improved_ms < STALLED_MS:
        return Decision.CONTINUE, "still converging"
    left = history.best_bytes or 0
    needed = units.format_duration_ms(needed_ms(left, sample.throughput_bps))
    why = (
        f"{history.stalled} iterations without progress: each leaves {units.format_bytes(left)} or more, "
        f"which is {needed} of standstill at {units.format_rate(sample.throughput_bps)}; {limits.max_downtime_ms} ms are allowed"
    )
    if limits.postcopy:
        return Decision.START_POSTCOPY, why
    return Decision.CONTINUE, why


def _may_give_up(status: JobStatus, limits: Limits) -> bool:
    """A word of tomorrow may be one for post-copy, where post-copy is allowed."""
    return status in _OVER_AT_DEADLINE and not (status is JobStatus.UNKNOWN and limits.postcopy)


def needed_ms(left_bytes: int, bps: int) -> int:
    """Milliseconds to send that much at that rate; 0 where no rate is known yet."""
    return left_bytes * 1000 // bps if bps > 0 else 0


def percent_held(best_percent: int, sample: Progress) -> int:
    """How much of the guest's memory the destination holds in its newest version, in percent; it never runs backwards.

    Args:
        best_percent: what was shown last.
        sample: the newest look.
    """
    if sample.status is JobStatus.COMPLETED:
        return 100
    if sample.ram_total_bytes <= 0 or sample.iteration < 1:
        return best_percent
    now = 100 * (sample.ram_total_bytes - sample.ram_remaining_bytes) // sample.ram_total_bytes
    return max(best_percent, min(99, now))


def eta_ms(sample: Progress) -> int | None:
    """Milliseconds until pre-copy could switch over at the present rates; ``None`` where it would never.

    In pre-copy what is left shrinks at throughput minus dirty rate; in post-copy nothing is dirtied any more.
    """
    if sample.throughput_bps <= 0 or sample.ram_remaining_bytes <= 0:
        return None
    dirty = 0 if sample.status is JobStatus.POSTCOPY else sample.dirty_bps
    pace = sample.throughput_bps - dirty
    return None if pace <= 0 else sample.ram_remaining_bytes * 1000 // pace
