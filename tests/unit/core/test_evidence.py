"""Sightings: what QEMU says folds to what was seen, and no word of tomorrow passes for something known."""

from __future__ import annotations

import pytest

from segue.core.evidence import QEMU_RUN_STATES, Sighting

# qapi/run-state.json, RunState, QEMU 10.0.
RUN_STATES = frozenset(
    {
        *("debug", "inmigrate", "internal-error", "io-error", "paused", "postmigrate", "prelaunch", "finish-migrate"),
        *("restore-vm", "running", "save-vm", "shutdown", "suspended", "watchdog", "guest-panicked", "colo"),
    }
)


def test_every_word_in_the_table_is_one_of_qemus():
    assert set(QEMU_RUN_STATES) <= RUN_STATES


def test_every_word_of_qemu_is_in_the_table_but_the_one_we_do_not_follow():
    assert RUN_STATES - set(QEMU_RUN_STATES) == {"colo"}


def test_one_word_only_means_that_the_guest_executes():
    assert [word for word, sighting in QEMU_RUN_STATES.items() if sighting is Sighting.RUNNING] == ["running"]


def test_a_process_that_answers_is_never_absent():
    assert Sighting.ABSENT not in QEMU_RUN_STATES.values()


@pytest.mark.parametrize("sighting", Sighting)
def test_silence_and_unknown_words_are_the_only_sightings_that_prove_nothing(sighting):
    assert sighting.is_proof is (sighting not in {Sighting.UNREACHABLE, Sighting.UNKNOWN})
