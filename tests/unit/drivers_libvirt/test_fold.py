"""libvirt's words and ours: every state and reason that this binding names is folded on purpose, and the rest proves nothing."""

from __future__ import annotations

import libvirt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.core.evidence import Sighting
from segue.core.model import JobStatus
from segue.drivers.libvirt import fold


def names(prefix: str) -> dict[str, int]:
    """The constants of libvirt's binding that begin so."""
    return {name: value for name, value in vars(libvirt).items() if name.startswith(prefix) and not name.endswith("_LAST")}


PAUSED_REASONS = names("VIR_DOMAIN_PAUSED_")
RUNNING_REASONS = names("VIR_DOMAIN_RUNNING_")
# Stopped by an operator, by the guest itself, or by its host: whole, and nobody's migration.
PAUSED_BY_OTHERS = {
    "USER",
    "SAVE",
    "DUMP",
    "IOERROR",
    "WATCHDOG",
    "FROM_SNAPSHOT",
    "SHUTTING_DOWN",
    "SNAPSHOT",
    "CRASHED",
    "API_ERROR",
}
RUNS_WHOLE = {
    "UNKNOWN",
    "BOOTED",
    "MIGRATED",
    "RESTORED",
    "FROM_SNAPSHOT",
    "UNPAUSED",
    "MIGRATION_CANCELED",
    "SAVE_CANCELED",
    "WAKEUP",
    "CRASHED",
}


@pytest.mark.parametrize("name", PAUSED_REASONS)
def test_every_reason_to_be_paused_is_placed(name):
    placed = PAUSED_REASONS[name] in fold.PAUSED
    assert placed != (name.removeprefix("VIR_DOMAIN_PAUSED_") in PAUSED_BY_OTHERS), "a new reason: say what it shows"


@pytest.mark.parametrize("name", RUNNING_REASONS)
def test_every_reason_to_run_is_placed(name):
    placed = RUNNING_REASONS[name] in fold.RUNNING
    assert placed != (name.removeprefix("VIR_DOMAIN_RUNNING_") in RUNS_WHOLE), "a new reason: say what it shows"


@pytest.mark.parametrize(
    ("state", "reason", "incoming", "seen"),
    [
        ("RUNNING", "RUNNING_BOOTED", False, Sighting.RUNNING),
        ("RUNNING", "RUNNING_POSTCOPY", False, Sighting.POSTCOPY),
        ("PAUSED", "PAUSED_USER", False, Sighting.PAUSED),
        ("PAUSED", "PAUSED_MIGRATION", False, Sighting.SWITCHOVER),
        ("PAUSED", "PAUSED_MIGRATION", True, Sighting.INCOMING),
        ("PAUSED", "PAUSED_STARTING_UP", False, Sighting.INCOMING),
        ("PAUSED", "PAUSED_POSTCOPY", False, Sighting.POSTCOPY),
        ("PAUSED", "PAUSED_POSTCOPY_FAILED", False, Sighting.POSTCOPY_PAUSED),
        ("SHUTOFF", "SHUTOFF_MIGRATED", False, Sighting.DEFINED),
        ("SHUTOFF", "SHUTOFF_CRASHED", False, Sighting.CRASHED),
        ("CRASHED", "CRASHED_PANICKED", False, Sighting.CRASHED),
        ("PMSUSPENDED", "PMSUSPENDED_UNKNOWN", False, Sighting.PAUSED),
        ("NOSTATE", "NOSTATE_UNKNOWN", False, Sighting.UNKNOWN),
    ],
)
def test_what_a_domain_shows(state, reason, incoming, seen):
    constants = names("VIR_DOMAIN_")
    assert fold.sighting(constants[f"VIR_DOMAIN_{state}"], constants[f"VIR_DOMAIN_{reason}"], incoming=incoming) is seen


@given(st.integers(8, 99), st.integers(), st.booleans())
def test_a_state_of_tomorrow_proves_nothing(state, reason, incoming):
    assert not fold.sighting(state, reason, incoming=incoming).is_proof


def test_a_job_is_a_sample():
    stats = {
        "type": libvirt.VIR_DOMAIN_JOB_UNBOUNDED,
        "memory_total": 1 << 30,
        "memory_remaining": 1 << 20,
        "memory_processed": 5 << 20,
        "memory_bps": 100,
        "memory_dirty_rate": 3,
        "memory_page_size": 4096,
        "memory_iteration": 2,
        "downtime": 250,
    }
    assert fold.status_of(stats, libvirt.VIR_DOMAIN_RUNNING, 0) is JobStatus.ACTIVE
    sample = fold.progress(stats, elapsed_ms=7, status=JobStatus.ACTIVE)
    assert (sample.dirty_bps, sample.iteration, sample.expected_downtime_ms, sample.downtime_ms) == (3 * 4096, 2, 250, None)
    assert fold.progress(stats, elapsed_ms=7, status=JobStatus.COMPLETED).downtime_ms == 250
    assert sample.saved_bytes == 0
    deltas = {"compression_pages": 10, "compression_bytes": 4000}
    assert fold.progress(stats | deltas, elapsed_ms=7, status=JobStatus.ACTIVE).saved_bytes == 10 * 4096 - 4000


def test_an_empty_job_and_odd_values_are_no_numbers():
    sample = fold.progress({"type": 0, "memory_total": "many"}, elapsed_ms=0, status=JobStatus.SETUP)
    assert (sample.ram_total_bytes, sample.expected_downtime_ms) == (0, None)
    assert fold.status_of({"type": 0}, libvirt.VIR_DOMAIN_RUNNING, 0) is JobStatus.SETUP
