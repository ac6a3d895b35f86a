"""Who runs the guest: `judge(evidence of source, evidence of destination) -> Verdict`.

A verdict needs both hosts. "Gone from the source" is not "arrived"; a host that does not answer, or answers in words we do not
know, proves nothing, and then the owner is `Owner.UNPROVEN`.

What may live here: the table of pairs, what follows from each, and `judge`. It decides; it never acts, and it reads no clock.
docs/reference/ownership.md is written from it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from segue.core.evidence import Evidence, Sighting
from segue.core.model import DriverKind, MigrationSpec, Owner


class Remedy(StrEnum):
    """What is safe to do about a pair of sightings, and left to be done."""

    NOTHING = "nothing"
    """One copy, alone, and nothing left over."""
    WAIT = "wait"
    """Look again: a host did not answer, or answered in unknown words."""
    ROLL_BACK = "roll back"
    """End the destination's copy, which never ran; then let the source go on where it stands still."""
    RESUME_DESTINATION = "resume destination"
    """All has arrived: let the destination run, then end what the source still holds."""
    RELEASE_SOURCE = "release source"
    """End what the source still holds: the destination was seen to have the guest."""
    FOLLOW = "follow"
    """Post-copy runs: wait for its end, and end nothing on either side."""
    RECONNECT = "reconnect"
    """Post-copy lost its connection: connect it again, and end nothing on either side."""
    DISCARD = "discard"
    """The guest is lost; parts of it are left that nobody can use. A person may have them ended, then start it from its disk."""
    RESTART = "restart"
    """The guest died and nothing is left: a person may start it from its disk, on one host."""
    ASK = "ask"
    """Nothing is safe: a person must look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Who owns the guest, whether that is settled, and why.

    Attributes:
        owner: the one host on which the guest may run.
        settled: the owner's copy stands there alone and nothing of the move is left to do or undo.
        runs: the owner was seen executing the guest, or holding it as somebody had paused it; never both hosts. A destination
            where it stands while the source still holds what it sent is not called that: nobody saw it run there.
        stands: the owner holds it stopped.
        both_run: two copies were seen executing: the one thing that must never be.
        remedy: what is safe to do, and left to be done.
        reason: one sentence for a person, with both sightings in it.
    """

    owner: Owner
    settled: bool
    runs: bool
    reason: str
    remedy: Remedy
    stands: bool = False
    both_run: bool = False


S = Sighting

_IDLE: Final = tuple(sighting for sighting in S if sighting.is_idle)
_RUNS: Final = frozenset({S.RUNNING, S.PAUSED})

# What a source shows that has stopped for a hand-over.
_GIVEN_AWAY: Final = frozenset({S.SWITCHOVER, S.POSTMIGRATE})

_ARRIVED_AND_STANDS: Final = (S.POSTMIGRATE, S.PAUSED)
"""All has arrived, and something stopped the guest as soon as it was told to run: a disk that answers with an error."""

# (source, destination) → (owner, settled). Pairs that are not here prove nothing.
OWNERS: Final[dict[tuple[Sighting, Sighting], tuple[Owner, bool]]] = {
    # Before the hand-over: the source has it.
    **{(source, idle): (Owner.SOURCE, True) for source in _RUNS for idle in _IDLE},
    **{(source, S.INCOMING): (Owner.SOURCE, False) for source in _RUNS},
    (S.SWITCHOVER, S.INCOMING): (Owner.SOURCE, False),
    **{(S.SWITCHOVER, idle): (Owner.SOURCE, False) for idle in _IDLE},
    # All was sent and the destination provably cannot run it: the source still holds a whole guest and may go on.
    **{(S.POSTMIGRATE, idle): (Owner.SOURCE, False) for idle in (*_IDLE, S.INCOMING)},
    # All has arrived and stands still: either side could be told to run; the hand-over says the destination.
    (S.POSTMIGRATE, S.SWITCHOVER): (Owner.DESTINATION, False),
    (S.SWITCHOVER, S.SWITCHOVER): (Owner.SOURCE, False),
    # After it: the destination has it.
    (S.POSTMIGRATE, S.RUNNING): (Owner.DESTINATION, False),
    (S.POSTMIGRATE, S.PAUSED): (Owner.DESTINATION, False),
    (S.SWITCHOVER, S.RUNNING): (Owner.DESTINATION, False),
    **{(idle, runs): (Owner.DESTINATION, True) for idle in _IDLE for runs in _RUNS},
    **{(idle, S.SWITCHOVER): (Owner.DESTINATION, False) for idle in _IDLE},
    # Post-copy: the destination executes, the source still holds pages.
    **{
        (source, destination): (Owner.DESTINATION, False)
        for source in (S.POSTCOPY, S.POSTCOPY_PAUSED, S.POSTMIGRATE)
        for destination in (S.POSTCOPY, S.POSTCOPY_PAUSED)
    },
    (S.POSTCOPY, S.RUNNING): (Owner.DESTINATION, False),
    (S.POSTCOPY_PAUSED, S.RUNNING): (Owner.DESTINATION, False),
    # Post-copy, and one side is gone with the pages that only it had: no whole guest is anywhere.
    **{(source, idle): (Owner.NOBODY, False) for source in (S.POSTCOPY, S.POSTCOPY_PAUSED) for idle in _IDLE},
    **{(idle, S.POSTCOPY_PAUSED): (Owner.NOBODY, False) for idle in _IDLE},
    (S.CRASHED, S.POSTCOPY): (Owner.NOBODY, False),
    # Both answered, neither has it: it died. (A half-started destination may still have to be swept away.)
    **{(gone, idle): (Owner.NOBODY, True) for gone in _IDLE for idle in _IDLE},
    **{(idle, S.INCOMING): (Owner.NOBODY, False) for idle in _IDLE},
}


