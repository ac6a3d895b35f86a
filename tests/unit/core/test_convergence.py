"""Steering pre-copy: invented samples for each rule, then whole migrations of a model of QEMU's own loop.

The model (`precopy`) is QEMU's migration_iteration_run: what is dirty is sent; once what is left fits into the allowed downtime,
memory is looked at again, and when it still fits, the switchover comes. A sample is taken every 200 ms and at each new iteration.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.core import convergence
from segue.core.convergence import (
    MISSED_GRACE_MS,
    ONE_STALL,
    STALLED_MS,
    Choice,
    Climb,
    History,
    eta_ms,
    needed_ms,
    observe,
    percent_held,
    plan,
)
from segue.core.forecast import slowed_ms
from segue.core.model import JobStatus, Limits, OnMiss, Progress
from segue.core.policy import OWN, Decision, Policy, Rung
from segue.units import GIB, MIB

WIRE = 112 * MIB  # what 1 Gbit/s carries
FITS = WIRE * Limits().max_downtime_ms // 1000


def sample(**seen: object) -> Progress:
    """One look, in pre-copy unless it says otherwise."""
    defaults: dict[str, object] = {
        "elapsed_ms": 10_000,
        "status": JobStatus.ACTIVE,
        "ram_total_bytes": GIB,
        "ram_remaining_bytes": 500 * MIB,
        "throughput_bps": WIRE,
        "iteration": 2,
    }
    return Progress(**{**defaults, **seen})  # type: ignore[arg-type]


def decide(history: History, look: Progress, limits: Limits) -> tuple[Decision, str]:
    """What Segue's own ladder says from its first rung."""
    choice, _ = convergence.decide(history, look, limits, plan(limits), Climb())
    return choice.decision, choice.reason


def observed(*left_mib: int) -> History:
    """The history of iterations that began with so many MiB left, a second each; the last one is still being sent."""
    history = History()
    for iteration, left in enumerate(left_mib, start=1):
        for share in (1.0, 0.4, 0.02):
            look = sample(elapsed_ms=iteration * 1000, iteration=iteration, ram_remaining_bytes=round(left * share * MIB))
            history = observe(history, look, 1)
    return history


def test_each_iteration_counts_once_by_what_was_left_when_it_began():
    assert observed(1024, 300, 400).best_bytes == 300 * MIB
    assert observed(1024, 300, 400).left_bytes == 400 * MIB


@pytest.mark.parametrize(
    ("left_mib", "stalled"),
    [
        ((1024,), 0),
        ((1024, 900), 0),  # one proves nothing yet
        ((1024, 900, 900), 1),
        ((1024, 900, 500, 100), 0),
        ((1024, 500, 490, 485), 2),  # less than the margin is noise
        ((1024, 500, 600, 700), 2),
        ((1024, 500, 600, 100), 0),  # a real step down forgives
    ],
)
def test_a_stall_is_iterations_in_a_row_that_begin_with_no_less_than_the_best(left_mib, stalled):
    assert observed(*left_mib).stalled == stalled


@pytest.mark.parametrize("status", [status for status in JobStatus if status is not JobStatus.ACTIVE])
def test_outside_precopy_nothing_is_learned_and_nothing_is_steered(status):
    stalled = History(iteration=9, left_bytes=MIB, best_bytes=MIB, stalled=9)
    look = sample(status=status, iteration=12)
    limits = Limits(postcopy=True)
    assert observe(stalled, look, 300) == stalled
    assert decide(stalled, look, limits)[0] is Decision.CONTINUE


@pytest.mark.parametrize("status", JobStatus)
def test_the_deadline_is_one_for_everything_that_can_turn_back(status):
    """A job that never gets going (a port that swallows, words of tomorrow) must not be waited for until the end of time."""
    ended = status.is_final or status in (JobStatus.POSTCOPY, JobStatus.POSTCOPY_PAUSED)
    ended = ended or status in (JobStatus.SWITCHOVER, JobStatus.CANCELLING)  # these end in a moment, by themselves
    for postcopy in (False, True):
        decision, _ = decide(History(), sample(status=status, elapsed_ms=1), Limits(postcopy=postcopy, within_ms=1))
        may_be_postcopy = postcopy and status is JobStatus.UNKNOWN
        assert (decision is Decision.GIVE_UP) is not (ended or may_be_postcopy)


