"""The table of phases: its shape, and that nobody can walk through it to a place that evidence did not prove."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.core.model import OutcomeKind
from segue.core.phases import (
    END_STATES,
    MAY_HAVE_RUN,
    ON_ENTRY,
    PHASES,
    TAKE_UP,
    TRANSITIONS,
    Effect,
    Fact,
    IllegalFact,
    State,
    step,
)

PROOFS = {Fact.PROVEN_ON_DESTINATION, Fact.PROVEN_ON_SOURCE, Fact.PROVEN_GONE}
AFTER_THE_POINT_OF_NO_RETURN = (State.POSTCOPY, State.FINISH, State.CONFIRM, State.VERIFY)
# The life of one migration. Somebody may look again at one that has ended: that begins another look, and is tested by itself.
LIFE = {state: {fact: after for fact, after in row.items() if fact is not Fact.TAKEN_UP} for state, row in TRANSITIONS.items()}
LEGAL = [(state, fact) for state, row in LIFE.items() for fact in row]


def reachable(start: State) -> set[State]:
    """Everywhere that some sequence of facts leads, the start included."""
    found = {start}
    edge = [start]
    while edge:
        for following in LIFE[edge.pop()].values():
            if following not in found:
                found.add(following)
                edge.append(following)
    return found


def test_every_state_has_a_row_and_can_be_reached():
    assert set(TRANSITIONS) == set(State) == reachable(State.BEGIN)


def test_every_fact_and_every_effect_is_used():
    assert {fact for row in TRANSITIONS.values() for fact in row} == set(Fact)
    assert {fact for row in LIFE.values() for fact in row} == set(Fact) - {Fact.TAKEN_UP}
    assert {effect for effects in ON_ENTRY.values() for effect in effects} == set(Effect)


def test_the_ends_are_the_outcomes():
    assert {state.value for state in END_STATES} == {kind.value for kind in OutcomeKind}
    assert {state for state in State if state.is_end} == END_STATES


@pytest.mark.parametrize("state", State)
def test_a_state_is_an_end_or_does_something_and_leads_to_one(state):
    if state.is_end:
        assert state not in ON_ENTRY
    else:
        assert state is State.BEGIN or ON_ENTRY[state]
        assert reachable(state) & END_STATES


@pytest.mark.parametrize("state", AFTER_THE_POINT_OF_NO_RETURN)
def test_after_the_point_of_no_return_cancel_does_not_exist(state):
    assert not state.may_cancel
    assert not reachable(state) & {State.CANCELLING, State.CANCELLED}


@pytest.mark.parametrize("state", [State.BEGIN, State.PREPARE, State.PERFORM])
def test_before_it_one_may_cancel(state):
    assert state.may_cancel


def test_moved_needs_proof_of_the_destination():
    assert {fact for state, fact in LEGAL if TRANSITIONS[state][fact] is State.MOVED} == {Fact.PROVEN_ON_DESTINATION}


def test_cancelled_needs_proof_of_the_source():
    into = {(state, fact) for state, fact in LEGAL if TRANSITIONS[state][fact] is State.CANCELLED}
    assert into == {(State.CANCELLING, Fact.PROVEN_ON_SOURCE)}


def test_failed_needs_proof():
    assert {fact for state, fact in LEGAL if TRANSITIONS[state][fact] is State.FAILED} <= PROOFS


def test_refused_only_before_anything_was_touched():
    assert [state for state, fact in LEGAL if TRANSITIONS[state][fact] is State.REFUSED] == [State.BEGIN]


@pytest.mark.parametrize("state", [state for state in State if not state.is_end and state is not State.BEGIN])
def test_wherever_something_was_touched_ambiguous_is_one_step_away(state):
    assert TRANSITIONS[state][Fact.UNPROVEN] is State.AMBIGUOUS


@pytest.mark.parametrize("state", [state for state in State if Effect.PROVE in ON_ENTRY.get(state, ())])
def test_a_state_that_asks_for_proof_takes_every_verdict(state):
    assert set(LIFE[state]) == {*PROOFS, Fact.UNPROVEN}
    assert ON_ENTRY[state][-1] is Effect.PROVE


def test_only_finish_lets_the_destination_run_and_only_confirm_releases_the_source():
    assert [state for state, effects in ON_ENTRY.items() if Effect.RESUME_DESTINATION in effects] == [State.FINISH]
    assert [state for state, effects in ON_ENTRY.items() if Effect.RELEASE_SOURCE in effects] == [State.CONFIRM]
    assert {state for state, fact in LEGAL if TRANSITIONS[state][fact] is State.CONFIRM} == {State.FINISH}


def test_the_destination_may_have_run_the_guest_from_the_point_of_no_return_on():
    assert set(AFTER_THE_POINT_OF_NO_RETURN) == MAY_HAVE_RUN


def test_nothing_is_rolled_back_after_the_point_of_no_return():
    turning_back = {
        state for state, effects in ON_ENTRY.items() if {Effect.ROLL_BACK, Effect.CANCEL_AND_ROLL_BACK} & set(effects)
    }
    for state in AFTER_THE_POINT_OF_NO_RETURN:
        assert not reachable(state) & turning_back


@pytest.mark.parametrize(("state", "fact"), [(state, fact) for state in State for fact in Fact if fact not in TRANSITIONS[state]])
def test_an_illegal_fact_raises_and_says_both(state, fact):
    before = {state: dict(row) for state, row in TRANSITIONS.items()}
    with pytest.raises(IllegalFact) as caught:
        step(state, fact)
    assert (caught.value.state, caught.value.fact) == (state, fact)
    assert before == TRANSITIONS


@pytest.mark.parametrize(("state", "fact"), LEGAL)
def test_a_legal_fact_gives_the_next_state_and_what_to_do_on_entering_it(state, fact):
    assert step(state, fact) == (TRANSITIONS[state][fact], ON_ENTRY.get(TRANSITIONS[state][fact], ()))


@given(st.data())
def test_any_walk_passes_the_phases_in_order_and_never_turns_back_late(data):
    state, walked = State.BEGIN, [State.BEGIN]
    while not state.is_end:
        fact = data.draw(st.sampled_from(sorted(TRANSITIONS[state])))
        state, _ = step(state, fact)
        walked.append(state)
    phases = [PHASES.index(state) for state in walked if state in PHASES]
    assert phases == sorted(set(phases))
    assert len(walked) <= len(PHASES) + 2


@pytest.mark.parametrize("state", State)
def test_whoever_takes_up_a_migration_begins_nothing_new(state):
    fact, effects = TAKE_UP.get(state, (None, ()))
    if state is State.REFUSED:  # nothing was touched
        assert state not in TAKE_UP
    elif state in (State.BEGIN, State.PREPARE):
        assert fact is not None
        assert TRANSITIONS[state][fact] in (State.CANCELLING, State.FAILING)
        assert ON_ENTRY[TRANSITIONS[state][fact]][-1] is Effect.PROVE
        assert effects == ()
    elif state.is_end:
        assert (fact, effects) == (Fact.TAKEN_UP, ())
        assert ON_ENTRY[TRANSITIONS[state][Fact.TAKEN_UP]][-1] is Effect.PROVE
    else:
        assert (fact, effects) == (None, ON_ENTRY[state])


def test_an_end_that_is_looked_at_again_never_comes_before_its_point_of_no_return():
    again = {state: TRANSITIONS[state][Fact.TAKEN_UP] for state in END_STATES if Fact.TAKEN_UP in TRANSITIONS[state]}
    assert again == {
        State.MOVED: State.VERIFY,
        State.FAILED: State.FAILING,
        State.CANCELLED: State.CANCELLING,
        State.AMBIGUOUS: State.VERIFY,
    }
