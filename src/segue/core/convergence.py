"""What to do about a migration that does not converge: `decide(history, limits, policy) -> (decision, reason)`.

"Remaining" is a saw-tooth: it falls to nearly nothing while an iteration is sent and jumps up when the next one begins, so single
samples say nothing. What counts is one number an iteration: what was left when it began (V, the bytes the guest dirtied while the
one before was sent), the most that was ever seen in it. `History` folds samples into that, and only those numbers are compared.

QEMU switches over by itself as soon as what is left fits into the allowed downtime. When V stops falling before that,
sending on is waste: what the guest dirties while V bytes are sent at B is again V (the fixed point V* = D(V*/B)). What is done
then is data, a ladder (`segue.core.policy`): either one that an operator declared, or the one that `plan` makes. Above every
ladder stand the promises (`Limits`): a deadline or a budget of bytes that is spent, a guest that is slowed more than was allowed
end in what was asked for then (`OnMiss`).

What may live here: pure functions on progress samples. No I/O, no clock: time comes in with the samples.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from typing import Final

from segue import units
from segue.core.deltas import FLOW_FROM, SEEN_FROM, soon
from segue.core.forecast import (
    HARDLY_RUNNING_PERCENT,
    MOST_THROTTLE,
    Forecast,
    Means,
    right_limit,
    slowed_limit,
    slowed_ms,
)
from segue.core.model import JobStatus, Limits, OnMiss, Progress
from segue.core.policy import OWN, Decision, Policy, Rung

# V counts as progress when it is at least this much below the best one before it; less is noise of the sampling.
PROGRESS_MARGIN: Final = 0.05
# Iterations without progress before it is called a stall. The first iteration sends all memory and proves nothing; two more
# show a trend. (oVirt acts at stall counts 1 to 6, Ganeti starts post-copy after the second dirty sync.)
STALLED_ITERATIONS: Final = 2
ONE_STALL: Final = 1
"""Where QEMU's own count says the same, too; and where post-copy is allowed, as going over a little early costs less than one
more iteration that may bring nothing."""
# And that long. Just above what fits into the downtime V falls by less than the margin, in iterations of milliseconds, and QEMU
# switches over a moment later (0.24 s for a guest that dirties at 3/4 of the wire's rate, with 300 ms allowed).
STALLED_MS: Final = 1000


LONG_MS: Final = 1500
"""What began and ended between samples is off by up to 0.1 s of sending: for an iteration of that length hardly more than
`PROGRESS_MARGIN`, so that one tells what it takes two shorter ones to tell."""
PLAIN_KEPT: Final = 15
"""Samples of what a path carries: a second and a half of them."""
LEVEL_MS: Final = 1000
"""Of 12 MiB that are dirtied whole between any two looks of QEMU's, samples 0.1 s apart showed 8.7 to 12.7 MiB left."""

# Without a byte sent the link is dead. After a shorter cut TCP goes on by itself: it tries again after 0.2, 0.4 … 25.6 s (RFC
# 6298).
SILENCE_MS: Final = 30_000


