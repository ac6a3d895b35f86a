"""What a person reads of a migration: what was asked for on the way, why it ended as it did, and what is left to do.

What may live here: sentences. What happened is the runner's to know.
"""

from __future__ import annotations

from typing import Final

from segue import units
from segue.core.model import MigrationSpec, OutcomeKind, Owner
from segue.core.ownership import Remedy, Verdict
from segue.core.record import Wishes

_NOT_SETTLED: Final = "Not settled: "
_LOST: Final = "The guest is lost: it runs nowhere."
# What a person reads when a migration ended and something was left to do.
_LEFT_TO_DO: Final = {
    Remedy.NOTHING: "nothing is left to do",
    Remedy.WAIT: "when both hosts answer, 'segue recover' settles it",
    Remedy.ROLL_BACK: "'segue recover' rolls back what is left",
    Remedy.RESUME_DESTINATION: "'segue recover' lets the destination run",
    Remedy.RELEASE_SOURCE: "'segue recover' ends what the source still holds",
    Remedy.FOLLOW: "post-copy runs: end nothing on either side; 'segue recover' sees it through",
    Remedy.RECONNECT: "end nothing on either side; 'segue recover' connects the post-copy again",
    Remedy.DISCARD: "'segue recover --discard' ends what is left of it",
    Remedy.RESTART: "nothing is left of it",
    Remedy.ASK: "a person must look at both hosts before anything is started or ended",
}
DEFINITION_LEFT: Final = f"{_NOT_SETTLED}the source may still have a definition of it; 'segue recover' tries again."

DOES_NOT_BEGIN: Final = (
    "not a byte of memory was sent yet: the destination is not ready, or the two hypervisors do not reach or believe each other; "
    "it goes on waiting, and a cancel leaves the guest where it is"
)


def unsettled(verdict: Verdict) -> str:
    """What is left to do, and for what reason."""
    return f"{_NOT_SETTLED}{verdict.reason}; {_LEFT_TO_DO[verdict.remedy]}."


def first_error(told: str) -> str:
    """What went wrong, without what `why` and `unsettled` said besides when that was told before."""
    return told.partition(_NOT_SETTLED)[0].partition(_LOST)[0].strip()


def why(kind: OutcomeKind, owner: Owner, spec: MigrationSpec, sentence: str, *, cancelled: bool, left: str) -> str:
    """Why it ended so; nothing where it moved.

    Args:
        kind: how it ended.
        owner: of the guest.
        spec: what was asked for.
        sentence: what went wrong; empty: nobody said.
        cancelled: somebody had asked for that.
        left: what `unsettled` says, where something is left.
    """
    match kind:
        case OutcomeKind.MOVED:
            return ""
        case OutcomeKind.CANCELLED if cancelled:
            return "Cancelled on request."
        case OutcomeKind.AMBIGUOUS:
            return sentence
        case OutcomeKind.FAILED if owner is Owner.NOBODY:
            it = "When nothing is left of it, it" if left else "It"
            start = f"'segue guest start {spec.guest} --on {spec.source}'"
            return f"{sentence} {_LOST} {it} can be started from its disk, on one host: {start}."
        case _:
            return sentence or "The hypervisor ended the migration without saying why."


def slowed(percent: int, wait_ms: int) -> str:
    """That the guest is slowed so much that its clients notice."""
    return f"the guest is slowed by {percent} %: its clients may wait for up to {units.format_duration_ms(wait_ms)} now and then"


def in_words(wishes: Wishes) -> str:
    """What others asked for on the way."""
    parts = {
        f"downtime limit {wishes.max_downtime_ms} ms": wishes.max_downtime_ms is not None,
        f"bandwidth {units.format_rate(wishes.bandwidth_bps or 0)}": wishes.bandwidth_bps is not None,
        "post-copy now": wishes.postcopy_now,
        f"within {units.format_duration_ms(wishes.within_ms or 0)}": wishes.within_ms is not None,
        f"at most {units.format_bytes(wishes.max_bytes or 0)}": wishes.max_bytes is not None,
        f"slowed by {wishes.max_slowdown_percent} % at most": wishes.max_slowdown_percent is not None,
        f"{wishes.on_miss} when a promise is missed": wishes.on_miss is not None,
        "cancel": wishes.cancel,
    }
    return ", ".join(words for words, asked in parts.items() if asked)
