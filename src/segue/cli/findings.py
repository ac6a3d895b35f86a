"""The page that ``segue check`` shows: the gravest first, grouped by what it is about, quiet about what is fine.

What may live here: findings → text. Colours are put in as they are wanted on a terminal; whoever prints them elsewhere strips
them.
"""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Final

import typer

from segue.cli.render import cell
from segue.core.preflight import CHECKS
from segue.core.preflight.findings import Finding, Severity, Verdict

if TYPE_CHECKING:
    from segue.engine.preflight import Preflight

_HEADINGS: Final = {
    Severity.BLOCKER: ("STANDS IN THE WAY", "red"),
    Severity.WARNING: ("WARNINGS", "yellow"),
    Severity.NOTE: ("WORTH KNOWING", "cyan"),
    Severity.UNCHECKED: ("COULD NOT BE CHECKED", "magenta"),
}
_WIDEST: Final = 110
_INDENT: Final = "      "
_QUOTED: Final = re.compile(r"(?<!\w)'[^']+'(?!\w)")
_GLUE: Final = "\N{NO-BREAK SPACE}"


def page(seen: Preflight, *, verbose: bool) -> str:
    """All of it.

    Args:
        seen: what preflight found.
        verbose: show what is fine, too.
    """
    spec = seen.facts.spec
    title = f"{cell(spec.guest)}: {cell(spec.source)} → {cell(spec.destination)}"
    lines = [f"{typer.style(title, bold=True)}  ({spec.driver}, {spec.control}, {spec.transport})"]
    for severity, (heading, colour) in _HEADINGS.items():
        found = [one for one in seen.findings if one.severity is severity]
        if found:
            lines += ["", typer.style(heading, fg=colour, bold=True)]
            lines += _unchecked(found) if severity is Severity.UNCHECKED else _told(found, seen.accepted)
    if seen.mends:
        lines += ["", typer.style("'segue migrate --fix' WOULD", fg="blue", bold=True)]
        lines += [line for one in seen.mends for line in _wrapped(cell(one.words), first="    ")]
    if verbose and seen.fine:
        lines += ["", typer.style("FINE", fg="green", bold=True)]
        lines += [f"  {code:<24} {CHECKS[code].fine}" for code in seen.fine]
    return "\n".join([*lines, "", typer.style(conclusion(seen), bold=True)])


def conclusion(seen: Preflight) -> str:
    """The last line."""
    count, unchecked = len(seen.blockers), sum(one.severity is Severity.UNCHECKED for one in seen.findings)
    match seen.verdict:
        case Verdict.CAN_MOVE:
            accepted = sum(one.code in seen.accepted and one.severity is Severity.BLOCKER for one in seen.findings)
            limits = [f"{accepted} accepted"] if accepted else []
            limits += [f"{unchecked} not checked"] if unchecked else []
            words = "can move with 'segue migrate --fix'" if seen.mends else "can move"
            return f"{words} ({', '.join(limits)})" if limits else words
        case Verdict.AFTER_FIXES:
            words = f"can move after {count} fix{'es' * (count > 1)}"
            fixable = sum(one.fixable for one in seen.blockers)
            return f"{words} ('segue migrate --fix' makes {fixable} of them)" if fixable else words
        case Verdict.CANNOT_MOVE:
            return "cannot move"


def _told(found: Sequence[Finding], accepted: frozenset[str]) -> Iterator[str]:
    for theme, ones in groupby(found, key=lambda one: CHECKS[one.code].theme):
        yield typer.style(f"  {theme}", dim=True)
        for one in ones:
            mark = " (accepted)" if one.code in accepted else ""
            yield from _wrapped(f"{cell(one.sentence)}{mark}", first="    ")
            yield from (line for seen in one.seen for line in _wrapped(f"{cell(seen.host)}: {cell(seen.what)}"))
            if one.fix:
                help_ = "  [segue migrate --fix does it]".replace(" ", _GLUE)[1:] if one.fixable else ""
                yield from _wrapped(f"to do: {cell(one.fix)}{help_}")
            yield typer.style(f"{_INDENT}{one.code}", dim=True)


def _unchecked(found: Sequence[Finding]) -> Iterator[str]:
    """By reason: one host that cannot be asked leaves many checks open, and it is told once."""
    reasons = dict.fromkeys(one.sentence for one in found)
    for reason in reasons:
        yield from _wrapped(cell(reason), first="    ")
        yield from _wrapped(", ".join(one.code for one in found if one.sentence == reason))


def _wrapped(text: str, *, first: str = _INDENT) -> list[str]:
    """Broken between words only, and never in a command: what is in quotes can be copied from one line, where it fits in one."""
    width = min(_WIDEST, shutil.get_terminal_size().columns)
    lines = textwrap.wrap(
        _QUOTED.sub(lambda quoted: quoted[0].replace(" ", _GLUE) if len(quoted[0]) < width - len(_INDENT) else quoted[0], text),
        width,
        initial_indent=first,
        subsequent_indent=_INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(_GLUE, " ") for line in lines]
