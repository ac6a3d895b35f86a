"""What preflight says: a finding, how grave it is, what was seen, and how to mend it. What may live here: frozen nouns."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from segue.core.mends import Mend


class Severity(StrEnum):
    """How grave a finding is, the gravest first: that is the order in which they are told."""

    BLOCKER = "blocker"
    """The migration would fail, or endanger the guest."""
    WARNING = "warning"
    """It would go through, and something is not as good as somebody may expect."""
    NOTE = "note"
    """Worth knowing."""
    UNCHECKED = "unchecked"
    """It could not be seen. That is never the same as fine."""


class Theme(StrEnum):
    """What a finding is about, in the order in which they are told."""

    GUEST = "guest"
    DEVICES = "devices"
    CPU = "CPU and machine"
    MEMORY = "memory"
    DISKS = "disks"
    NETWORK = "network"
    CONTROL = "control"
    PROMISE = "promise"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Evidence: what one host showed.

    Attributes:
        host: its name.
        what: what was seen there, for people.
    """

    host: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that stands in the way, or may, or could not be seen.

    Attributes:
        code: which check it is of, one of `checks.CHECKS`; stable, and the name of its page in docs/runbook/findings.
        severity: how grave it is. With ``UNCHECKED`` the sentence says why the check could not be made.
        sentence: one sentence.
        seen: the evidence.
        fix: the exact command or edit that mends it; empty where none is known.
        mend: the same as Segue can do it; ``None`` where it cannot.
    """

    code: str
    severity: Severity
    sentence: str
    seen: tuple[Seen, ...] = ()
    fix: str = ""
    mend: Mend | None = None

    @property
    def fixable(self) -> bool:
        """Segue can mend it by itself."""
        return self.mend is not None

    @property
    def page(self) -> str:
        """The runbook's page of it."""
        return f"docs/runbook/findings/{self.code}.md"


class Verdict(StrEnum):
    """What all findings come to."""

    CAN_MOVE = "can-move"
    AFTER_FIXES = "after-fixes"
    CANNOT_MOVE = "cannot-move"