# What is over at the deadline, also where it never got going. A switchover is not: it ends in a moment, and better so.
_OVER_AT_DEADLINE: Final = frozenset({JobStatus.NONE, JobStatus.SETUP, JobStatus.ACTIVE, JobStatus.UNKNOWN})
_BEFORE_IT_BEGINS: Final = frozenset({JobStatus.NONE, JobStatus.SETUP})


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What the samples so far say, iteration by iteration.

    Attributes:
        iteration: the iteration that is being sent; 0 before the first sample.
        left_bytes: what was left when it began, as far as samples show.
        before_bytes: the same of the one before, all memory not counted; 0 before there is one.
        best_bytes: the least that was left at the beginning of any iteration, the first one not counted; ``None`` before there
            is one.
        stalled: how many iterations in a row began with no less than the best by `PROGRESS_MARGIN`.
        improved_ms: when the last one began that did.
        lately: of the samples of the last `LEVEL_MS`, after the first iteration: when, how much was left, and at which rate.
        begun: of the iterations that began in the last `LEVEL_MS`, the first one not counted, and of one more before them: when,
            and how much of its memory had got over.
        plain: the rates of the newest samples of before any delta went over.
    """

    iteration: int = 0
    left_bytes: int = 0
    before_bytes: int = 0
    best_bytes: int | None = None
    stalled: int = 0
    improved_ms: int = 0
    lately: tuple[tuple[int, int, int], ...] = ()
    begun: tuple[tuple[int, int], ...] = ()
    plain: tuple[int, ...] = ()

    @property
    def level_bytes(self) -> int:
        """What an iteration leaves now, as far as samples show: near what is allowed it is shorter than they are apart."""
        return max([self.left_bytes, *(left for _, left, _ in self.lately)])

    @property
    def level_bps(self) -> int:
        """At which rate it is sent; 0 where none is known. One sample's is off by a quarter now and then."""
        rates = [bps for _, _, bps in self.lately if bps]
        return round(statistics.median(rates)) if rates else 0

    @property
    def carries_bps(self) -> int:
        """What the path carries, by what went over it before any delta did; 0 where nobody knows."""
        return round(statistics.median(self.plain)) if self.plain else 0

    @property
    def pace_bps(self) -> int:
        """How much was sent a second from one iteration's beginning to another's, QEMU's looks between them and all.

        They take most of the time of a guest that writes a lot flat out under emulation: of 64 MiB 0.25 s in 0.58.
        """
        if len(self.begun) < 2:
            return self.level_bps
        (since_ms, before), *_, (until_ms, after) = self.begun
        return (after - before) * 1000 // max(1, until_ms - since_ms)

    @property
    def last_took_ms(self) -> int:
        """How long the iteration took that ended last; 0 where none has since the first."""
        return self.begun[-1][0] - self.begun[-2][0] if len(self.begun) > 1 else 0

    @property
    def level_ms(self) -> int:
        """How long that takes to be sent; 0 where no rate is known."""
        return needed_ms(self.level_bytes, self.level_bps)

    @property
    def whole_ms(self) -> int:
        """How long it would take if every page of it had to go over whole; 0 where nobody knows what the path carries."""
        return needed_ms(self.level_bytes, self.carries_bps)


def observe(history: History, sample: Progress, allowed_ms: int) -> History:
    """Take one more sample into the history. Samples outside pre-copy change nothing.

    Args:
        history: the samples before.
        sample: the newest one.
        allowed_ms: the downtime that is allowed now.

    An iteration that was seen to begin with less than fits into the allowed downtime was seen too late (a busy hypervisor is slow
    to answer): QEMU would have switched over. It counts neither as progress nor as a stall.
    """
    if sample.status is not JobStatus.ACTIVE or sample.iteration < 1:
        return history
    if not sample.saved_bytes and sample.throughput_bps:
        history = replace(history, plain=(*history.plain, sample.throughput_bps)[-PLAIN_KEPT:])
    if sample.iteration > 1:
        now = (sample.elapsed_ms, sample.left_when_looked_bytes, sample.memory_bps)
        history = replace(history, lately=(*(one for one in history.lately if now[0] - one[0] < LEVEL_MS), now))
    if sample.iteration <= history.iteration:
        return replace(history, left_bytes=max(history.left_bytes, sample.ram_remaining_bytes))
    left = sample.ram_remaining_bytes
    before = history.left_bytes if history.iteration > 1 else 0
    begun = replace(history, iteration=sample.iteration, left_bytes=left, before_bytes=before, begun=_begun(history, sample))
    fits = sample.throughput_bps * allowed_ms // 1000
    # The first iteration carries all memory: what was left then says nothing about dirtying.
    if sample.iteration <= 1 or left < fits * (1 - PROGRESS_MARGIN):
        return begun
    if history.best_bytes is None or left < history.best_bytes * (1 - PROGRESS_MARGIN):
        return replace(begun, best_bytes=left, stalled=0, improved_ms=sample.elapsed_ms)
    return replace(begun, best_bytes=min(history.best_bytes, left), stalled=history.stalled + 1)


def _begun(history: History, sample: Progress) -> tuple[tuple[int, int], ...]:
    if sample.iteration < 2:
        return ()
    older = sum(sample.elapsed_ms - began_ms >= LEVEL_MS for began_ms, _ in history.begun)
    return (*history.begun[max(0, older - 1) :], (sample.elapsed_ms, sample.sent_bytes + sample.saved_bytes))


