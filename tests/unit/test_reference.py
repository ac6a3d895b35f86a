"""Pages of docs/reference that are written from the code, or from what was played: they are what that says.

`python -m tests.unit.test_reference` writes them again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from segue.core import virsh
from segue.core.evidence import Evidence, Sighting
from segue.core.ownership import Remedy, judge
from segue.core.preflight import CHECKS
from tests.faults import results
from tests.faults.page import page as faults
from tests.findings import results as findings

REFERENCE = Path(__file__).parents[2] / "docs/reference"

OWNERSHIP = """# Who owns the guest

Written from `core/ownership.py`. What both hosts show of a guest, with the journal's intents, says who owns it and what is safe
to do. Pairs that are not in the tables prove nothing: then Segue waits while a host is silent or unclear, and else asks a person.

*Told to run*: there is an intent to let the destination run the guest (bare QEMU), or the migration got past its point of no
return (libvirt, whose daemons do that by themselves).

## What a host may show

| sighting | meaning |
|---|---|
{sightings}

## What is safe

| remedy | meaning |
|---|---|
{remedies}

## Bare QEMU, not told to run

{untold}

## Bare QEMU, told to run

{told}

## libvirt, before the point of no return

{before}

## libvirt, after it

{after}
"""


def table(*, may_have_run: bool, only_told: bool) -> str:
    """One row a pair that has a verdict."""
    lines = ["| source shows | destination shows | owner | runs | left to do |", "|---|---|---|---|---|"]
    for source, destination in product(Sighting, Sighting):
        seen = judge(
            Evidence(host="source", sighting=source, seen_at_ms=0),
            Evidence(host="destination", sighting=destination, seen_at_ms=0),
            may_have_run=may_have_run,
            only_told=only_told,
        )
        if seen.owner != "unproven" or seen.both_run:
            owner = "**two copies run**" if seen.both_run else seen.owner
            lines.append(f"| {source} | {destination} | {owner} | {'yes' if seen.runs else 'no'} | {seen.remedy} |")
    return "\n".join(lines)


def documented(member: Sighting | Remedy) -> str:
    """The words below a member of an enum in its own source."""
    import inspect

    lines = inspect.getsource(type(member)).splitlines()
    at = next(number for number, line in enumerate(lines) if line.strip().startswith(f"{member.name} = "))
    words = []
    for line in lines[at + 1 :]:
        words.append(line.strip().strip('"'))
        if line.rstrip().endswith('"""'):
            break
    return " ".join(words)


def ownership() -> str:
    return OWNERSHIP.format(
        sightings="\n".join(f"| {one} | {documented(one)} |" for one in Sighting),
        remedies="\n".join(f"| {one} | {documented(one)} |" for one in Remedy),
        untold=table(may_have_run=False, only_told=True),
        told=table(may_have_run=True, only_told=True),
        before=table(may_have_run=False, only_told=False),
        after=table(may_have_run=True, only_told=False),
    )


VIRSH = """# From virsh migrate to Segue

Written from `core/virsh.py`, of which the libvirt driver makes its calls: each option of `virsh migrate` from libvirt 9.0 on,
each flag and each typed parameter behind it, and what is typed instead. A test compares it with the `virsh` and the libvirt that
are installed.

What one of the two hosts, or the libvirt that Segue itself uses, is too old for is refused by name and version before anything is
touched.
From Python the same is `segue.migrate(…, libvirt=segue.LibvirtWishes(…))`.

| `virsh migrate` | `segue migrate` | libvirt's name | since | what is different |
|---|---|---|---|---|
{rows}
"""


def virsh_page() -> str:
    lines = [f"| `{name}` | {instead} | | | |" for name, instead in virsh.ALSO]
    for row in virsh.ROWS:
        typed = re.sub(r"(segue [a-z]+ ID )?--[a-z0-9-]+( TIME| [a-z0-9]+(?![a-z0-9]* ))?", r"`\g<0>`", row.segue)
        since = ".".join(map(str, row.since)) if row.since > (0, 0) else ""
        lines.append(f"| `{row.virsh}` | {typed} | {f'`{row.constant}`' if row.constant else ''} | {since} | {row.note} |")
    return VIRSH.format(rows="\n".join(lines))


