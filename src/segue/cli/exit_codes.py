"""What the exit status of ``segue`` means: one table, which docs/reference/exit-codes.md repeats and a test compares.

What may live here: the numbers and the way from an outcome or an error to one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from segue.core.model import Outcome, OutcomeKind

MEANINGS: Final = {
    0: "done; for migrate: moved, and evidence of both hosts proves it",
    1: "failed; for migrate: the guest runs on the source; for a look: something is not as it should be",
    2: "usage: the words of the call or segue.toml are wrong; nothing was touched",
    3: "refused after a look at the hosts; nothing was touched",
    4: "cancelled; the guest runs on the source and nothing is left on the destination",
    5: "ambiguous: who runs the guest is not proven; a person must look",
    6: "a host could not be reached; nothing was touched",
}

OF_OUTCOME: Final = {
    OutcomeKind.MOVED: 0,
    OutcomeKind.FAILED: 1,
    OutcomeKind.REFUSED: 3,
    OutcomeKind.CANCELLED: 4,
    OutcomeKind.AMBIGUOUS: 5,
}


def of_outcome(outcome: Outcome) -> int:
    """The exit status for a migration that began."""
    return OF_OUTCOME[outcome.outcome]


def of_check(blockers: Sequence[object]) -> int:
    """The exit status of a look at what stands in the way: as if the migration had been refused."""
    return OF_OUTCOME[OutcomeKind.REFUSED] if blockers else 0