def judge(source: Evidence, destination: Evidence, *, may_have_run: bool, only_told: bool = False) -> Verdict:
    """Say who owns the guest from what both hosts showed.

    Args:
        source: what the source showed.
        destination: what the destination showed.
        may_have_run: the destination was told to run the guest, whatever it answered. When it then has nothing, the guest may
            have run and died there, and what the source still holds is its past: to run that against a disk that went on is worse
            than any outage.
        only_told: the destination runs the guest only when Segue tells it to (bare QEMU, started with ``-S``; libvirt's daemons
            do it by themselves). While it was not told, a source that is seen to have the guest owns it, even where the
            destination does not answer.

    Returns:
        A verdict; `Owner.UNPROVEN` for every pair that is not in `OWNERS`, for two running copies, and for the past above.
    """
    pair = source.sighting, destination.sighting
    seen = f"{source.host} shows it {source.sighting}, {destination.host} shows it {destination.sighting}"
    if source.sighting is S.RUNNING and destination.sighting in (S.RUNNING, S.POSTCOPY):
        why = f"two copies run: {seen}"
        return Verdict(owner=Owner.UNPROVEN, settled=False, runs=False, both_run=True, reason=why, remedy=Remedy.ASK)
    owner, settled = OWNERS.get(pair, (Owner.UNPROVEN, False))
    if may_have_run and source.sighting in _GIVEN_AWAY and destination.sighting in _IDLE:
        owner, settled = Owner.UNPROVEN, False
    if only_told and not may_have_run and source.sighting in _RUNS and not destination.sighting.is_proof:
        owner, settled = Owner.SOURCE, False
    held = {Owner.SOURCE: source.sighting, Owner.DESTINATION: destination.sighting}.get(owner, S.UNKNOWN)
    return Verdict(
        owner=owner,
        settled=settled,
        runs=(held in _RUNS or held is S.POSTCOPY) and pair != _ARRIVED_AND_STANDS,
        stands=held is S.PAUSED,
        reason=seen,
        remedy=_remedy(owner, settled, source.sighting, destination.sighting),
    )


def judge_migration(spec: MigrationSpec, source: Evidence, destination: Evidence, *, past: bool, told_to_run: bool) -> Verdict:
    """The verdict on a migration, as its driver and what was to be moved have it.

    Args:
        spec: what was asked for.
        source: what the source showed.
        destination: what the destination showed.
        past: it got past its point of no return, as far as is written down.
        told_to_run: there is an intent to let the destination run; for a guest that was stopped, to let it have the guest.
    """
    if spec.libvirt.offline:
        return judge_definition(source, destination)
    if spec.stopped and told_to_run and destination.sighting is S.SWITCHOVER:  # as it was to be: nobody resumes it there
        destination = replace(destination, sighting=S.PAUSED)
    by_itself = spec.driver is DriverKind.LIBVIRT
    return judge(source, destination, may_have_run=past if by_itself else told_to_run, only_told=not by_itself)


def judge_definition(source: Evidence, destination: Evidence) -> Verdict:
    """Say where the definition of a guest that does not run is, when that was all that was to be moved.

    Args:
        source: what the source showed.
        destination: what the destination showed.

    Returns:
        A verdict whose `Verdict.runs` means that the owner holds it. A destination that has it owns it, even where the source
        kept its own.
    """
    seen = f"{source.host} shows it {source.sighting}, {destination.host} shows it {destination.sighting}"
    if not (source.sighting.is_idle and destination.sighting.is_idle):
        silent = not (source.sighting.is_proof and destination.sighting.is_proof)
        remedy = Remedy.WAIT if silent else Remedy.ASK
        return Verdict(owner=Owner.UNPROVEN, settled=False, runs=False, reason=seen, remedy=remedy)
    owner = Owner.DESTINATION if destination.sighting is not S.ABSENT else Owner.SOURCE
    if source.sighting is S.ABSENT and owner is Owner.SOURCE:
        owner = Owner.NOBODY
    return Verdict(owner=owner, settled=True, runs=owner is not Owner.NOBODY, reason=seen, remedy=Remedy.NOTHING)


def _remedy(owner: Owner, settled: bool, source: Sighting, destination: Sighting) -> Remedy:  # noqa: FBT001  # a row of a table
    silent = not (source.is_proof and destination.is_proof)
    match owner:
        case Owner.SOURCE | Owner.DESTINATION if settled:
            return Remedy.NOTHING
        case Owner.SOURCE:
            return Remedy.WAIT if silent else Remedy.ROLL_BACK
        case Owner.DESTINATION:
            return _FOR_DESTINATION[S.POSTCOPY_PAUSED if S.POSTCOPY_PAUSED in (source, destination) else destination]
        case Owner.NOBODY if settled:
            return Remedy.RESTART
        case Owner.NOBODY:
            return Remedy.ROLL_BACK if destination is S.INCOMING else Remedy.DISCARD
        case _:
            return Remedy.WAIT if silent else Remedy.ASK


# What is left to be done for a destination that owns the guest, by what it shows.
_FOR_DESTINATION: Final = {
    S.RUNNING: Remedy.RELEASE_SOURCE,
    S.PAUSED: Remedy.RELEASE_SOURCE,
    S.SWITCHOVER: Remedy.RESUME_DESTINATION,
    S.POSTCOPY: Remedy.FOLLOW,
    S.POSTCOPY_PAUSED: Remedy.RECONNECT,
}