def test_a_stall_becomes_postcopy_where_that_is_allowed_and_says_what_it_would_have_taken():
    stalled = observed(1024, 500, 500, 500, 500)
    decision, reason = decide(stalled, sample(), Limits(postcopy=True, max_downtime_ms=300))
    assert decision is Decision.START_POSTCOPY
    for said in ("500.0 MiB", "4.46 s", "112.0 MiB/s", "300 ms"):
        assert said in reason


def test_a_stall_without_postcopy_goes_on_until_the_deadline():
    stalled = observed(1024, 500, 500, 500, 500)
    limits = Limits(postcopy=False, within_ms=60_000)
    assert decide(stalled, sample(elapsed_ms=59_999), limits)[0] is Decision.CONTINUE
    decision, reason = decide(stalled, sample(elapsed_ms=60_000), limits)
    assert decision is Decision.GIVE_UP
    assert "1 min 00 s" in reason


def test_an_iteration_that_was_seen_too_late_counts_for_nothing():
    seen = History()
    for iteration, left_mib in enumerate((1024, 500, 20, 450, 1), start=1):  # 33 MiB fit into 300 ms
        look = sample(iteration=iteration, ram_remaining_bytes=left_mib * MIB)
        seen = observe(seen, look, 300)
    assert (seen.best_bytes, seen.stalled) == (450 * MIB, 0)


def test_iterations_of_milliseconds_are_no_stall_before_some_time_has_passed():
    stalled = replace(observed(1024, 500, 500, 500, 500), improved_ms=9_500)
    assert decide(stalled, sample(elapsed_ms=10_499), Limits(postcopy=True))[0] is Decision.CONTINUE
    assert decide(stalled, sample(elapsed_ms=10_500), Limits(postcopy=True))[0] is Decision.START_POSTCOPY


def test_the_deadline_wins_over_postcopy():
    stalled = observed(1024, 500, 500, 500, 500)
    assert decide(stalled, sample(), Limits(postcopy=True, within_ms=10))[0] is Decision.GIVE_UP


def test_an_unknown_rate_never_divides():
    assert needed_ms(MIB, 0) == 0
    stalled = observed(1024, 500, 500, 500, 500)
    assert decide(stalled, sample(throughput_bps=0), Limits(postcopy=True))[0] is Decision.START_POSTCOPY


# --- promises

MISSES = {
    "not done within 10.00 s": Limits(within_ms=10_000),
    "1.00 GiB were sent, and 1.00 GiB are allowed": Limits(max_bytes=GIB),
    "the guest is slowed by 40 %, and 30 % are allowed": Limits(max_slowdown_percent=30),
}


@pytest.mark.parametrize("reason", MISSES)
@pytest.mark.parametrize(
    ("on_miss", "decision"),
    [
        (OnMiss.ABORT, Decision.GIVE_UP),
        (OnMiss.SUSPEND, Decision.SUSPEND),
        (OnMiss.POSTCOPY, Decision.START_POSTCOPY),
    ],
)
def test_a_promise_that_is_missed_ends_in_what_was_asked_for_and_says_which_one(reason, on_miss, decision):
    limits = replace(MISSES[reason], on_miss=on_miss)
    missed = sample(elapsed_ms=10_000, sent_bytes=GIB, throttle_percent=40)
    choice, climb = convergence.decide(History(), missed, limits, plan(limits), Climb())
    assert (choice.decision, choice.reason) == (decision, reason)
    if decision is not Decision.GIVE_UP:  # it is done once, and given time
        choice, climb = convergence.decide(History(), missed, limits, plan(limits), climb)
        assert choice.decision is Decision.CONTINUE


def test_a_way_out_that_leads_nowhere_is_given_up():
    limits = Limits(within_ms=10_000, on_miss=OnMiss.SUSPEND)
    missed = Climb(missed_ms=10_000)
    early, late = (sample(elapsed_ms=10_000 + MISSED_GRACE_MS - ms) for ms in (1, 0))
    assert convergence.decide(History(), early, limits, plan(limits), missed)[0].decision is Decision.CONTINUE
    assert convergence.decide(History(), late, limits, plan(limits), missed)[0].decision is Decision.GIVE_UP


