"""QEMU's words and ours: every word that is known, and what becomes of the others."""

from __future__ import annotations

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


def test_no_numbers_yet():
    assert fold.progress({}, elapsed_ms=0).status is JobStatus.NONE
