"""What to do about a migration that does not converge: `decide(history, limits) -> (decision, reason)`.

"Remaining" is a saw-tooth: it falls while an iteration is sent and jumps up when the next one begins. So samples are folded into
one record an iteration (`History`), and only their minima are compared, at iteration boundaries.

QEMU switches over by itself as soon as what is left fits into the allowed downtime. When the minima stop falling before that, sending
on is waste: what the guest dirties while V bytes are sent at B is again V (the fixed point V* = D(V*/B)). Then there are three ways
out, in this order as far as they are allowed: post-copy at once; throttling by auto-converge, which QEMU climbs by itself once it
was allowed at the start; and at the deadline, giving up with the guest running on the source.

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


# A minimum counts as progress when it is at least this much below the best one before it; less is noise of the sampling.
PROGRESS_MARGIN: Final = 0.05
# Iterations without progress before it is called a stall. The first iteration sends all memory and proves nothing; two more
# show a trend. (oVirt acts at stall counts 1 to 6, Ganeti starts post-copy after the second dirty sync.)
STALLED_ITERATIONS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What the samples so far say, iteration by iteration.

    Attributes:
        iteration: the iteration that is being sent.
        low_bytes: the least that remained in it so far.
        best_bytes: the least that remained at the end of any earlier iteration; ``None`` before one has ended.
        stalled: how many iterations ended in a row without getting below the best by `PROGRESS_MARGIN`.
    """

    iteration: int = 0
    low_bytes: int | None = None
    best_bytes: int | None = None
    stalled: int = 0


def observe(history: History, sample: Progress) -> History:
    """Take one more sample into the history. Samples outside pre-copy change nothing."""
    if sample.status is not JobStatus.ACTIVE or sample.iteration < 1:
        return history
    if history.low_bytes is None or sample.iteration <= history.iteration:
        low = sample.ram_remaining_bytes if history.low_bytes is None else min(history.low_bytes, sample.ram_remaining_bytes)
        return replace(history, iteration=max(sample.iteration, history.iteration), low_bytes=low)
    ended = history.low_bytes
    best, stalled = history.best_bytes, history.stalled
    if history.iteration > 1:  # the first pass carries all memory: its minimum says nothing about dirtying
        improved = best is None or ended < best * (1 - PROGRESS_MARGIN)
        stalled = 0 if improved else stalled + (sample.iteration - history.iteration)
        best = ended if best is None else min(best, ended)
    return History(iteration=sample.iteration, low_bytes=sample.ram_remaining_bytes, best_bytes=best, stalled=stalled)


def decide(history: History, sample: Progress, limits: Limits) -> tuple[Decision, str]:
    """Say what to do now, and why in one sentence.

    Args:
        history: all samples up to now, this one included.
        sample: the newest one.
        limits: what is promised and what is allowed.
    """
    if sample.status is not JobStatus.ACTIVE:
        return Decision.CONTINUE, f"nothing to steer while {sample.status}"
    if limits.within_ms is not None and sample.elapsed_ms >= limits.within_ms:
        return Decision.GIVE_UP, f"not done within {units.format_duration_ms(limits.within_ms)}"
    if history.stalled < STALLED_ITERATIONS:
        return Decision.CONTINUE, "still converging"
    left = history.best_bytes or 0
    needed = units.format_duration_ms(needed_ms(left, sample.throughput_bps))
    why = (
        f"{history.stalled} iterations without progress: at best {units.format_bytes(left)} were left, "
        f"which is {needed} at {units.format_rate(sample.throughput_bps)}; {limits.max_downtime_ms} ms of downtime are allowed"
    )
    if limits.postcopy:
        return Decision.START_POSTCOPY, why
    return Decision.CONTINUE, why


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