CAUSES = """# Why a migration did not succeed

Written from `core/causes`. A number of libvirt's, or a class of QMP's, says which causes are possible; where it leaves several,
the words beside it and in the guest's log of both hosts choose the sentence, and never what is done. `cause` in `--json` has the
name. What is not in these tables is shown as it came, with both logs.

Where the guest is then, Segue finds out from both hosts and not from an error: it stands beside the sentence. The exit status
says the same ([exit codes](exit-codes.md)).

## Causes

| cause | what you read | what to do |
|---|---|---|
{causes}

## libvirt's numbers

| number | name | means | or, by its words |
|---|---|---|---|
{numbers}

## QMP's classes

`error-desc` is the reason of a migration that failed, `stderr` what a QEMU wrote that did not start, `virsh` what a virsh wrote
that did not connect.

| class | means | or, by its words |
|---|---|---|
{classes}
"""


def causes() -> str:
    from segue.core.causes.codes import ANY, LIBVIRT, QMP, Code
    from segue.core.causes.words import WORDS

    places = {
        "here": "SOURCE",
        "pair": " SOURCE DESTINATION",
        "there": "DESTINATION",
        "host": "HOST",
        "peer": "PEER",
        "guest": "GUEST",
        "it": "…",
        "raw": "…",
        "message": "(its own words)",
    }

    def or_by_words(code: Code) -> str:
        return "any" if code.among == ANY else ", ".join(sorted(code.among - {code.cause}))

    return CAUSES.format(
        causes="\n".join(f"| {cause} | {words.what} | {words.fix} |".format_map(places) for cause, words in WORDS.items()),
        numbers="\n".join(
            f"| {number} | {code.name.removeprefix('VIR_ERR_')} | {code.cause} | {or_by_words(code)} |"
            for number, code in sorted(LIBVIRT.items())
        ),
        classes="\n".join(f"| {name} | {code.cause} | {or_by_words(code)} |" for name, code in QMP.items()),
    )


PAGES: dict[str, Callable[[], str]] = {
    "virsh.md": virsh_page,
    "ownership.md": ownership,
    "causes.md": causes,
    "faults.md": lambda: faults(results.load()),
    "findings.md": lambda: findings.page(findings.load()),
}


@pytest.mark.parametrize("page", PAGES)
def test_the_page_says_what_it_is_written_from(page: str) -> None:
    assert (REFERENCE / page).read_text(encoding="utf-8") == PAGES[page]()


NOWHERE = {"day": "", "commit": "", "machine": ""}


def test_every_play_of_a_fault_counts_and_the_gravest_end_is_told_first() -> None:
    last = results.Result(
        cell="libvirt direct: kill -9 segue at post-copy", word="moved, on destination", day="", commit="", machine=""
    )
    lost = replace(last, word="guest killed; said so")
    nothing = replace(last, word=f"{results.NOT_PLAYED}: no room")
    kept = last.after(nothing.after(lost.after(last.after(None))))
    assert kept.ends == {"moved, on destination": 2, "guest killed; said so": 1}
    assert "| guest killed; said so (1 of 3); moved, on destination (2 of 3) |" in faults({kept.key: kept})
    assert kept.is_good
    assert not last.after(replace(last, word=f"{results.BROKEN}: two copies ran")).is_good


def test_each_finding_has_a_page_in_the_runbook_with_something_to_do() -> None:
    pages = {path.stem: path.read_text(encoding="utf-8") for path in (REFERENCE.parent / "runbook/findings").glob("*.md")}
    assert pages.keys() == CHECKS.keys()
    for code, text in pages.items():
        assert text.startswith("# "), code
        assert "**What it means.**" in text, code
        _, _, to_do = text.partition("**Mend.**" if "**Mend.**" in text else "**What to do.**")
        assert to_do.strip(), code
        assert "`" in text, f"{code} names no command"


if __name__ == "__main__":
    for name, write in PAGES.items():
        (REFERENCE / name).write_text(write(), encoding="utf-8")