@pytest.mark.parametrize("reason", MISSES)
def test_after_an_extension_the_ladder_is_climbed_as_if_that_had_not_been_promised(reason):
    limits = replace(MISSES[reason], on_miss=OnMiss.EXTEND, postcopy=True)
    stalled = observed(1024, 500, 500, 500, 500)
    missed = sample(elapsed_ms=10_000, sent_bytes=GIB, throttle_percent=40)
    choice, climb = convergence.decide(stalled, missed, limits, plan(limits), Climb())
    assert (choice.decision, choice.reason) == (Decision.EXTEND, reason)
    assert choice.limits == Limits(on_miss=OnMiss.EXTEND, postcopy=True)
    choice, _ = convergence.decide(stalled, missed, choice.limits, plan(choice.limits), climb)
    assert choice.decision is Decision.START_POSTCOPY
    choice, _ = convergence.decide(History(), missed, Limits(), plan(Limits()), climb, silent_ms=convergence.SILENCE_MS)
    assert choice.decision is Decision.GIVE_UP


# --- ladders

STEPS = Policy(
    name="steps",
    start_downtime_ms=100,
    rungs=(
        Rung(do=Decision.ALLOW_DOWNTIME, stalled=1, downtime_ms=150),
        Rung(do=Decision.ALLOW_DOWNTIME, stalled=3, downtime_ms=400),
        Rung(do=Decision.THROTTLE, stalled=3, throttle_percent=60),
        Rung(do=Decision.GIVE_UP, stalled=4),
    ),
)


def climbed(
    policy: Policy, looks: list[tuple[History, Progress]], limits: Limits | None = None, *, begun_ms: int = 0
) -> list[Choice]:
    """All that is done on the way up a ladder."""
    climb, done = Climb(begun_ms=begun_ms), []
    for history, look in looks:
        choice, climb = convergence.decide(history, look, policy.begin_with(limits or Limits()), policy, climb)
        if choice.decision is not Decision.CONTINUE:
            done.append(choice)
    return done


def stalling(counts: list[int]) -> list[tuple[History, Progress]]:
    return [
        (History(iteration=2 + n, best_bytes=MIB, stalled=count), sample(elapsed_ms=1000 * n, iteration=2 + n))
        for n, count in enumerate(counts)
    ]


def test_a_ladder_is_climbed_one_rung_at_a_time_each_when_its_conditions_are_there():
    done = climbed(STEPS, stalling([0, 1, 1, 2, 3, 3, 3, 4]))
    assert [(one.decision, one.downtime_ms, one.throttle_percent) for one in done] == [
        (Decision.ALLOW_DOWNTIME, 150, None),
        (Decision.ALLOW_DOWNTIME, 400, None),
        (Decision.THROTTLE, None, 60),
        (Decision.GIVE_UP, None, None),
    ]
    assert "150 ms: 1 iteration without progress" in done[0].reason
    assert "100 ms are allowed" in done[0].reason
    assert "150 ms are allowed" in done[1].reason


def test_all_that_was_promised_is_given_only_once_that_is_enough_and_holds_up_no_other_rung():
    promise = Rung(do=Decision.ALLOW_DOWNTIME, downtime_ms=300, stalled=1, fits=True)
    ladder = Policy(
        name="own", start_downtime_ms=220, rungs=(promise, Rung(do=Decision.THROTTLE, stalled=3, throttle_percent=60), promise)
    )

    def left(*mib: float) -> list[tuple[History, Progress]]:
        looks = [sample(elapsed_ms=200 * n, iteration=2 + n, throughput_bps=34 * MIB) for n in range(len(mib))]
        return [
            (History(iteration=look.iteration, stalled=n, lately=((look.elapsed_ms, round(one * MIB), 34 * MIB),)), look)
            for n, (one, look) in enumerate(zip(mib, looks, strict=True))
        ]

    done = climbed(ladder, left(12.7, 12.7, 12.7, 12.7, 12.7, 10.1))
    assert [(one.decision, one.downtime_ms) for one in done] == [(Decision.THROTTLE, None), (Decision.ALLOW_DOWNTIME, 300)]
    [first, *_] = climbed(ladder, left(10.1, 10.1, 10.1, 10.1), begun_ms=300)  # as it began with all of it, nothing is given
    assert first.decision is Decision.THROTTLE
    done = climbed(ladder, left(10.1, 10.1, 10.1, 10.1, 10.1))  # once given, it is not given again
    assert [(one.decision, one.downtime_ms) for one in done] == [(Decision.ALLOW_DOWNTIME, 300), (Decision.THROTTLE, None)]


