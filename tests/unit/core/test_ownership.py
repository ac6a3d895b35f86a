"""Who owns the guest: every pair of sightings, against rules that are written down here a second time."""

from __future__ import annotations

from itertools import product

import pytest

from segue.core.evidence import Evidence, Sighting
from segue.core.model import DriverKind, MigrationSpec, Owner
from segue.core.ownership import OWNERS, Remedy, Verdict, judge, judge_migration

S = Sighting
PAIRS = list(product(Sighting, Sighting))
EXECUTES = {S.RUNNING}  # and post-copy, on the destination only
GONE = {S.ABSENT, S.DEFINED, S.CRASHED}


def verdict(source: Sighting, destination: Sighting, *, may_have_run: bool = False, only_told: bool = False) -> Verdict:
    return judge(
        Evidence(host="alpha", sighting=source, seen_at_ms=0),
        Evidence(host="beta", sighting=destination, seen_at_ms=1),
        may_have_run=may_have_run,
        only_told=only_told,
    )


@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_a_host_that_proves_nothing_leaves_the_owner_unproven(source, destination):
    if not (source.is_proof and destination.is_proof):
        assert verdict(source, destination).owner is Owner.UNPROVEN
        assert not verdict(source, destination).settled


@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_a_host_where_the_guest_executes_is_never_denied(source, destination):
    owner = verdict(source, destination).owner
    if source in EXECUTES:
        assert owner in {Owner.SOURCE, Owner.UNPROVEN}
    if destination in EXECUTES | {S.POSTCOPY} and (source, destination) != (S.CRASHED, S.POSTCOPY):  # its pages are gone
        assert owner in {Owner.DESTINATION, Owner.UNPROVEN}


@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_settled_means_one_host_has_it_and_the_other_has_nothing_of_it(source, destination):
    seen = verdict(source, destination)
    if not seen.settled:
        return
    holder, other = {
        Owner.SOURCE: (source, destination),
        Owner.DESTINATION: (destination, source),
        Owner.NOBODY: (source, destination),
    }[seen.owner]
    assert other in GONE
    assert holder in (GONE if seen.owner is Owner.NOBODY else {S.RUNNING, S.PAUSED})


@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_an_owner_runs_it_only_where_it_was_seen_to(source, destination):
    seen = verdict(source, destination)
    shown = {Owner.SOURCE: source, Owner.DESTINATION: destination}.get(seen.owner)
    assert seen.runs is (shown in {S.RUNNING, S.PAUSED, S.POSTCOPY} and (source, destination) != (S.POSTMIGRATE, S.PAUSED))
    assert seen.stands is (shown is S.PAUSED)


@pytest.mark.parametrize("destination", GONE)
@pytest.mark.parametrize("source", [S.POSTMIGRATE, S.SWITCHOVER])
def test_the_past_of_a_guest_is_never_its_owner(source, destination):
    assert verdict(source, destination).owner is Owner.SOURCE
    assert verdict(source, destination, may_have_run=True).owner is Owner.UNPROVEN


@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_having_been_told_to_run_it_never_proves_more(source, destination):
    before, after = verdict(source, destination), verdict(source, destination, may_have_run=True)
    assert after == before or after.owner is Owner.UNPROVEN


@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_gone_from_the_source_is_not_arrived(source, destination):
    if source in GONE and verdict(source, destination).owner is Owner.DESTINATION:
        assert destination in {S.RUNNING, S.PAUSED, S.SWITCHOVER}


@pytest.mark.parametrize("destination", [S.RUNNING, S.POSTCOPY])
def test_two_running_copies_are_called_that_and_nothing_is_proven(destination):
    seen = verdict(S.RUNNING, destination)
    assert seen == Verdict(owner=Owner.UNPROVEN, settled=False, runs=False, both_run=True, reason=seen.reason, remedy=Remedy.ASK)
    assert seen.reason.startswith("two copies run")


@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_no_other_pair_is_called_two_copies(source, destination):
    assert verdict(source, destination).both_run is (source is S.RUNNING and destination in {S.RUNNING, S.POSTCOPY})


@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_the_reason_names_both_hosts_and_both_sightings(source, destination):
    reason = verdict(source, destination).reason
    for said in ("alpha", "beta", source.value, destination.value):
        assert said in reason


@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_half_of_a_postcopy_is_never_the_owner_on_the_source(source, destination):
    if S.POSTCOPY in {source, destination} or S.POSTCOPY_PAUSED in {source, destination}:
        assert verdict(source, destination).owner is not Owner.SOURCE


@pytest.mark.parametrize("half", [S.POSTCOPY, S.POSTCOPY_PAUSED])
@pytest.mark.parametrize("gone", sorted(GONE))
def test_a_guest_of_which_only_half_is_left_is_lost_and_only_a_person_may_discard_it(half, gone):
    seen = verdict(half, gone)
    assert (seen.owner, seen.settled, seen.remedy) == (Owner.NOBODY, False, Remedy.DISCARD)


@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_a_host_that_is_silent_is_waited_for_and_nothing_is_done_meanwhile(source, destination):
    if not (source.is_proof and destination.is_proof):
        for only_told in (True, False):
            assert verdict(source, destination, only_told=only_told).remedy is Remedy.WAIT


@pytest.mark.parametrize("silent", [S.UNREACHABLE, S.UNKNOWN])
@pytest.mark.parametrize("source", [S.RUNNING, S.PAUSED])
def test_who_was_never_told_to_run_cannot_be_the_owner_however_silent(source, silent):
    assert verdict(source, silent, only_told=True).owner is Owner.SOURCE
    assert not verdict(source, silent, only_told=True).settled
    assert verdict(source, silent, only_told=True, may_have_run=True).owner is Owner.UNPROVEN
    assert verdict(source, silent, only_told=False).owner is Owner.UNPROVEN


@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_only_what_is_left_to_do_has_a_remedy(source, destination):
    seen = verdict(source, destination)
    assert seen.settled is (seen.remedy in {Remedy.NOTHING, Remedy.RESTART})


def test_the_table_holds_no_verdict_that_says_nothing():
    assert Owner.UNPROVEN not in {owner for owner, _ in OWNERS.values()}


@pytest.mark.parametrize(
    ("stopped", "told", "source", "remedy", "rests"),
    [
        (True, True, S.POSTMIGRATE, Remedy.RELEASE_SOURCE, False),
        (True, True, S.ABSENT, Remedy.NOTHING, True),
        (True, False, S.POSTMIGRATE, Remedy.RESUME_DESTINATION, False),
        (False, True, S.POSTMIGRATE, Remedy.RESUME_DESTINATION, False),
        (False, True, S.ABSENT, Remedy.RESUME_DESTINATION, False),
    ],
)
def test_a_guest_that_was_stopped_is_where_it_stands_once_it_was_left_there(stopped, told, source, remedy, rests):
    spec = MigrationSpec(id="1", guest="web", source="alpha", destination="beta", driver=DriverKind.QEMU, stopped=stopped)
    here = Evidence(host="alpha", sighting=source, seen_at_ms=0)
    there = Evidence(host="beta", sighting=S.SWITCHOVER, seen_at_ms=1)
    found = judge_migration(spec, here, there, past=True, told_to_run=told)
    assert (found.owner, found.remedy) == (Owner.DESTINATION, remedy)
    assert (found.runs and found.stands and found.settled) is rests