def background_bps(history: History, limits: Limits) -> int | None:
    """What post-copy is to send besides what the guest waits for, in bytes a second; ``None``: as fast as it goes.

    Where nothing limits it the path's queue is always full, and each page that the guest asks for comes behind it. What was seen
    under a limit that somebody set says nothing of the path.
    """
    if limits.bandwidth_bps is not None or not history.carries_bps:
        return None
    return round(history.carries_bps * BACKGROUND_SHARE)


BACKGROUND_SHARE: Final = 0.9
"""With less the guest has to ask for more pages: over 300 Mbit/s clients of one that writes 60 MiB/s waited for 577 ms with this,
for 836 with all, for 1027 with 0.6; over 1 Gbit/s of one that writes 160 for 317, for 408 with all and for 403 with 0.8."""


def stuck_bytes(history: History, sample: Progress, limits: Limits) -> int | None:
    """What is left whenever an iteration begins, where iterations bring no progress: the fixed point, as it is seen.

    Where post-copy is not the way out it is believed only when QEMU, too, counts as much dirtied as is sent: samples alone took a
    guest for stuck that dirtied 0.88 of it, and converged in 14 s.
    """
    sure = history.stalled >= STALLED_ITERATIONS or history.last_took_ms >= LONG_MS
    sent_bps = history.pace_bps if sure else history.level_bps
    believed = limits.postcopy or sample.dirty_bps >= sent_bps * (1 - PROGRESS_MARGIN)
    stalled = history.stalled >= ONE_STALL and sample.elapsed_ms - history.improved_ms >= STALLED_MS
    return history.level_bytes if stalled and believed else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A decision and its reason.

    Attributes:
        reason: one sentence.
        downtime_ms: what is to be allowed, for `Decision.ALLOW_DOWNTIME`.
        throttle_percent: by how much the guest is to be slowed, for `Decision.THROTTLE`.
        limits: what is still promised, for `Decision.EXTEND`.
    """

    decision: Decision
    reason: str
    downtime_ms: int | None = None
    throttle_percent: int | None = None
    limits: Limits | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Climb:
    """How far up a ladder a migration is.

    Attributes:
        rung: the next one.
        downtime_ms: what a rung has allowed; 0: none has.
        told_ms: what QEMU was told in its place, as it counts deltas by what they send (`_let_go`); 0: that.
        begun_ms: what was allowed from the start; 0: what was promised.
        acted_ms: when the last rung acted.
        acted_stalled: how many iterations had stalled then.
        missed_ms: when a promise was found not to be kept; ``None`` while all are.
    """

    rung: int = 0
    downtime_ms: int = 0
    told_ms: int = 0
    begun_ms: int = 0
    acted_ms: int = 0
    acted_stalled: int = 0
    missed_ms: int | None = None


def allowed_ms(limits: Limits, climb: Climb) -> int:
    """The downtime that is allowed now."""
    return climb.downtime_ms or climb.begun_ms or limits.max_downtime_ms


MISSED_GRACE_MS: Final = 60_000
"""After the deadline, for what was asked for then to take effect: post-copy starts within a second, and a guest that stands is
sent within the time of an iteration. What is still in pre-copy then is given up."""


_MEANS: Final = {
    OnMiss.ABORT: Decision.GIVE_UP,
    OnMiss.SUSPEND: Decision.SUSPEND,
    OnMiss.POSTCOPY: Decision.START_POSTCOPY,
    OnMiss.EXTEND: Decision.EXTEND,
}


def plan(limits: Limits, expected: Forecast | None = None, *, steers_throttle: bool = False, deltas: bool = False) -> Policy:
    """The ladder that Segue climbs where no other is asked for.

    With a forecast it is that: the right downtime limit at once, slowing the guest only where that lets it converge and by as
    much as that takes, post-copy as soon as all was sent once, or at once what was asked for when a promise cannot be kept.
    Where the forecast is not sure of it, or there is none, iterations that bring no progress decide. A forecast knows nothing of
    deltas: where they show soon what they bring, nothing is given up before, and nothing goes over to post-copy.

    Args:
        limits: what was promised and what is allowed.
        expected: the forecast.
        steers_throttle: auto-converge can be told on the way by how much to slow the guest.
        deltas: of a page that was sent before only what has changed is sent.
    """
    if limits.prefer_postcopy:
        return Policy(name=OWN, rungs=(Rung(do=Decision.START_POSTCOPY, iteration=2),), why="post-copy is preferred")
    way_out = Decision.START_POSTCOPY if limits.postcopy else _MEANS[limits.on_miss]
    most = min(limits.max_slowdown_percent or MOST_THROTTLE, MOST_THROTTLE)
    waits = deltas and expected is not None and soon(expected)
    goes_over = replace(_stalls(ONE_STALL, Decision.START_POSTCOPY), deltas_shown=deltas)
    rungs: list[Rung] = []
    match expected.choice if expected is not None else Means.PRECOPY:
        case Means.PRECOPY:
            if expected is not None and (limit_ms := right_limit(expected, limits)) < limits.max_downtime_ms:
                rungs.append(Rung(do=Decision.ALLOW_DOWNTIME, iteration=1, downtime_ms=limit_ms))
            rungs.append(_whole_promise(limits))
            if limits.postcopy:
                rungs.append(goes_over)
            elif limits.auto_converge:
                rungs += _slowing(limits, most, steers_throttle=steers_throttle)
        case Means.THROTTLED:
            percent = expected.throttled.throttle_percent if expected is not None else most
            if limits.auto_converge and steers_throttle:
                rungs.append(Rung(do=Decision.THROTTLE, iteration=1, throttle_percent=percent))
                rungs.append(_stalls(3 * STALLED_ITERATIONS, Decision.THROTTLE, throttle_percent=most))
            rungs.append(_whole_promise(limits))
            rungs += _hardly_running(limits)
        case Means.POSTCOPY if expected is not None and expected.precopy.hopeless and not waits:
            rungs.append(Rung(do=Decision.START_POSTCOPY, iteration=2))
        case Means.POSTCOPY:
            rungs += [_whole_promise(limits), goes_over]
        case None if way_out is Decision.EXTEND:
            rungs.append(_whole_promise(limits))
            rungs += _slowing(limits, most, steers_throttle=steers_throttle) if limits.auto_converge else []
        case None if expected is not None and expected.hopeless and not waits:
            rungs.append(Rung(do=way_out, iteration=1 if way_out is Decision.GIVE_UP else 2))
        case None if way_out is Decision.GIVE_UP:
            declines = Rung(do=way_out, after_ms=DECLINE_MS, deltas_shown=waits)
            if waits and expected is not None and expected.seen.outruns_path:
                declines = replace(declines, level=True)
            elif waits or limits.auto_converge:
                declines = replace(declines, stalled=ONE_STALL, unchanged_ms=STALLED_MS)
            rungs += [_whole_promise(limits), declines]
        case None:
            rungs.append(_stalls(STALLED_ITERATIONS, way_out))
    return Policy(name=OWN, rungs=tuple(rungs), why=expected.reason if expected is not None else "")


DECLINE_MS: Final = 8_000
"""Where a forecast says no without being sure, it is tried for so long: by then it was corrected by what the migration itself
shows, and whoever waits hears within ten seconds what cannot be."""
FIRST_THROTTLE: Final = 60
"""Without a forecast of how much is needed: QEMU's own 20 % is rarely enough, and each further step costs it seconds."""


