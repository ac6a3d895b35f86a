"""The one table of legal moves of a migration: `step(state, fact) -> (state, effects)`.

Everything that can change the state of a migration stands in `TRANSITIONS`; a fact that is not in the row of the current state is
a bug of the caller: `step` raises and nothing changes. The phases carry libvirt's names (docs/migration.rst; for libvirt
guests the daemons run them and we watch, for bare QEMU we run them ourselves), the end states are those of `model.OutcomeKind`.

    begin → prepare → perform → finish → confirm → verify → moved
                         └→ postcopy ↗
    and from prepare and perform: → cancelling → cancelled, or → failing → failed; wherever something was touched: → ambiguous

What may live here: the states, the facts, the effects, the table and `step`. This file does not know which hypervisor it judges,
reads no clock and performs nothing: effects are words for the runner.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class State(StrEnum):
    """Where a migration is. The first block is the way through, the second the way back, the third the ends."""

    BEGIN = "begin"
    PREPARE = "prepare"
    PERFORM = "perform"
    POSTCOPY = "postcopy"
    FINISH = "finish"
    CONFIRM = "confirm"
    VERIFY = "verify"

    CANCELLING = "cancelling"
    FAILING = "failing"

    MOVED = "moved"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REFUSED = "refused"
    AMBIGUOUS = "ambiguous"

    @property
    def is_end(self) -> bool:
        """Nothing follows by itself."""
        return self in END_STATES

    @property
    def may_cancel(self) -> bool:
        """The guest still runs on the source alone, and turning back is safe."""
        return Fact.CANCEL_ASKED in TRANSITIONS[self]


class Fact(StrEnum):
    """What happened. Facts are observed or reported, never wished for."""

    REFUSED = "refused"
    """The first look says that this move must not start; nothing was touched."""
    CHECKED = "checked"
    """Both hosts were looked at and nothing stands in the way."""
    PREPARED = "prepared"
    """The destination listens."""
    POSTCOPY_BEGAN = "post-copy-began"
    """The hypervisor says that post-copy runs: the destination executes."""
    SOURCE_HANDED_OVER = "source-handed-over"
    """The hypervisor says that all is sent and the source stands still, or is gone."""
    RESUMED = "resumed"
    """The destination was told to run, and said yes."""
    SOURCE_RELEASED = "source-released"
    """The source's leftovers are gone, the configuration is where it was asked to be."""
    CANCEL_ASKED = "cancel-asked"
    BROKE = "broke"
    """An action or the hypervisor's job failed."""
    PROVEN_ON_DESTINATION = "proven-on-destination"
    """Evidence of both hosts: the guest runs on the destination only."""
    PROVEN_ON_SOURCE = "proven-on-source"
    """Evidence of both hosts: the guest runs on the source only, nothing is left on the destination."""
    PROVEN_GONE = "proven-gone"
    """Evidence of both hosts: the guest runs nowhere (it died)."""
    TAKEN_UP = "taken-up"
    """Somebody looks again at a migration that had ended without proof, or had left something behind."""
    UNPROVEN = "unproven"
    """The evidence does not prove one owner, and the time to look for it is over."""


class Effect(StrEnum):
    """What the runner does on entering a state. One word each; the runner maps them to calls of the driver."""

    PREPARE_DESTINATION = "prepare-destination"
    START = "start"
    FOLLOW = "follow"
    RESUME_DESTINATION = "resume-destination"
    RELEASE_SOURCE = "release-source"
    PROVE = "prove"
    CANCEL_AND_ROLL_BACK = "cancel-and-roll-back"
    ROLL_BACK = "roll-back"


class IllegalFact(Exception):  # an error in Segue itself, not part of the operator's tree
    """The fact cannot happen in that state. Nothing was changed.

    Args:
        state: the state, unchanged.
        fact: the fact that does not belong there.
    """

    def __init__(self, state: State, fact: Fact) -> None:
        super().__init__(f"{fact} cannot happen in {state}")
        self.state: Final = state
        self.fact: Final = fact


_CAN_TURN_BACK: Final = {Fact.CANCEL_ASKED: State.CANCELLING, Fact.BROKE: State.FAILING, Fact.UNPROVEN: State.AMBIGUOUS}

# After the hand-over nobody can turn back by asking. A failure there is not "failed" but a question for the evidence: VERIFY.
_NO_WAY_BACK: Final = {Fact.BROKE: State.VERIFY, Fact.UNPROVEN: State.AMBIGUOUS}

