"""Forecasts: ends that are known, what windows tell, what is corrected on the way, and the ladders that come of it."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.core.convergence import plan
from segue.core.dirtying import Curve, curves, fixed_point
from segue.core.forecast import Means, first_limit, forecast, right_limit, sentence, slowed_ms
from segue.core.measured import Live, Range, Seen, Touched, UnderWay, Window, sampled
from segue.core.measured import Path as Way
from segue.core.model import JobStatus, Limits, OnMiss, Progress
from segue.core.policy import Decision
from segue.core.precopy import play
from segue.units import GIB, MIB

GBIT = round(125_000_000 * 0.956)
MBIT_300 = round(37_500_000 * 0.956)


def exactly(value: int) -> Range:
    return Range(low=value, likely=value, high=value)


def seen(
    *, memory: int = 512 * MIB, working_set: int = 0, rate: int = 0, bps: int = GBIT, windows: tuple[int, ...] = (1, 2, 4)
) -> Seen:
    """What would be measured, without noise, of a guest that writes `rate` bytes a second into a working set."""
    return Seen(
        touched=Touched(bytes=exactly(memory), how="said"),
        windows=tuple(Window(ms=1000 * one, dirtied_bytes=min(working_set, rate * one)) for one in windows),
        path=Way(bps=exactly(bps), how="said"),
        own_ms=exactly(500),
    )


# --- calls that are known


@pytest.mark.parametrize(
    ("what", "limits", "converges", "choice"),
    [
        (seen(), Limits(), True, Means.PRECOPY),
        # 16 MiB written flat out at 300 Mbit/s: never with 300 ms, 4.24 s with 500 ms (as measured)
        (seen(memory=128 * MIB, working_set=16 * MIB, rate=GIB, bps=MBIT_300), Limits(auto_converge=False), False, None),
        (seen(memory=128 * MIB, working_set=16 * MIB, rate=GIB, bps=MBIT_300), Limits(max_downtime_ms=500), True, Means.PRECOPY),
        # 200 MiB at 150 MiB/s over 1 Gbit/s: never; 3.7 s by post-copy
        (seen(working_set=200 * MIB, rate=150 * MIB), Limits(postcopy=True), False, Means.POSTCOPY),
        (seen(working_set=200 * MIB, rate=150 * MIB), Limits(), False, Means.THROTTLED),
        (seen(working_set=200 * MIB, rate=150 * MIB), Limits(max_slowdown_percent=10), False, None),
        (seen(working_set=200 * MIB, rate=50 * MIB), Limits(), True, Means.PRECOPY),
        (seen(working_set=200 * MIB, rate=50 * MIB), Limits(within_ms=2_000), True, None),
        (seen(working_set=200 * MIB, rate=50 * MIB), Limits(max_bytes=512 * MIB), True, None),
        (seen(), Limits(prefer_postcopy=True, postcopy=True), True, Means.POSTCOPY),
    ],
)
def test_the_call_is_right_where_the_end_is_known(what, limits, converges, choice):
    expected = forecast(what, limits)
    assert expected is not None
    assert (expected.precopy.converges, expected.choice) == (converges, choice)
    assert sentence(expected, limits)


def test_the_smallest_limit_that_works_is_the_set_over_the_path():
    expected = forecast(seen(memory=128 * MIB, working_set=16 * MIB, rate=GIB, bps=MBIT_300), Limits())
    assert expected is not None
    assert expected.needed_downtime_ms.likely == pytest.approx(468, abs=2)


@pytest.mark.parametrize(("bps", "medians_ms"), [(MBIT_300, (577, 645)), (GBIT, (317, 406))])
def test_going_over_to_post_copy_is_announced_as_clients_saw_it_over_that_link(bps, medians_ms):
    expected = forecast(seen(memory=128 * MIB, working_set=48 * MIB, rate=60 * MIB, bps=bps), Limits(postcopy=True))
    assert expected is not None
    told = expected.postcopy.downtime_ms
    assert told is not None
    assert medians_ms[0] < told.likely < medians_ms[1]
    assert told.low < medians_ms[0]
    assert told.high > 1.5 * medians_ms[1]


@pytest.mark.parametrize(("set_mib", "client_ms"), [(16, 580), (32, 600), (64, 1164), (128, 1986)])
def test_the_larger_a_set_that_is_written_flat_out_the_longer_clients_wait_for_post_copy(set_mib, client_ms):
    what = seen(memory=256 * MIB, working_set=set_mib * MIB, rate=GIB, bps=MBIT_300)
    busy = replace(what, windows=tuple(replace(one, busy_percent=100) for one in what.windows))
    expected = forecast(busy, Limits(postcopy=True))
    assert expected is not None
    told = expected.postcopy.downtime_ms
    assert told is not None
    assert told.likely == pytest.approx(client_ms, rel=0.2)
    assert told.low < client_ms < told.high


def test_no_more_confidence_is_stated_than_was_counted():
    page = (Path(__file__).parents[3] / "docs/bench/forecast.md").read_text(encoding="utf-8")
    counts = re.search(
        r"of (\d+) runs that moved: \d+ by 1 of its windows, (\d+) by 2 of its windows, (\d+) by 3 of its windows", page
    )
    live = re.search(r"told first: in (\d+) of (\d+)", page)
    assert counts
    assert live
    moved, *by_more = map(int, counts.groups())
    counted = {1: int(live[1]) / int(live[2]), **{number: true / moved for number, true in enumerate(by_more, 2)}}
    for number, share in counted.items():
        expected = forecast(seen(windows=(1, 2, 4)[:number]), Limits())
        assert expected is not None
        assert 80 <= expected.confidence_percent <= 100 * share


def test_an_idle_guest_takes_what_its_memory_takes():
    expected = forecast(seen(memory=GIB), Limits())
    assert expected is not None
    assert expected.precopy.total_ms is not None
    bound_ms = GIB / GBIT * 1000
    assert expected.precopy.total_ms.likely - 500 - 52 == pytest.approx(bound_ms, rel=0.01)


@pytest.mark.parametrize("missing", ["touched", "windows", "path"])
def test_what_was_not_measured_makes_no_forecast(missing):
    what = seen()
    parts = {"touched": what.touched, "windows": what.windows, "path": what.path}
    parts[missing] = () if missing == "windows" else None
    assert forecast(Seen(**parts), Limits()) is None  # type: ignore[arg-type]


# --- what windows tell


SIZES = st.integers(1, 4096).map(lambda mib: mib * MIB)


@given(SIZES, st.floats(0, 8), SIZES, st.lists(st.integers(0, 400), min_size=1, max_size=4))
def test_the_courses_rise_never_fall_and_hold_what_is_so(working_set, speed, memory, errors_mib):
    rate = round(working_set * speed)
    windows = [
        Window(ms=1000 * 2**n, dirtied_bytes=min(working_set, rate * 2**n), error_bytes=error * MIB)
        for n, error in enumerate(errors_mib)
    ]
    low, likely, high = curves(windows, memory)
    times = [0.0, 0.05, 0.3, 0.9, 1.5, 3.0, 9.0, 100.0]
    for course in (low, likely, high):
        values = [course.dirtied(at) for at in times]
        assert values[0] == 0
        assert all(one <= two + 1 for one, two in pairwise(values))
        assert max(values) <= memory + 1
    for at in times:
        assert low.dirtied(at) <= high.dirtied(at) + 1
        if working_set <= memory:
            assert low.dirtied(at) <= min(working_set, rate * at) + 1


@given(SIZES, st.floats(0.01, 8), st.integers(1, 99))
def test_a_slower_guest_dirties_less(working_set, speed, percent):
    windows = [Window(ms=ms, dirtied_bytes=min(working_set, round(working_set * speed * ms / 1000))) for ms in (1000, 2000)]
    _, course, _ = curves(windows, 8 * GIB)
    for at in (0.1, 0.5, 2.0, 7.0):
        assert course.slowed(percent).dirtied(at) <= course.dirtied(at) + 1


@given(SIZES, st.floats(0, 8), st.integers(10, 1000).map(lambda mib: mib * MIB), st.integers(50, 3000))
def test_it_converges_exactly_where_the_fixed_point_fits(working_set, speed, bps, limit_ms):
    memory = 8 * GIB
    windows = [Window(ms=1000 * n, dirtied_bytes=min(working_set, round(working_set * speed) * n)) for n in (1, 2, 4)]
    _, course, _ = curves(windows, memory)
    left = fixed_point(course, memory, bps)
    run = play(course, memory, bps, limit_ms)
    if left < 0.8 * bps * limit_ms / 1000:
        assert run.ended
    if left > 1.3 * bps * limit_ms / 1000:
        assert not run.ended
    if run.ended:
        assert run.standing_ms <= limit_ms
        assert run.sent_bytes >= 0.99 * memory
        assert run.sending_ms + run.standing_ms >= 0.99 * memory / bps * 1000
    else:
        assert math.isinf(run.standing_ms)


@given(SIZES, st.floats(0, 4), st.integers(100, 2000), st.booleans(), st.booleans())
def test_ranges_hold_what_is_likely_and_a_choice_keeps_what_was_promised(working_set, speed, limit_ms, postcopy, auto_converge):
    what = seen(memory=6 * GIB, working_set=working_set, rate=round(working_set * speed))
    limits = Limits(max_downtime_ms=limit_ms, postcopy=postcopy, auto_converge=auto_converge)
    expected = forecast(what, limits)
    assert expected is not None
    for prospect in (expected.precopy, expected.throttled, expected.postcopy):
        for number in (prospect.total_ms, prospect.downtime_ms, prospect.sent_bytes):
            assert number is None or number.low <= number.likely <= number.high
    if expected.choice is Means.PRECOPY:
        assert expected.precopy.converges
        assert right_limit(expected, limits) <= limit_ms
    elif expected.choice is Means.POSTCOPY:
        assert postcopy
    elif expected.choice is Means.THROTTLED:
        assert auto_converge
    else:
        assert not postcopy


# Windows of 1, 2 and 4 s, in MiB/s, as QEMU 7.2 gave them of guests whose working set and rate are known.
@pytest.mark.parametrize(
    ("rates", "memory_mib", "true_mib"),
    [((44, 27, 16), 384, (50, 64, 64)), ((47, 31, 15), 384, (50, 64, 64))],
)
def test_the_true_course_lies_within_what_a_sample_of_pages_tells(rates, memory_mib, true_mib):
    windows = [
        sampled(rate, seconds=seconds, per_gib=4096, memory_bytes=memory_mib * MIB)
        for rate, seconds in zip(rates, (1, 2, 4), strict=True)
    ]
    low, _, high = curves(windows, memory_mib * MIB)
    for seconds, true in zip((1, 2, 4), true_mib, strict=True):
        assert low.dirtied(seconds) * 0.95 <= true * MIB <= high.dirtied(seconds) * 1.05


@pytest.mark.parametrize("answer", [None, "12", -1, 1.5, True])
def test_an_answer_that_is_no_rate_is_nothing_dirtied(answer):
    assert sampled(answer, seconds=1, per_gib=512, memory_bytes=GIB).dirtied_bytes in (0, 3 * MIB // 2)


@pytest.mark.parametrize(
    ("busy_percent", "converges"),
    [
        (30, True),  # 60 MiB/s, by a guest that something else keeps waiting, over 109 MiB/s
        (100, False),  # as fast as a CPU can write
    ],
)
def test_a_set_that_one_window_saw_whole_is_written_as_fast_as_the_guest_is_busy(busy_percent, converges):
    what = seen(memory=166 * MIB, working_set=60 * MIB, rate=60 * MIB)
    windows = tuple(replace(window, error_bytes=8 * MIB, busy_percent=busy_percent) for window in what.windows)
    expected = forecast(replace(what, windows=windows), Limits())
    assert expected is not None
    assert expected.precopy.converges is converges


# What auto-converge takes is CPU time, and a guest that writes in a sixth of its own loses none of its pace by half of it.
@pytest.mark.parametrize(
    ("rate_mib", "set_mib", "busy_percent", "choice"),
    [
        (40, 48, 17, None),  # over 34 MiB/s; played: 90 % do not hold it, QEMU goes on to 99
        (40, 48, 100, Means.THROTTLED),
        (40, 48, 350, Means.THROTTLED),  # several CPUs, of which one may do all the writing
        (60, 48, 74, Means.THROTTLED),
        (2000, 16, 100, None),  # within a turn of 10 ms, and 90 % leave it one of 100
    ],
)
def test_a_slow_down_helps_as_far_as_the_guest_is_busy(rate_mib, set_mib, busy_percent, choice):
    windows = seen(working_set=set_mib * MIB, rate=rate_mib * MIB).windows
    what = replace(seen(memory=166 * MIB, bps=MBIT_300), windows=())
    for window in windows:
        what = what.watched(replace(window, busy_percent=busy_percent))
    expected = forecast(what, Limits())
    assert expected is not None
    assert expected.choice is choice
    if choice is None:
        assert "is not enough" in expected.reason
        assert "--postcopy" in expected.reason
        assert ("of a CPU for what it writes" in expected.reason) is (busy_percent < 75)
        assert not expected.hopeless


def test_clients_of_a_slowed_guest_wait_for_its_turn_besides():
    expected = forecast(seen(working_set=200 * MIB, rate=150 * MIB), Limits())
    assert expected is not None
    assert expected.throttled.downtime_ms is not None
    assert expected.throttled.downtime_ms.high >= 300 + slowed_ms(expected.throttled.throttle_percent)


@pytest.mark.parametrize(("busy", "needs"), [((None, 30, 20), 100), ((30, 90), 15), ((74,), 37), ((75,), 100), ((250, 20), 100)])
def test_the_first_window_tells_what_it_needs_of_a_cpu(busy, needs):
    what = Seen()
    for busy_percent in busy:
        what = what.watched(Window(ms=1000, dirtied_bytes=0, busy_percent=busy_percent))
    assert what.needs_percent == needs


def test_what_stalls_while_the_guest_is_slowed_would_at_its_own_pace_sooner():
    what = replace(seen(working_set=48 * MIB, rate=40 * MIB, bps=MBIT_300), needs_percent=20)
    lives = [Live(slowed=(percent, 90)) for percent in (0, 60, 90)]  # it was slowed further a moment ago
    at_its_pace, slowed, hardly = (live.correct(what, 24 * MIB).windows[0].ms for live in lives)
    assert slowed == at_its_pace  # it loses what it did not use
    assert hardly == pytest.approx(at_its_pace / 2, abs=1)


# What a simulation of every page came to, of a set over a path (MiB, MiB/s), with that limit; ``None``: it never ended.
@pytest.mark.parametrize(
    ("working_set", "rate", "bps", "limit_ms", "sent_in_s"),
    [
        (64, 24, 34.2, 100, 10.7),
        (64, 24, 34.2, 1000, 6.5),
        (64, 60, 34.2, 1000, None),
        (160, 90, 114, 100, 8.05),
        (160, 90, 114, 300, 6.55),
        (160, 150, 114, 300, None),
        (160, 150, 114, 1000, 2.95),
    ],
)
def test_a_run_takes_what_page_by_page_it_takes(working_set, rate, bps, limit_ms, sent_in_s):
    memory = 256 if working_set == 160 else 166
    curve = Curve(((working_set / rate, working_set * MIB),), 0.0, memory * MIB)
    run = play(curve, memory * MIB, bps * MIB, limit_ms)
    assert run.ended is (sent_in_s is not None)
    if sent_in_s is not None:
        assert run.sending_ms / 1000 == pytest.approx(sent_in_s, rel=0.06)
        sooner = play(curve, memory * MIB, bps * MIB, limit_ms, clears_when_sent=True)
        assert sooner.ended
        assert sooner.sending_ms <= run.sending_ms


@pytest.mark.parametrize(("dirtied_mib", "error_mib", "outruns"), [(64, 20, True), (48, 16, False), (30, 0, False)])
def test_a_guest_outruns_the_path_where_a_window_says_so_its_error_off(dirtied_mib, error_mib, outruns):
    window = Window(ms=1000, dirtied_bytes=dirtied_mib * MIB, error_bytes=error_mib * MIB)
    assert replace(seen(bps=MBIT_300), windows=(window,)).outruns_path is outruns
    assert not Seen(windows=(window,)).outruns_path


# --- while it runs


def look(**said: object) -> Progress:
    defaults: dict[str, object] = {"elapsed_ms": 0, "status": JobStatus.ACTIVE, "iteration": 1, "throughput_bps": GBIT}
    return Progress(**{**defaults, **said})  # type: ignore[arg-type]


def test_what_the_first_iteration_shows_takes_the_place_of_what_was_measured():
    live = Live()
    for tenth in range(41):
        live = live.then(look(elapsed_ms=1000 + 100 * tenth, sent_bytes=GBIT * tenth // 10))
    live = live.then(look(elapsed_ms=5100, iteration=2, sent_bytes=4 * GBIT, dirty_bps=10 * MIB))
    corrected = live.correct(seen(memory=GIB, bps=2 * GBIT))
    assert corrected.path is not None
    assert corrected.path.bps.likely == GBIT
    assert corrected.touched is not None
    assert corrected.touched.bytes.likely == 4 * GBIT
    assert corrected.windows[-1].dirtied_bytes == 41 * MIB
    assert [window.ms for window in corrected.windows] == [1000, 2000, 4000, 4100]


def under_way(*iterations: tuple[int, int], percent: int = 0, late_ms: int = 200) -> Live:
    """A migration whose iterations took so many ms, and in which QEMU counted so many bytes, a moment after each had ended."""
    live, now, told = Live().then(look()), 0, 0
    for number, (ms, dirtied) in enumerate(iterations, 1):
        now += ms
        last = look(elapsed_ms=now, iteration=number, sent_bytes=GBIT * now // 1000, dirty_bps=told, throttle_percent=percent)
        told, begun = dirtied * 1000 // ms, replace(last, iteration=number + 1)
        for sample in (last, begun, replace(begun, elapsed_ms=now + late_ms, dirty_bps=told)):
            live = live.then(sample)
    return live


def test_what_qemu_counted_of_an_iteration_is_a_window_and_takes_the_place_of_longer_samples():
    live = under_way((4000, 60 * MIB), (2500, 40 * MIB), (1500, 27 * MIB))
    windows = live.correct(seen()).windows
    assert [window.ms for window in windows] == [1000, 1500, 4000]
    assert [window.dirtied_bytes / MIB for window in windows[1:]] == pytest.approx([27, 60], rel=0.01)


@pytest.mark.parametrize("slowed", [False, True], ids=["too short", "slowed"])
def test_what_does_not_tell_the_guests_own_pace_is_no_window(slowed):
    live = under_way((4000, 60 * MIB), (2500 if slowed else 800, 40 * MIB), percent=60 if slowed else 0)
    assert live.last is None
    assert (live.first is None) is slowed


@pytest.mark.parametrize(
    ("dirtied_mib", "busy_percent", "last_mib", "whole"),
    [
        (45, 100, 64, True),
        (45, None, 64, False),  # nobody looked
        (45, 40, 64, False),  # something else keeps it waiting, so that it may have written no more
        (40, 100, 64, False),  # surely less
        (45, 100, 50, False),  # what longer windows show still grows
    ],
)
def test_a_sample_that_may_have_seen_all_that_a_busy_guest_writes_has(dirtied_mib, busy_percent, last_mib, whole):
    sample = Window(ms=1000, dirtied_bytes=dirtied_mib * MIB, error_bytes=20 * MIB, busy_percent=busy_percent)
    live = under_way((4000, 66 * MIB), (2000, last_mib * MIB))
    [first, *_] = live.correct(replace(seen(bps=MBIT_300), windows=(sample,))).windows
    assert first.dirtied_bytes == pytest.approx((last_mib if whole else dirtied_mib) * MIB, rel=0.01)


def test_where_iterations_bring_no_progress_that_is_what_counts():
    """12.7 MiB that are dirtied whole between any two looks: windows of seconds cannot tell, a fixed point that is seen can."""
    what = seen(memory=128 * MIB, working_set=12 * MIB, rate=12 * MIB // 2, bps=MBIT_300)
    before, now = (forecast(Live().correct(what, stuck), Limits()) for stuck in (None, round(12.7 * MIB)))
    assert before is not None
    assert now is not None
    assert before.choice is Means.PRECOPY
    assert now.choice is None  # dirtied whole within a turn of 10 ms that auto-converge leaves it
    assert now.needed_downtime_ms.likely == pytest.approx(375, rel=0.02)


@pytest.mark.parametrize("needs_percent", [13, 100])
@pytest.mark.parametrize("left_mib", [86, 90, 97])
def test_what_is_stuck_does_not_converge_some_day(needs_percent, left_mib):
    """96 MiB written at 160 MiB/s over 114 MiB/s, and samples that come late."""
    what = replace(seen(memory=198 * MIB, working_set=96 * MIB, rate=160 * MIB), needs_percent=needs_percent)
    now = UnderWay(elapsed_ms=4200, sent_bytes=400 * MIB, left_bytes=left_mib * MIB, first=False)
    for limits, choice in ((Limits(postcopy=True), Means.POSTCOPY), (Limits(auto_converge=False), None)):
        expected = forecast(Live().correct(what, left_mib * MIB), limits, now)
        assert expected is not None
        assert expected.choice is choice


def test_a_forecast_on_the_way_counts_what_is_behind():
    what, limits = seen(memory=GIB), Limits()
    before = forecast(what, limits)
    half = UnderWay(elapsed_ms=500 + round(GIB / 2 / GBIT * 1000), sent_bytes=GIB // 2, left_bytes=5 * GIB, first=True)
    on_the_way = forecast(what, limits, half)
    assert before is not None
    assert on_the_way is not None
    assert before.precopy.total_ms is not None
    assert on_the_way.precopy.total_ms is not None
    assert on_the_way.precopy.total_ms.likely == pytest.approx(before.precopy.total_ms.likely, rel=0.05)


@given(
    st.lists(st.tuples(st.integers(1, 5000), SIZES, st.sampled_from([None, 0, 30, 100])), min_size=1, max_size=4),
    st.booleans(),
    st.integers(0, 2048).map(lambda mib: mib * MIB),
    st.integers(0, 2048).map(lambda mib: mib * MIB),
    st.integers(1, 2000),
)
def test_wherever_it_is_and_whatever_was_seen_there_is_a_forecast(windows, first, sent, left, limit_ms):
    what = Seen(
        touched=Touched(bytes=Range(low=0, likely=GIB // 2, high=GIB), how="said", of_bytes=GIB),
        windows=tuple(
            Window(ms=ms, dirtied_bytes=dirtied, error_bytes=ms * MIB // 1000, busy_percent=busy) for ms, dirtied, busy in windows
        ),
        path=Way(bps=Range(low=MIB, likely=GBIT, high=2 * GBIT), how="said"),
    )
    now = UnderWay(elapsed_ms=1000, sent_bytes=sent, left_bytes=left, first=first)
    expected = forecast(what, Limits(max_downtime_ms=limit_ms), now)
    assert expected is not None
    assert sentence(expected, Limits(max_downtime_ms=limit_ms))


# --- the ladder that it makes


HOPELESS = seen(working_set=400 * MIB, rate=GIB)
DOUBTFUL = seen(working_set=200 * MIB, rate=130 * MIB)


@pytest.mark.parametrize(
    ("what", "limits", "does"),
    [
        (
            seen(),
            Limits(),
            [Decision.ALLOW_DOWNTIME, *[Decision.ALLOW_DOWNTIME, Decision.THROTTLE] * 2, *[Decision.ALLOW_DOWNTIME] * 3],
        ),
        (seen(), Limits(auto_converge=False), [Decision.ALLOW_DOWNTIME] * 2),
        (seen(), Limits(postcopy=True), [Decision.ALLOW_DOWNTIME] * 2 + [Decision.START_POSTCOPY]),
        (HOPELESS, Limits(postcopy=True), [Decision.START_POSTCOPY]),
        (DOUBTFUL, Limits(postcopy=True), [Decision.ALLOW_DOWNTIME, Decision.START_POSTCOPY]),
        (HOPELESS, Limits(), [Decision.ALLOW_DOWNTIME, Decision.GIVE_UP]),
        (DOUBTFUL, Limits(auto_converge=False), [Decision.ALLOW_DOWNTIME, Decision.GIVE_UP]),
        (replace(DOUBTFUL, needs_percent=10), Limits(), [Decision.ALLOW_DOWNTIME, Decision.GIVE_UP]),
        (HOPELESS, Limits(on_miss=OnMiss.SUSPEND), [Decision.SUSPEND]),
        (
            HOPELESS,
            Limits(on_miss=OnMiss.EXTEND),
            [*[Decision.ALLOW_DOWNTIME, Decision.THROTTLE] * 2, *[Decision.ALLOW_DOWNTIME] * 3],
        ),
        (HOPELESS, Limits(on_miss=OnMiss.EXTEND, auto_converge=False), [Decision.ALLOW_DOWNTIME]),
        (seen(working_set=200 * MIB, rate=150 * MIB), Limits(), [Decision.THROTTLE] * 2 + [Decision.ALLOW_DOWNTIME] * 3),
    ],
)
def test_each_forecast_has_its_ladder(what, limits, does):
    policy = plan(limits, forecast(what, limits), steers_throttle=True)
    assert [rung.do for rung in policy.rungs] == does


@pytest.mark.parametrize("what", [HOPELESS, DOUBTFUL])
def test_nothing_is_given_up_before_deltas_have_shown_what_they_bring(what):
    limits = Limits(auto_converge=False)
    expected = forecast(what, limits)
    assert expected is not None
    whole, declines = plan(limits, expected, deltas=True).rungs
    assert whole.fits
    assert (declines.do, declines.deltas_shown) == (Decision.GIVE_UP, True)
    assert (declines.level, declines.stalled) == ((True, None) if expected.seen.outruns_path else (False, 1))
    assert sentence(expected, limits, deltas=True).startswith("this can keep your promise only if the guest changes little")
    large = forecast(replace(what, touched=Touched(bytes=exactly(32 * GIB), how="said")), limits)
    assert plan(limits, large, deltas=True) == plan(limits, large)


@pytest.mark.parametrize("what", [seen(), HOPELESS, DOUBTFUL])
def test_nothing_goes_over_to_post_copy_before_deltas_have_shown_what_they_bring(what):
    limits = Limits(postcopy=True)
    expected = forecast(what, limits)
    assert expected is not None
    *_, whole, goes_over = plan(limits, expected, deltas=True).rungs
    assert whole.fits
    assert (goes_over.do, goes_over.stalled, goes_over.deltas_shown) == (Decision.START_POSTCOPY, 1, True)
    told = "it is tried whether the guest changes little" in sentence(expected, limits, deltas=True)
    assert told is (expected.choice is Means.POSTCOPY)


def test_where_memory_takes_long_and_nothing_else_would_do_post_copy_is_not_waited_for():
    large = forecast(replace(HOPELESS, touched=Touched(bytes=exactly(32 * GIB), how="said")), Limits(postcopy=True))
    [goes_over] = plan(Limits(postcopy=True), large, deltas=True).rungs
    assert (goes_over.do, goes_over.iteration) == (Decision.START_POSTCOPY, 2)


def test_a_doubtful_no_is_declined_within_ten_seconds_and_not_at_once():
    limits = Limits(auto_converge=False)
    expected = forecast(DOUBTFUL, limits)
    assert expected is not None
    assert expected.choice is None
    assert not expected.precopy.hopeless
    whole, rung = plan(limits, expected).rungs
    assert whole.fits
    assert rung.after_ms is not None
    assert 5_000 <= rung.after_ms < 10_000


def test_where_a_slow_down_is_on_its_way_iterations_must_stall_too_before_it_is_declined():
    *_, rung = plan(Limits(), forecast(replace(DOUBTFUL, needs_percent=10), Limits())).rungs
    assert rung.stalled
    assert rung.after_ms


@pytest.mark.parametrize(("needed_ms", "given_ms"), [(40, 100), (60, 124), (90, 248), (200, 248)])
def test_a_smaller_limit_is_given_only_where_it_is_enough_by_a_margin(needed_ms, given_ms):
    expected = forecast(seen(memory=96 * MIB, working_set=GBIT * needed_ms // 1000, rate=10 * GIB), Limits())
    assert expected is not None
    assert right_limit(expected, Limits()) == given_ms


@pytest.mark.parametrize(("promised_ms", "bps", "begins_ms"), [(300, GBIT, 248), (300, GBIT * 3 // 10, 221), (140, GBIT, 140)])
def test_what_a_switchover_takes_besides_is_kept_back_from_the_start(promised_ms, bps, begins_ms):
    assert first_limit(Limits(max_downtime_ms=promised_ms), bps) == begins_ms


def test_a_guest_that_hardly_writes_is_given_a_third_of_the_standstill_that_was_allowed():
    expected = forecast(seen(), Limits())
    assert expected is not None
    assert right_limit(expected, Limits()) == 100
    assert right_limit(expected, Limits(max_downtime_ms=1200)) == 382
    assert right_limit(expected, Limits(max_downtime_ms=50)) == 50
