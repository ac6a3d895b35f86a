"""Who runs the guest: `judge(evidence of source, evidence of destination) -> Verdict`.

A verdict needs both hosts. "Gone from the source" is not "arrived"; a host that does not answer, or answers in words we do not
know, proves nothing, and then the owner is `Owner.UNPROVEN`.

What may live here: the table of pairs and `judge`. It decides; it never acts, and it reads no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from segue.core.evidence import Evidence, Sighting
from segue.core.model import Owner


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Who owns the guest, whether that is settled, and why.

    Attributes:
        owner: the one host on which the guest may run.
        settled: the owner's copy stands there alone and nothing of the move is left to do or undo.
        runs: the owner was seen executing the guest, or holding it as somebody had paused it; never both hosts.
        both_run: two copies were seen executing: the one thing that must never be.
        reason: one sentence for a person, with both sightings in it.
    """

    owner: Owner
    settled: bool
    runs: bool
    reason: str
    both_run: bool = False


S = Sighting

# What a host shows when the guest certainly executes nothing there and holds nothing that the other side needs.
_IDLE: Final = frozenset({S.ABSENT, S.DEFINED})
_RUNS: Final = frozenset({S.RUNNING, S.PAUSED})

# What a source shows that has stopped for a hand-over.
_GIVEN_AWAY: Final = frozenset({S.SWITCHOVER, S.POSTMIGRATE})

# (source, destination) → (owner, settled). Pairs that are not here prove nothing.
OWNERS: Final[dict[tuple[Sighting, Sighting], tuple[Owner, bool]]] = {
    # Before the hand-over: the source has it.
    **{(source, idle): (Owner.SOURCE, True) for source in _RUNS for idle in _IDLE},
    **{(source, S.INCOMING): (Owner.SOURCE, False) for source in _RUNS},
    (S.SWITCHOVER, S.INCOMING): (Owner.SOURCE, False),
    (S.SWITCHOVER, S.ABSENT): (Owner.SOURCE, False),
    (S.SWITCHOVER, S.DEFINED): (Owner.SOURCE, False),
    # All was sent and the destination provably cannot run it: the source still holds a whole guest and may go on.
    (S.POSTMIGRATE, S.ABSENT): (Owner.SOURCE, False),
    (S.POSTMIGRATE, S.DEFINED): (Owner.SOURCE, False),
    (S.POSTMIGRATE, S.INCOMING): (Owner.SOURCE, False),
    # All has arrived and stands still: either side could be told to run; the hand-over says the destination.
    (S.POSTMIGRATE, S.SWITCHOVER): (Owner.DESTINATION, False),
    (S.SWITCHOVER, S.SWITCHOVER): (Owner.SOURCE, False),
    # After it: the destination has it.
    (S.POSTMIGRATE, S.RUNNING): (Owner.DESTINATION, False),
    (S.POSTMIGRATE, S.PAUSED): (Owner.DESTINATION, False),
    (S.SWITCHOVER, S.RUNNING): (Owner.DESTINATION, False),
    (S.ABSENT, S.RUNNING): (Owner.DESTINATION, True),
    (S.DEFINED, S.RUNNING): (Owner.DESTINATION, True),
    (S.ABSENT, S.PAUSED): (Owner.DESTINATION, True),
    (S.DEFINED, S.PAUSED): (Owner.DESTINATION, True),
    (S.ABSENT, S.SWITCHOVER): (Owner.DESTINATION, False),
    (S.DEFINED, S.SWITCHOVER): (Owner.DESTINATION, False),
    # Post-copy: the destination executes, the source still holds pages.
    **{
        (source, destination): (Owner.DESTINATION, False)
        for source in (S.POSTCOPY, S.POSTCOPY_PAUSED, S.POSTMIGRATE)
        for destination in (S.POSTCOPY, S.POSTCOPY_PAUSED)
    },
    (S.POSTCOPY, S.RUNNING): (Owner.DESTINATION, False),
    (S.POSTCOPY_PAUSED, S.RUNNING): (Owner.DESTINATION, False),
    # Both answered, neither has it: it died. (A half-started destination may still have to be swept away.)
    **{(gone, idle): (Owner.NOBODY, True) for gone in _IDLE for idle in _IDLE},
    (S.ABSENT, S.INCOMING): (Owner.NOBODY, False),
    (S.DEFINED, S.INCOMING): (Owner.NOBODY, False),
}


def judge(source: Evidence, destination: Evidence, *, may_have_run: bool) -> Verdict:
    """Say who owns the guest from what both hosts showed.

    Args:
        source: what the source showed.
        destination: what the destination showed.
        may_have_run: the destination was told to run the guest, whatever it answered. When it then has nothing, the guest may
            have run and died there, and what the source still holds is its past: to run that against a disk that went on is worse
            than any outage.

    Returns:
        A verdict; `Owner.UNPROVEN` for every pair that is not in `OWNERS`, for two running copies, and for the past above.
    """
    seen = f"{source.host} shows it {source.sighting}, {destination.host} shows it {destination.sighting}"
    if source.sighting is S.RUNNING and destination.sighting in (S.RUNNING, S.POSTCOPY):
        return Verdict(owner=Owner.UNPROVEN, settled=False, runs=False, both_run=True, reason=f"two copies run: {seen}")
    owner, settled = OWNERS.get((source.sighting, destination.sighting), (Owner.UNPROVEN, False))
    if may_have_run and source.sighting in _GIVEN_AWAY and destination.sighting in _IDLE:
        owner, settled = Owner.UNPROVEN, False
    held = {Owner.SOURCE: source.sighting, Owner.DESTINATION: destination.sighting}.get(owner, S.UNKNOWN)
    return Verdict(owner=owner, settled=settled, runs=held in _RUNS or held is S.POSTCOPY, reason=seen)
