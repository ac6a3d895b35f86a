"""Policies as data: a declared ladder of what is tried, and when, while a migration does not converge.

A ladder is climbed from its first rung to its last, one at a time, each when all that it waits for is there. It may be written in
segue.toml (docs/guide/convergence.md), and the ladders that other managers climb can be written down in the same words:

    [policies.patient]
    start_downtime = "100ms"
    auto_converge = true
    rungs = [
      { stalled = 2, do = "allow-downtime", downtime = "200ms" },
      { stalled = 4, do = "allow-downtime", downtime = "500ms" },
      { stalled = 6, do = "start-post-copy" },
    ]

Where none is asked for, `segue.core.convergence.plan` makes one for this guest, this path and these promises.

What may live here: the shapes of a ladder, and its words. Who climbs it is `segue.core.convergence`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from segue import units

if TYPE_CHECKING:
    from segue.core.model import Limits, Progress


class Decision(StrEnum):
    """What the runner is to do now."""

    CONTINUE = "continue"
    ALLOW_DOWNTIME = "allow-downtime"
    """Let the guest stand still longer at its switchover."""
    THROTTLE = "throttle"
    """Let QEMU's auto-converge take so much of the guest's CPU time."""
    START_POSTCOPY = "start-post-copy"
    SUSPEND = "suspend"
    """Let the guest stand still for as long as sending what is left takes: pre-copy then ends at once."""
    EXTEND = "extend"
    """A promise is not kept, and it goes on all the same."""
    GIVE_UP = "give-up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One step of a ladder: what is done when *all* that is given has come true. At least one condition is given.

    Attributes:
        do: what is done; `Decision.CONTINUE` is not.
        after_ms: so long after the migration began.
        after_ms_per_gib: the same, times the guest's memory in GiB.
        iteration: QEMU sends this iteration, or a later one; all memory is the first.
        stalled: so many iterations in a row left no less than the best one before them.
        unchanged_ms: so long has no iteration left less than the best one before it.
        downtime_ms: what is allowed then, for `Decision.ALLOW_DOWNTIME`.
        times: in place of `downtime_ms`: so many times what was allowed before.
        at_most_ms: bound of `times`.
        throttle_percent: for `Decision.THROTTLE`.
        fits: what each iteration leaves now fits into `downtime_ms`.
        slowed_percent: QEMU slows the guest by so much or more.
        level: the newest iteration began with hardly less than the one before it.
        deltas_shown: it was seen what deltas bring.
        again: stay on this rung, and do it again when its conditions have come true anew (`stalled` and `unchanged_ms` are
            counted from the last time), until its downtime is at its bound.
    """

    do: Decision
    after_ms: int | None = None
    after_ms_per_gib: int | None = None
    iteration: int | None = None
    stalled: int | None = None
    unchanged_ms: int | None = None
    downtime_ms: int | None = None
    times: float | None = None
    at_most_ms: int = units.MAX_DOWNTIME_MS
    throttle_percent: int | None = None
    fits: bool = False
    slowed_percent: int | None = None
    level: bool = False
    deltas_shown: bool = False
    again: bool = False

    def __post_init__(self) -> None:
        """See that it makes sense; a ValueError says in words what does not."""
        conditions = (
            self.after_ms,
            self.after_ms_per_gib,
            self.iteration,
            self.stalled,
            self.unchanged_ms,
            self.slowed_percent,
        )
        problems = {
            "a rung says what it waits for: after, after_per_gib, iteration, stalled or unchanged": not any(
                one is not None for one in conditions
            ),
            "a rung does something: 'continue' is nothing": self.do in (Decision.CONTINUE, Decision.EXTEND),
            "allow-downtime needs one of downtime and times": (self.do is Decision.ALLOW_DOWNTIME)
            is not ((self.downtime_ms is None) is not (self.times is None)),
            "throttle needs its percent, 1 to 99": (self.do is Decision.THROTTLE) is (self.throttle_percent is None),
        }
        for problem, there in problems.items():
            if there:
                raise ValueError(problem)

    @property
    def aside(self) -> bool:
        """It may never come true, so the rungs after it are looked at, too. Operators have no word for such."""
        return self.fits or self.slowed_percent is not None

    def when(self, policy: Policy, sample: Progress) -> dict[str, bool]:
        """The conditions that hang on the sample alone, in words, each with whether it is met."""
        per_gib_ms = policy.per_gib_ms(self.after_ms_per_gib, sample)
        met = {}
        if self.after_ms is not None:
            met[f"{units.format_duration_ms(self.after_ms)} have passed"] = sample.elapsed_ms >= self.after_ms
        if per_gib_ms is not None:
            met[f"{units.format_duration_ms(per_gib_ms)} have passed"] = sample.elapsed_ms >= per_gib_ms
        if self.iteration is not None:
            met[f"iteration {self.iteration} has begun"] = sample.iteration >= self.iteration
        if self.slowed_percent is not None:
            met[f"the guest is slowed by {self.slowed_percent} % or more"] = sample.throttle_percent >= self.slowed_percent
        return met


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A ladder, and how a migration under it begins.

    Attributes:
        name: for people.
        rungs: in the order in which they are climbed.
        why: what it was chosen for, one sentence; shown where it begins.
        start_downtime_ms: what is allowed from the start; ``None``: what was promised (`Limits.max_downtime_ms`).
        auto_converge: QEMU may slow the guest, by its own ladder from `throttle_initial` on; ``None``: as `Limits` say.
        throttle_initial, throttle_increment: in percent of the guest's CPU time; ``None``: QEMU's own (20 and 10).
        bandwidth_bps: no more than this; ``None``: as `Limits` say.
        least_gib: for `Rung.after_ms_per_gib` a guest counts as having at least so much memory.
    """

    name: str
    rungs: tuple[Rung, ...] = ()
    why: str = ""
    start_downtime_ms: int | None = None
    auto_converge: bool | None = None
    throttle_initial: int | None = None
    throttle_increment: int | None = None
    bandwidth_bps: int | None = None
    least_gib: int = 0

    @property
    def needs_postcopy(self) -> bool:
        """One of its rungs goes over to post-copy, which both QEMUs must be made ready for at the start."""
        return any(rung.do is Decision.START_POSTCOPY for rung in self.rungs)

    def begin_with(self, limits: Limits) -> Limits:
        """What a migration under it begins with: its own word goes before the operator's single ones, which name no ladder."""
        return replace(
            limits,
            max_downtime_ms=self.start_downtime_ms or limits.max_downtime_ms,
            auto_converge=limits.auto_converge if self.auto_converge is None else self.auto_converge,
            postcopy=limits.postcopy or self.needs_postcopy,
            bandwidth_bps=self.bandwidth_bps or limits.bandwidth_bps,
        )

    def per_gib_ms(self, ms: int | None, sample: Progress) -> int | None:
        """A time for each GiB, for the guest of that sample."""
        if ms is None:
            return None
        return max(ms * self.least_gib, round(ms * sample.ram_total_bytes / units.GIB))


OWN: Final = "segue"
"""The name of the ladder that Segue makes itself."""