TRANSITIONS: Final[dict[State, dict[Fact, State]]] = {
    State.BEGIN: {Fact.CHECKED: State.PREPARE, Fact.REFUSED: State.REFUSED, Fact.CANCEL_ASKED: State.CANCELLING},
    State.PREPARE: {Fact.PREPARED: State.PERFORM, **_CAN_TURN_BACK},
    State.PERFORM: {Fact.POSTCOPY_BEGAN: State.POSTCOPY, Fact.SOURCE_HANDED_OVER: State.FINISH, **_CAN_TURN_BACK},
    State.POSTCOPY: {Fact.SOURCE_HANDED_OVER: State.FINISH, **_NO_WAY_BACK},
    State.FINISH: {Fact.RESUMED: State.CONFIRM, **_NO_WAY_BACK},
    State.CONFIRM: {Fact.SOURCE_RELEASED: State.VERIFY, **_NO_WAY_BACK},
    State.VERIFY: {
        Fact.PROVEN_ON_DESTINATION: State.MOVED,
        Fact.PROVEN_ON_SOURCE: State.FAILED,
        Fact.PROVEN_GONE: State.FAILED,
        Fact.UNPROVEN: State.AMBIGUOUS,
    },
    # A cancel that loses the race against the switchover ends where the guest really is: moved.
    State.CANCELLING: {
        Fact.PROVEN_ON_SOURCE: State.CANCELLED,
        Fact.PROVEN_ON_DESTINATION: State.MOVED,
        Fact.PROVEN_GONE: State.FAILED,
        Fact.UNPROVEN: State.AMBIGUOUS,
    },
    State.FAILING: {
        Fact.PROVEN_ON_SOURCE: State.FAILED,
        Fact.PROVEN_ON_DESTINATION: State.MOVED,
        Fact.PROVEN_GONE: State.FAILED,
        Fact.UNPROVEN: State.AMBIGUOUS,
    },
    State.MOVED: {Fact.TAKEN_UP: State.VERIFY},
    State.FAILED: {Fact.TAKEN_UP: State.FAILING},
    State.CANCELLED: {Fact.TAKEN_UP: State.CANCELLING},
    State.REFUSED: {},
    State.AMBIGUOUS: {Fact.TAKEN_UP: State.VERIFY},
}

PHASES: Final = (
    State.BEGIN,
    State.PREPARE,
    State.PERFORM,
    State.POSTCOPY,
    State.FINISH,
    State.CONFIRM,
    State.VERIFY,
)
"""The way through, in order: what people are shown as the phase."""

MAY_HAVE_RUN: Final = frozenset({State.POSTCOPY, State.FINISH, State.CONFIRM, State.VERIFY})
"""From these on the destination has been told to run the guest, or ran it already."""

END_STATES: Final = frozenset({State.MOVED, State.FAILED, State.CANCELLED, State.REFUSED, State.AMBIGUOUS})
"""Nothing follows by itself; who finds that something is left to do takes it up again."""

ON_ENTRY: Final[dict[State, tuple[Effect, ...]]] = {
    State.PREPARE: (Effect.PREPARE_DESTINATION,),
    State.PERFORM: (Effect.START,),
    State.POSTCOPY: (Effect.FOLLOW,),
    State.FINISH: (Effect.RESUME_DESTINATION,),
    State.CONFIRM: (Effect.RELEASE_SOURCE,),
    State.VERIFY: (Effect.PROVE,),
    State.CANCELLING: (Effect.CANCEL_AND_ROLL_BACK, Effect.PROVE),
    State.FAILING: (Effect.ROLL_BACK, Effect.PROVE),
}


# Where whoever takes up a migration begins that another process left in that state: what the state asks for is done (again), for
# each of it is harmless when repeated, except that nothing new is begun. A migration that never got past begin, or whose
# destination was still being made ready, is turned back; both are proven on both hosts, for what is written may be late.
TAKE_UP: Final[dict[State, tuple[Fact | None, tuple[Effect, ...]]]] = {
    State.BEGIN: (Fact.CANCEL_ASKED, ()),
    State.PREPARE: (Fact.BROKE, ()),
    **{state: (None, ON_ENTRY[state]) for state in State if state in ON_ENTRY and state is not State.PREPARE},
    **{state: (Fact.TAKEN_UP, ()) for state in END_STATES if TRANSITIONS[state]},
}


def step(state: State, fact: Fact) -> tuple[State, tuple[Effect, ...]]:
    """The state that follows, and what the runner is to do on entering it.

    Raises:
        IllegalFact: the fact is not in the state's row; the state is as it was.
    """
    try:
        following = TRANSITIONS[state][fact]
    except KeyError:
        raise IllegalFact(state, fact) from None
    return following, ON_ENTRY.get(following, ())