def test_a_guest_that_hardly_runs_is_let_go_with_less_and_with_all_only_where_it_stands_by_turns():
    ladder = plan(Limits(), None)

    def looks(*seen: tuple[int, int]) -> list[tuple[History, Progress]]:
        """Percent, and the MiB that each iteration leaves."""
        return [
            (
                History(iteration=3 + n, stalled=4, lately=((1000 * n, left * MIB, 34 * MIB),)),
                sample(elapsed_ms=2000 + 1000 * n, iteration=3 + n, throttle_percent=percent),
            )
            for n, (percent, left) in enumerate(seen)
        ]

    done = climbed(ladder, looks((0, 13), (60, 13), (75, 9), (90, 8), (99, 8), (99, 2)))
    assert [one.downtime_ms for one in done] == [200, 300]
    assert "slowed by 75 % or more" in done[0].reason
    assert "slowed by 95 % or more" in done[1].reason
    assert slowed_ms(90) == 180


def test_what_iterations_leave_is_the_most_that_was_seen_of_them_lately():
    """Samples come early or late in short iterations: 8.7 to 12.7 MiB were seen of 12.7."""
    history = observed(100, 20)
    for tenth, left in enumerate((12.7, 9.4, 8.7, 12.6, 9.2, 10.4, 8.8, 12.5, 9.1, 10.3, 9.3, 8.9, 9.0)):
        look = sample(elapsed_ms=3000 + 100 * tenth, iteration=3 + 2 * tenth, ram_remaining_bytes=round(left * MIB))
        history = observe(history, look, 1)
    assert history.level_bytes == round(12.6 * MIB)  # 12.7 was seen more than a second ago
    assert convergence.stuck_bytes(replace(history, stalled=0), look, Limits()) is None
    seen = replace(history, stalled=1, improved_ms=3000)
    for limits in (Limits(), Limits(postcopy=True)):
        as_much, less = (replace(look, dirty_bps=round(seen.level_bps * share)) for share in (0.96, 0.9))
        assert convergence.stuck_bytes(seen, as_much, limits) == round(12.6 * MIB)
        assert (convergence.stuck_bytes(seen, less, limits) is None) is not limits.postcopy


