"""Preflight: facts of both hosts and of the path → everything that stands in the way, all at once.

Each theme is a module with one pure function, `Facts` → findings; this is the table of them. To add a check: a row in `checks`, a
rule in its theme, a page in docs/runbook/findings. To add a fact: a field in `facts`, and who answers it in `engine.preflight`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from segue.core.preflight import control, devices, disks, guest, machine, memory, network, promise
from segue.core.preflight.checks import CHECKS, TWO_COPIES
from segue.core.preflight.facts import Facts
from segue.core.preflight.findings import Finding, Severity, Theme, Verdict

__all__ = ["CHECKS", "THEMES", "Rule", "blockers", "fine", "judge", "verdict"]

Rule = Callable[[Facts], Iterable[Finding]]

THEMES: Final[Mapping[Theme, Rule]] = {
    Theme.GUEST: guest.find,
    Theme.DEVICES: devices.find,
    Theme.CPU: machine.find,
    Theme.MEMORY: memory.find,
    Theme.DISKS: disks.find,
    Theme.NETWORK: network.find,
    Theme.CONTROL: control.find,
    Theme.PROMISE: promise.find,
}

_GRAVITY: Final = {severity: rank for rank, severity in enumerate(Severity)}
_ORDER: Final = {theme: rank for rank, theme in enumerate(Theme)}


def judge(facts: Facts) -> tuple[Finding, ...]:
    """Everything that is found, the gravest first, then by theme. The same facts give the same findings."""
    found = [finding for rule in THEMES.values() for finding in rule(facts)]
    return tuple(sorted(found, key=lambda one: (_GRAVITY[one.severity], _ORDER[CHECKS[one.code].theme])))


def fine(facts: Facts, findings: Iterable[Finding]) -> tuple[str, ...]:
    """The codes of the checks that were made and found nothing, in the order of the table."""
    told = {one.code for one in findings}
    return tuple(
        check.code
        for check in CHECKS.values()
        if check.theme in THEMES and check.code not in told and check.only in (None, facts.spec.driver)
    )


def blockers(findings: Sequence[Finding], accepted: frozenset[str] = frozenset()) -> tuple[Finding, ...]:
    """Those that stand in the way: the blockers whose codes nobody accepted."""
    return tuple(one for one in findings if one.severity is Severity.BLOCKER and one.code not in accepted)


def verdict(findings: Sequence[Finding], accepted: frozenset[str] = frozenset()) -> Verdict:
    """Whether the guest can move: as it is, after the fixes that are told, or not at all as far as is known."""
    found = blockers(findings, accepted)
    if not found:
        return Verdict.CAN_MOVE
    mendable = all(one.fix and CHECKS[one.code].never != TWO_COPIES for one in found)
    return Verdict.AFTER_FIXES if mendable else Verdict.CANNOT_MOVE