def _slowing(limits: Limits, most: int, *, steers_throttle: bool) -> list[Rung]:
    """The guest is slowed as iterations stall; where nobody steers that, QEMU does.

    Short ones go by before QEMU has acted at all: it takes two seconds for each step.
    """
    rungs = []
    for times, percent in ((1, min(most, FIRST_THROTTLE)), (3, most)) if steers_throttle else ():
        slows = _stalls(times * STALLED_ITERATIONS, Decision.THROTTLE, throttle_percent=percent)
        rungs += [replace(slows, unchanged_ms=times * STALLED_MS), _whole_promise(limits)]
    return rungs + _hardly_running(limits)


def _whole_promise(limits: Limits) -> Rung:
    """All that was promised, which a ladder may have begun with less than, as soon as that is enough.

    Not before: what does not fit goes over all the same when QEMU takes a moment's luck for what the path carries, and stands for
    longer (375 ms of sending were let go at 300, and a client waited for 472).
    """
    return replace(_stalls(ONE_STALL, Decision.ALLOW_DOWNTIME, downtime_ms=limits.max_downtime_ms), fits=True)


def _hardly_running(limits: Limits) -> list[Rung]:
    """Less than was promised, where auto-converge has come so far that clients wait for the guest besides.

    And all of it, where it hardly runs at all: each further iteration costs its clients more than what is promised.
    """
    least_ms = slowed_limit(limits, HARDLY_RUNNING_PERCENT)
    if least_ms >= limits.max_downtime_ms:
        return []
    return [
        Rung(do=Decision.ALLOW_DOWNTIME, slowed_percent=percent, downtime_ms=downtime_ms)
        for percent, downtime_ms in ((HARDLY_RUNNING_PERCENT, least_ms), (STANDING_PERCENT, limits.max_downtime_ms))
    ]