def test_post_copy_leaves_the_path_room_for_what_the_guest_asks_for():
    history = History()
    for n in range(30):
        history = observe(history, sample(elapsed_ms=100 * n, iteration=1 + n // 10, throughput_bps=100 * MIB), 250)
    assert convergence.background_bps(history, Limits()) == 90 * MIB
    assert convergence.background_bps(history, Limits(bandwidth_bps=100 * MIB)) is None  # which says nothing of the path
    assert convergence.background_bps(History(), Limits()) is None


def with_deltas(*left_kib: int, rungs: tuple[Rung, ...] = ()) -> list[tuple[Decision, int | None]]:
    """What is decided of a guest of which so much is left at looks 0.1 s apart; a path of 100 MiB/s, 250 of 300 ms allowed."""
    history, climb, limits = History(), Climb(begun_ms=250), Limits(postcopy=True)
    for n in range(5):
        history = observe(history, sample(elapsed_ms=100 * n, iteration=1, throughput_bps=100 * MIB), 250)
    done = []
    for n, left in enumerate(left_kib):
        look = sample(
            elapsed_ms=500 + 100 * n,
            iteration=2 + n,
            ram_remaining_bytes=left * 1024,
            throughput_bps=MIB // 10,
            saved_bytes=(1 + n) * MIB,
            dirty_bps=MIB,
        )
        history = observe(history, look, 250)
        choice, climb = convergence.decide(history, look, limits, Policy(name=OWN, rungs=rungs), climb)
        assert convergence.decide(history, look, limits, Policy(name="declared"), climb)[0].decision is Decision.CONTINUE
        done.append((choice.decision, choice.downtime_ms))
    return [one for one in done if one[0] is not Decision.CONTINUE]


@pytest.mark.parametrize(
    ("left_mib", "saved_share", "given_up_ms"),
    [
        ((70, 64, 64), 0.0, 8000),  # twice as much as may be left went over, hardly less than whole
        ((70, 64, 64), 0.5, 9000),  # what they bring is seen when all of it went over
        ((70, 50, 50), 0.0, 9000),  # an iteration brought progress
    ],
)
def test_what_outruns_the_path_is_declined_as_soon_as_deltas_are_seen_to_bring_little(left_mib, saved_share, given_up_ms):
    rung = Rung(do=Decision.GIVE_UP, after_ms=8000, level=True, deltas_shown=True)
    policy, history, climb, saved = Policy(name=OWN, rungs=(rung,)), History(), Climb(), 0.0
    for tenth in range(100):
        iteration = 1 + sum(tenth >= begins for begins in (50, 70, 90))
        saved += 6 * MIB * saved_share if iteration > 2 else 0
        look = sample(
            elapsed_ms=100 * tenth,
            iteration=iteration,
            ram_remaining_bytes=(200, *left_mib)[iteration - 1] * MIB,
            throughput_bps=34 * MIB,
            sent_bytes=round(3.4 * MIB * tenth),
            saved_bytes=round(saved),
            dirty_bps=32 * MIB,
        )
        history = observe(history, look, 250)
        choice, climb = convergence.decide(history, look, Limits(), policy, climb)
        if choice.decision is not Decision.CONTINUE:
            break
    assert (choice.decision, look.elapsed_ms) == (Decision.GIVE_UP, given_up_ms)


def test_nothing_goes_over_to_post_copy_while_what_is_left_would_fit():
    """24 MiB take 240 ms and 26 take 260, of 250 that are allowed: QEMU is told of the former, the latter goes over."""
    goes_over = Rung(do=Decision.START_POSTCOPY, stalled=1, unchanged_ms=100, deltas_shown=True)
    decided = {mib: with_deltas(*[mib * 1024] * 12, rungs=(goes_over,)) for mib in (24, 26)}
    assert decided[24] == [(Decision.ALLOW_DOWNTIME, 60_000)]
    assert decided[26][0] == (Decision.START_POSTCOPY, None)


def test_qemu_which_takes_what_deltas_send_for_what_the_path_carries_is_told_to_let_go():
    """0.4 MiB take 4 ms at what the path carries, and 4 s at what the deltas send."""
    assert with_deltas(*[400] * 12) == [(Decision.ALLOW_DOWNTIME, 7812)]
    assert with_deltas(*[400] * 4) == []  # a moment proves nothing
    assert with_deltas(*[26 * 1024] * 12) == []  # 260 ms
    more = [(Decision.ALLOW_DOWNTIME, 7812), (Decision.ALLOW_DOWNTIME, 250)]
    assert with_deltas(*[400] * 8, 26 * 1024, *[26 * 1024] * 3) == more
    assert with_deltas(*[1600] * 8, *[400] * 8) == [(Decision.ALLOW_DOWNTIME, 31250)]  # less is left, nothing more to say


@pytest.mark.parametrize(("took_ms", "known_in"), [(580, 4), (1800, 3)])
@pytest.mark.parametrize(("dirtied_mib", "stuck"), [(37, True), (30, False)])
def test_what_is_sent_is_counted_with_qemus_looks_between_iterations(took_ms, known_in, dirtied_mib, stuck):
    """QEMU sends 37 of 64 MiB at 112 MiB/s in an iteration, which is 0.33 s, and looks for the rest of it."""
    history = observe(History(), sample(elapsed_ms=1000, iteration=1), 248)
    for iteration in range(2, 7):
        look = sample(
            elapsed_ms=2000 + took_ms * (iteration - 2),
            iteration=iteration,
            ram_remaining_bytes=65 * MIB,
            throughput_bps=112 * MIB,
            dirty_bps=dirtied_mib * MIB * 1000 // took_ms,
            sent_bytes=(160 + 37 * (iteration - 2)) * MIB,
        )
        history = observe(history, look, 248)
        assert (convergence.stuck_bytes(history, look, Limits()) is not None) is (stuck and iteration >= known_in)
    assert history.pace_bps == pytest.approx(37 * MIB * 1000 / took_ms, rel=0.01)
    assert history.begun[0][0] == history.begun[-1][0] - max(took_ms, 2 * 580)  # it keeps a second of them


@pytest.mark.parametrize(
    ("dirty_bps", "guess_ms", "left"), [(34 * MIB, 373, 12.68), (0, 373, 9.2), (34 * MIB, None, 9.2), (34 * MIB, 100, 9.2)]
)
def test_what_qemu_found_when_it_looked_is_read_from_its_guess(dirty_bps, guess_ms, left):
    look = sample(
        ram_remaining_bytes=round(9.2 * MIB), expected_downtime_ms=guess_ms, dirty_bps=dirty_bps, throughput_bps=34 * MIB
    )
    assert look.left_when_looked_bytes == pytest.approx(left * MIB, rel=0.001)


def test_a_rung_that_is_done_again_counts_anew_and_ends_at_its_bound():
    doubling = Policy(
        name="doubling",
        start_downtime_ms=100,
        rungs=(Rung(do=Decision.ALLOW_DOWNTIME, stalled=2, times=2, at_most_ms=500, again=True),),
    )
    assert [one.downtime_ms for one in climbed(doubling, stalling(list(range(12))))] == [200, 400, 500]
    # what stalled before progress was made does not count
    assert [one.downtime_ms for one in climbed(doubling, stalling([0, 1, 2, 3, 0, 1, 2]))] == [200, 400]


@pytest.mark.parametrize(
    ("rung", "due_ms"),
    [
        (Rung(do=Decision.GIVE_UP, after_ms=5_000), 5_000),
        (Rung(do=Decision.GIVE_UP, after_ms_per_gib=2_000), 4_000),  # a guest of 1 GiB, which counts as 2
        (Rung(do=Decision.GIVE_UP, after_ms=1_000, iteration=8), 6_000),
        (Rung(do=Decision.GIVE_UP, unchanged_ms=3_000), 3_000),
    ],
)
def test_a_rung_waits_for_all_that_is_given(rung, due_ms):
    policy = Policy(name="one", least_gib=2, rungs=(rung,))
    climb = Climb()
    for history, look in stalling([0] * 9):
        choice, climb = convergence.decide(history, look, Limits(), policy, climb)
        assert (choice.decision is Decision.GIVE_UP) is (look.elapsed_ms == due_ms)
        if look.elapsed_ms == due_ms:
            break


@pytest.mark.parametrize(
    "wrong",
    [
        {"do": Decision.GIVE_UP},
        {"do": Decision.CONTINUE, "stalled": 1},
        {"do": Decision.ALLOW_DOWNTIME, "stalled": 1},
        {"do": Decision.ALLOW_DOWNTIME, "stalled": 1, "downtime_ms": 5, "times": 2.0},
        {"do": Decision.GIVE_UP, "stalled": 1, "downtime_ms": 5},
        {"do": Decision.THROTTLE, "stalled": 1},
        {"do": Decision.GIVE_UP, "stalled": 1, "throttle_percent": 5},
    ],
)
def test_a_rung_that_makes_no_sense_is_none(wrong):
    with pytest.raises(ValueError, match=r"rung|downtime|throttle"):
        Rung(**wrong)


def test_a_ladder_says_what_a_migration_begins_with():
    policy = Policy(
        name="p",
        start_downtime_ms=50,
        auto_converge=False,
        bandwidth_bps=MIB,
        rungs=(Rung(do=Decision.START_POSTCOPY, iteration=2),),
    )
    begun = policy.begin_with(Limits(within_ms=7))
    assert begun == Limits(max_downtime_ms=50, auto_converge=False, bandwidth_bps=MIB, postcopy=True, within_ms=7)
    assert Policy(name="p").begin_with(begun) == begun


def test_post_copy_that_is_preferred_begins_as_soon_as_all_was_sent_once():
    limits = Limits(postcopy=True, prefer_postcopy=True)
    assert decide(History(), sample(iteration=1), limits)[0] is Decision.CONTINUE
    assert decide(History(), sample(iteration=2), limits)[0] is Decision.START_POSTCOPY


# --- whole migrations


@dataclass(frozen=True, slots=True, kw_only=True)
class Dirtying:
    """A guest that dirties `rate` bytes a second, again and again in a working set."""

    memory: int
    working_set: int
    rate: int

    def dirtied(self, ms: int) -> int:
        return min(self.working_set, self.rate * ms // 1000)


def precopy(guest: Dirtying, *, until_ms: int) -> Iterator[Progress]:
    """Samples of pre-copy until QEMU would switch over, or until that time; the last sample says which."""
    left, iteration, since_sync, tick_ms = guest.memory, 1, 0, 10
    for now in range(0, until_ms, tick_ms):
        if now % 200 == 0 or since_sync == 0:
            yield sample(elapsed_ms=now, iteration=iteration, ram_total_bytes=guest.memory, ram_remaining_bytes=left)
        since_sync += tick_ms
        left = max(0, left - WIRE * tick_ms // 1000)
        if left <= FITS:
            left += guest.dirtied(since_sync)
            iteration, since_sync = iteration + 1, 0
            if left <= FITS:
                yield sample(elapsed_ms=now, iteration=iteration, status=JobStatus.COMPLETED, ram_remaining_bytes=0)
                return


def steered(samples: Iterator[Progress], limits: Limits) -> tuple[Decision, Progress]:
    """The first decision that is not to continue, and when; else the last sample."""
    history = History()
    last = sample()
    for last in samples:
        history = observe(history, last, limits.max_downtime_ms)
        decision, _ = decide(history, last, limits)
        if decision is not Decision.CONTINUE:
            return decision, last
    return Decision.CONTINUE, last


memory = st.integers(min_value=64, max_value=8192).map(lambda mib: mib * MIB)


@given(memory, st.floats(min_value=0, max_value=1), st.floats(min_value=0, max_value=0.75))
def test_a_guest_that_converges_is_never_called_stalled(memory_bytes, set_share, rate_share):
    guest = Dirtying(memory=memory_bytes, working_set=round(memory_bytes * set_share), rate=round(WIRE * rate_share))
    decision, last = steered(precopy(guest, until_ms=1_000_000), Limits(postcopy=True))
    assert (decision, last.status) == (Decision.CONTINUE, JobStatus.COMPLETED)


@given(memory, st.floats(min_value=1.1, max_value=50), st.floats(min_value=0.1, max_value=1))
def test_a_guest_that_never_converges_is_called_stalled_soon(memory_bytes, rate_share, set_share):
    working_set = max(round(memory_bytes * set_share), 40 * MIB)  # more than 300 ms carry
    guest = Dirtying(memory=memory_bytes, working_set=working_set, rate=round(WIRE * rate_share))
    decision, last = steered(precopy(guest, until_ms=1_000_000), Limits(postcopy=True))
    assert decision is Decision.START_POSTCOPY
    # All memory once; then one iteration that is the best, and those that prove it as soon as they begin.
    sent = memory_bytes + (1 + ONE_STALL) * (working_set + FITS)
    assert last.elapsed_ms <= sent * 1000 // WIRE + STALLED_MS + 400


@given(
    st.lists(
        st.builds(sample, iteration=st.integers(0, 9), ram_remaining_bytes=st.integers(0, GIB), status=st.sampled_from(JobStatus))
    )
)
def test_what_is_shown_as_held_never_runs_backwards_and_is_whole_only_at_the_end(samples):
    shown = 0
    for look in samples:
        now = percent_held(shown, look)
        assert shown <= now <= 100
        assert now < 100 or look.status is JobStatus.COMPLETED or shown == 100
        shown = now


@pytest.mark.parametrize(
    ("look", "expected"),
    [
        (sample(ram_remaining_bytes=112 * MIB, dirty_bps=0), 1000),
        (sample(ram_remaining_bytes=112 * MIB, dirty_bps=56 * MIB), 2000),
        (sample(ram_remaining_bytes=112 * MIB, dirty_bps=112 * MIB), None),
        (sample(ram_remaining_bytes=112 * MIB, dirty_bps=200 * MIB), None),
        (sample(ram_remaining_bytes=112 * MIB, dirty_bps=200 * MIB, status=JobStatus.POSTCOPY), 1000),
        (sample(throughput_bps=0), None),
        (sample(ram_remaining_bytes=0), None),
    ],
)
def test_the_time_left_is_a_number_only_where_it_would_end(look, expected):
    assert eta_ms(look) == expected


@pytest.mark.parametrize(
    ("seen", "since_ms", "told"),
    [
        ({"status": JobStatus.SETUP, "elapsed_ms": 30_500}, 500, True),
        ({"status": JobStatus.NONE, "elapsed_ms": 30_500}, 500, True),
        ({"status": JobStatus.SETUP, "elapsed_ms": 30_499}, 500, False),
        ({"status": JobStatus.ACTIVE, "elapsed_ms": 60_000}, 0, False),  # that is the link's silence, and is acted on
        ({"status": JobStatus.SETUP, "elapsed_ms": 60_000, "sent_bytes": 1}, 0, False),
        ({"status": JobStatus.NONE, "elapsed_ms": 60_000, "disk_total_bytes": GIB}, 0, False),  # disks are copied first
    ],
)
def test_what_does_not_begin_is_told_after_as_long_as_a_link_may_be_silent(seen, since_ms, told):
    assert convergence.does_not_begin(sample(**seen), since_ms) is told
