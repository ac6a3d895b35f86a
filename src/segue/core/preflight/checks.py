"""The table of checks: each code, what it is about, and what is said where nothing was found.

A code is stable: scripts name it (``--accept``, ``--json``), and docs/runbook/findings has a page of that name. What could not be
checked has the code of its check, with severity ``unchecked``. What may live here: that table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from segue.core.model import DriverKind
from segue.core.preflight.findings import Theme


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that is looked at.

    Attributes:
        code: its name.
        theme: what it belongs to.
        fine: what ``segue check -v`` says where nothing was found, a clause.
        only: the kind of guests that it is for; ``None``: all.
        acceptable: an operator may force a migration past it. Those that would break the one-owner rule cannot be accepted.
    """

    code: str
    theme: Theme
    fine: str
    only: DriverKind | None = None
    acceptable: bool = True


_LIBVIRT: Final = DriverKind.LIBVIRT

_ALL: Final = (
    # guest
    Check(code="same-host", theme=Theme.GUEST, fine="source and destination are two hosts", acceptable=False),
    Check(code="destination-taken", theme=Theme.GUEST, fine="the destination has no guest of that name", acceptable=False),
    Check(code="guest-not-running", theme=Theme.GUEST, fine="it runs"),
    Check(code="guest-busy", theme=Theme.GUEST, fine="no other job or migration of it is under way", acceptable=False),
    Check(code="io-error", theme=Theme.GUEST, fine="no disk has stopped it with an error"),
    Check(code="unsupported", theme=Theme.GUEST, fine="nothing in it is known to be impossible to move"),
    Check(code="snapshots", theme=Theme.GUEST, fine="it has no snapshots that would stay behind"),
    Check(code="checkpoints", theme=Theme.GUEST, fine="it has no checkpoints that would stay behind", only=_LIBVIRT),
    Check(code="managed-save", theme=Theme.GUEST, fine="no saved state of it is kept", only=_LIBVIRT),
    Check(code="autostart", theme=Theme.GUEST, fine="it does not start with its host", only=_LIBVIRT),
)

CHECKS: Final[Mapping[str, Check]] = {check.code: check for check in _ALL}