STANDING_PERCENT: Final = 95
"""QEMU's last step is 99: a guest of which each iteration left 190 ms stood and ran by turns of a second for two more of them."""


def _stalls(count: int, do: Decision, *, downtime_ms: int | None = None, throttle_percent: int | None = None) -> Rung:
    return Rung(do=do, stalled=count, unchanged_ms=STALLED_MS, downtime_ms=downtime_ms, throttle_percent=throttle_percent)


def decide(
    history: History, sample: Progress, limits: Limits, policy: Policy, climb: Climb, *, silent_ms: int = 0
) -> tuple[Choice, Climb]:
    """Say what to do now, and why in one sentence.

    Args:
        history: all samples up to now, this one included.
        sample: the newest one.
        limits: what is promised and what is allowed.
        policy: the ladder that is climbed.
        climb: how far up it is.
        silent_ms: how long not one byte has been sent.

    Returns:
        The choice, and how far up the ladder it is once that was done.
    """
    if missed := _missed(sample, limits):
        return _on_miss(*missed, sample, limits, climb)
    if sample.status is not JobStatus.ACTIVE:
        return Choice(decision=Decision.CONTINUE, reason=f"nothing to steer while {sample.status}"), climb
    if silent_ms >= SILENCE_MS:
        why = f"nothing was sent for {units.format_duration_ms(silent_ms)}: the link does not carry"
        return Choice(decision=Decision.GIVE_UP, reason=why), climb
    if sample.saved_bytes and policy.name == OWN and (let_go := _let_go(history, sample, limits, climb)):
        return let_go
    if history.stalled < climb.acted_stalled:  # it made progress since: what follows is counted from nothing
        climb = replace(climb, acted_stalled=0)
    for number, rung in enumerate(policy.rungs[climb.rung :], climb.rung):
        if _is_given(rung, climb):
            continue
        conditions = {**rung.when(policy, sample), **_stall(rung, history, sample, limits, climb)}
        if all(conditions.values()):
            return _act(rung, history, sample, limits, policy, replace(climb, rung=number))
        if not rung.aside:
            break
    return Choice(decision=Decision.CONTINUE, reason=_where_it_stands(history, sample, limits, climb)), climb


LET_GO_AFTER_MS: Final = 500
"""For so long all samples say that it fits: QEMU, which looks every 50 ms, would have gone by itself."""
LET_GO_TIMES: Final = 2
"""What deltas send goes up and down from one tenth of a second to the next, by which QEMU goes."""
MOST_TOLD_MS: Final = 60_000


