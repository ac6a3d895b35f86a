"""QEMU's words and ours: every word that is known, and what becomes of the others."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.core.evidence import QEMU_RUN_STATES, Sighting
from segue.core.model import GuestState, JobStatus
from segue.drivers.qemu import fold


@given(st.text(max_size=12).filter(lambda word: word not in fold.STATUSES))
def test_a_status_of_tomorrow_is_unknown_and_never_an_end(word):
    status = fold.status_of({"status": word})
    assert status is JobStatus.UNKNOWN
    assert not status.is_final


@given(
    st.text(max_size=12).filter(lambda word: word not in QEMU_RUN_STATES), st.sampled_from(["none", "active", "completed", "x"])
)
def test_a_run_state_of_tomorrow_proves_nothing(word, status):
    for arrived in (True, False):
        assert not fold.sighting(word, {"status": status}, arrived_here=arrived).is_proof


@pytest.mark.parametrize(
    ("run_state", "status", "arrived", "seen"),
    [
        # a source, before, during and after
        ("running", "none", False, Sighting.RUNNING),
        ("running", "active", False, Sighting.RUNNING),
        ("finish-migrate", "active", False, Sighting.SWITCHOVER),
        ("postmigrate", "completed", False, Sighting.POSTMIGRATE),
        ("finish-migrate", "postcopy-active", False, Sighting.POSTCOPY),
        ("paused", "none", False, Sighting.PAUSED),
        # a destination that waits, has everything, was let run
        ("inmigrate", "setup", True, Sighting.INCOMING),
        ("inmigrate", "active", True, Sighting.INCOMING),
        ("paused", "completed", True, Sighting.SWITCHOVER),
        ("running", "completed", True, Sighting.RUNNING),
        ("running", "postcopy-active", True, Sighting.POSTCOPY),
        ("paused", "postcopy-paused", True, Sighting.POSTCOPY_PAUSED),
        # one that once arrived and leaves again
        ("postmigrate", "completed", True, Sighting.POSTMIGRATE),
        # one that once arrived, was stopped, and did not leave
        ("paused", "cancelled", True, Sighting.PAUSED),
        ("paused", "failed", True, Sighting.PAUSED),
        ("inmigrate", "failed", True, Sighting.INCOMING),
    ],
)
def test_what_a_qemu_shows(run_state, status, arrived, seen):
    assert fold.sighting(run_state, {"status": status}, arrived_here=arrived) is seen


def test_for_people_a_guest_that_is_being_sent_is_on_its_way():
    assert fold.guest_state(Sighting.RUNNING, {"status": "active"}) is GuestState.MIGRATING_OUT
    assert fold.guest_state(Sighting.RUNNING, {"status": "completed"}) is GuestState.RUNNING
    assert fold.guest_state(Sighting.UNKNOWN, {}) is GuestState.UNKNOWN


def test_a_sample_in_our_units():
    ram = {
        "total": 100,
        "remaining": 40,
        "transferred": 7,
        "mbps": 8,
        "dirty-pages-rate": 2,
        "page-size": 4096,
        "dirty-sync-count": 3,
    }
    sample = fold.progress(
        {"status": "active", "ram": ram, "expected-downtime": 300, "cpu-throttle-percentage": 20}, elapsed_ms=5
    )
    assert (sample.ram_total_bytes, sample.ram_remaining_bytes, sample.sent_bytes, sample.iteration) == (100, 40, 7, 3)
    assert (sample.throughput_bps, sample.dirty_bps) == (1_000_000, 8192)
    assert (sample.expected_downtime_ms, sample.downtime_ms, sample.throttle_percent) == (300, None, 20)
    assert sample.saved_bytes == 0
    deltas = {"pages": 10, "bytes": 4000}
    assert fold.progress({"status": "active", "ram": ram, "xbzrle-cache": deltas}, elapsed_ms=5).saved_bytes == 10 * 4096 - 4000


def test_no_numbers_yet():
    assert fold.progress({}, elapsed_ms=0).status is JobStatus.NONE


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
anything = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=4)
NAMES = ("status", "ram", "expected-downtime", "downtime", "cpu-throttle-percentage", "xbzrle-cache")
RAM = ("total", "remaining", "transferred", "mbps", "dirty-pages-rate", "page-size", "dirty-sync-count")
answers = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(NAMES, anything)
    | {"ram": st.dictionaries(st.sampled_from(RAM), anything)}
    | {"xbzrle-cache": st.dictionaries(st.sampled_from(("pages", "bytes")), anything) | anything},
)


@given(answers)
def test_whatever_is_answered_a_sample_can_be_written_down_and_calculated_with(answer):
    sample = fold.progress(answer, elapsed_ms=0)
    sample.raw_status.encode()
    assert sample.raw_status == "" or sample.raw_status.isprintable()
    numbers = [value for value in dataclasses.asdict(sample).values() if isinstance(value, int)]
    assert all(0 <= number < 1 << 63 for number in numbers)


def test_a_number_that_is_none_is_not_zero():
    for odd in (float("nan"), float("inf"), -1, True, "12", None, 1 << 63, 10**400):
        assert fold.progress({"downtime": odd}, elapsed_ms=0).downtime_ms is None


@pytest.mark.parametrize("odd", [None, 7, ["active"], {"a": 1}, True])
def test_a_status_that_is_no_word_is_unknown(odd):
    assert fold.status_of({"status": odd}) is JobStatus.UNKNOWN


def test_running_is_what_both_of_its_words_say():
    assert fold.runs({"running": True, "status": "running"})
    for odd in ({}, {"running": True}, {"running": "no", "status": "running"}, {"running": True, "status": "paused"}):
        assert not fold.runs(odd)


def test_words_are_shown_in_one_line_and_not_without_end():
    assert fold.said("two\nlines \x1b[2J\ud800") == "two lines  [2J"
    assert fold.said(b"bytes") == fold.said(None) == fold.said([]) == ""
    assert len(fold.said("x" * 10_000_000)) < 500