def _let_go(history: History, sample: Progress, limits: Limits, climb: Climb) -> tuple[Choice, Climb] | None:
    """What is left fits, and QEMU does not see it: `None` where that is not so.

    It multiplies what it may take with what it has sent lately (migration/migration.c, migration_update_counters), and takes what
    deltas send for all that the path carries: a guest of which 0.4 MiB were left was taken for one that needs 6.6 s of
    standstill. So it is told as much more as the path carries more. Should every page that is left have to go over whole, it
    would still fit into what is allowed; when more is left again, QEMU is told no more than that. By a ladder that was declared
    it is told what stands there.
    """
    allowed = allowed_ms(limits, climb)
    lately = history.lately
    seen = bool(lately) and sample.elapsed_ms - lately[0][0] >= LET_GO_AFTER_MS
    needed = history.whole_ms
    if seen and 0 < needed <= allowed and history.carries_bps > sample.throughput_bps:
        wanted = min(MOST_TOLD_MS, LET_GO_TIMES * history.level_bytes * 1000 // max(1, sample.throughput_bps))
        if wanted <= max(allowed, climb.told_ms * (1 + PROGRESS_MARGIN)):
            return None
        why = f"{wanted} ms: what is left takes {needed} ms at what the path carries, and QEMU counts by what the deltas send"
    elif climb.told_ms and needed > allowed:
        wanted, why = allowed, f"{allowed} ms: more is left again"
    else:
        return None
    after = replace(climb, told_ms=wanted if wanted > allowed else 0)
    return Choice(decision=Decision.ALLOW_DOWNTIME, reason=why, downtime_ms=wanted), after


def does_not_begin(sample: Progress, since_ms: int) -> bool:
    """Nothing was sent for as long as a link that carries is never silent, and the hypervisors are still at what comes before.

    It is told and not acted on: a destination may lay hands on all of a large guest's memory before it listens, and TCP gives up
    by itself after two minutes.

    Args:
        sample: the newest look.
        since_ms: when it was first looked at, by the same clock.
    """
    nothing = not (sample.sent_bytes or sample.disk_total_bytes)
    return nothing and sample.status in _BEFORE_IT_BEGINS and sample.elapsed_ms - since_ms >= SILENCE_MS


def _missed(sample: Progress, limits: Limits) -> tuple[str, Limits] | None:
    """The promise that is not kept, in words, and the others; ``None`` when all are, or nothing can be done about it any more."""
    if not _may_give_up(sample.status, limits):
        return None
    if limits.within_ms is not None and sample.elapsed_ms >= limits.within_ms:
        return f"not done within {units.format_duration_ms(limits.within_ms)}", replace(limits, within_ms=None)
    if limits.max_bytes is not None and sample.sent_bytes >= limits.max_bytes:
        sent, allowed = map(units.format_bytes, (sample.sent_bytes, limits.max_bytes))
        return f"{sent} were sent, and {allowed} are allowed", replace(limits, max_bytes=None)
    if limits.max_slowdown_percent is not None and sample.throttle_percent > limits.max_slowdown_percent:
        words = f"the guest is slowed by {sample.throttle_percent} %, and {limits.max_slowdown_percent} % are allowed"
        return words, replace(limits, max_slowdown_percent=None)
    return None


def _on_miss(miss: str, others: Limits, sample: Progress, limits: Limits, climb: Climb) -> tuple[Choice, Climb]:
    """What was asked for when a promise is missed. What never got going is given up: there is nothing to go on with."""
    if sample.status is not JobStatus.ACTIVE:
        return Choice(decision=Decision.GIVE_UP, reason=miss), climb
    if limits.on_miss is OnMiss.EXTEND:  # it goes on as if that had never been promised
        return Choice(decision=Decision.EXTEND, reason=miss, limits=others), climb
    if climb.missed_ms is None:
        return Choice(decision=_MEANS[limits.on_miss], reason=miss), replace(climb, missed_ms=sample.elapsed_ms)
    if sample.elapsed_ms - climb.missed_ms >= MISSED_GRACE_MS:
        why = f"{miss}, and {_MEANS[limits.on_miss]} did not end it"
        return Choice(decision=Decision.GIVE_UP, reason=why), climb
    return Choice(decision=Decision.CONTINUE, reason=f"{miss}: {_MEANS[limits.on_miss]} was chosen"), climb


def _stall(rung: Rung, history: History, sample: Progress, limits: Limits, climb: Climb) -> dict[str, bool]:
    """The conditions of a rung that hang on how iterations went, in words, each with whether it is met."""
    since_stalled = climb.acted_stalled if rung.again else 0
    since_ms = max(history.improved_ms, climb.acted_ms) if rung.again else history.improved_ms
    met = {}
    if rung.stalled is not None:
        met[f"{rung.stalled} iterations bring no progress"] = history.stalled - since_stalled >= rung.stalled
    if rung.unchanged_ms is not None:
        long_enough = sample.elapsed_ms - since_ms >= rung.unchanged_ms
        met[f"{units.format_duration_ms(rung.unchanged_ms)} bring no progress"] = long_enough
    if rung.level:
        level = history.before_bytes > 0 and history.left_bytes >= history.before_bytes * LEVEL_SHARE
        met["the last iteration brought hardly any progress"] = level
    if rung.deltas_shown:
        met["it is seen what deltas bring"] = _deltas_shown(history, sample, allowed_ms(limits, climb))
    if rung.fits and rung.downtime_ms is not None:
        fits = history.level_ms > 0 and history.level_ms + slowed_ms(sample.throttle_percent) <= rung.downtime_ms
        met[f"what each leaves fits into {rung.downtime_ms} ms"] = fits
    return met


def _deltas_shown(history: History, sample: Progress, allowed_ms: int) -> bool:
    """What they bring was seen, or that they bring little; and QEMU is not about to be told that what is left fits (`_let_go`).

    That they bring little is seen as soon as twice as much went over in the third iteration as may be left in the end, hardly
    less than whole: of what goes over again in each, so much alone would be too much.
    """
    if history.iteration != FLOW_FROM or not history.begun:
        fits = sample.saved_bytes > 0 and 0 < history.whole_ms <= allowed_ms
        return history.iteration >= SEEN_FROM and not fits
    sent = sample.sent_bytes + sample.saved_bytes - history.begun[-1][1]
    return needed_ms(sent, history.carries_bps) >= 2 * allowed_ms and sample.saved_bytes < LITTLE_SHARE * sent


LEVEL_SHARE: Final = 0.85
"""The second iteration begins with what QEMU had left of the first, too: as much as fits into the downtime, of memory that is
written only once, perhaps. Of 64 MiB that are written flat out it began with 70."""
LITTLE_SHARE: Final = 0.1


def _is_given(rung: Rung, climb: Climb) -> bool:
    """A ladder that is made anew on the way begins with what an earlier one has allowed already, or with less."""
    if rung.slowed_percent is not None:  # which takes back what was allowed
        return climb.downtime_ms == rung.downtime_ms
    had_ms = climb.downtime_ms or (climb.begun_ms if rung.fits else 0)
    return rung.downtime_ms is not None and rung.downtime_ms <= had_ms * (1 + PROGRESS_MARGIN)


def _act(rung: Rung, history: History, sample: Progress, limits: Limits, policy: Policy, climb: Climb) -> tuple[Choice, Climb]:
    """Do what a rung says, and step on to the next."""
    before_ms = allowed_ms(limits, climb)
    downtime_ms = rung.downtime_ms if rung.times is None else min(round(before_ms * rung.times), rung.at_most_ms)
    stays = rung.again and (rung.times is None or (downtime_ms or 0) < rung.at_most_ms)
    after = replace(
        climb,
        rung=climb.rung + (not stays),
        downtime_ms=downtime_ms or before_ms,
        told_ms=climb.told_ms if downtime_ms is None else 0,
        acted_ms=sample.elapsed_ms,
        acted_stalled=history.stalled,
    )
    words = [*rung.when(policy, sample), *_stall(rung, history, sample, limits, climb)]
    if rung.slowed_percent is not None:
        why = " and ".join(words)
    elif history.stalled and rung.do is not Decision.GIVE_UP:
        why = _why(history, sample, before_ms)
    else:
        why = policy.why or " and ".join(words)
    if downtime_ms is not None:
        why = f"{downtime_ms} ms: {why}"
    elif rung.throttle_percent is not None:
        why = f"{rung.throttle_percent} %: {why}"
    return Choice(decision=rung.do, reason=why, downtime_ms=downtime_ms, throttle_percent=rung.throttle_percent), after


def _where_it_stands(history: History, sample: Progress, limits: Limits, climb: Climb) -> str:
    if stuck_bytes(history, sample, limits) is None:
        return "still converging"
    return _why(history, sample, allowed_ms(limits, climb))


def _why(history: History, sample: Progress, allowed_ms: int) -> str:
    left = history.best_bytes or 0
    needed = units.format_duration_ms(needed_ms(left, sample.memory_bps))
    return (
        f"{history.stalled} iteration{'s' * (history.stalled != 1)} without progress: "
        f"each leaves {units.format_bytes(left)} or more, "
        f"which is {needed} of standstill at {units.format_rate(sample.memory_bps)}; {allowed_ms} ms are allowed"
    )


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
    if sample.memory_bps <= 0 or sample.ram_remaining_bytes <= 0:
        return None
    dirty = 0 if sample.status is JobStatus.POSTCOPY else sample.dirty_bps
    pace = sample.memory_bps - dirty
    return None if pace <= 0 else sample.ram_remaining_bytes * 1000 // pace
