"""Pages of docs/reference that are written from the code, or from what was played: they are what that says.

`python -m tests.unit.test_reference` writes them again.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from segue.core.evidence import Evidence, Sighting
from segue.core.ownership import Remedy, judge
from tests.faults import results
from tests.faults.page import page as faults

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


PAGES = {"ownership.md": ownership, "faults.md": lambda: faults(results.load())}


@pytest.mark.parametrize("page", PAGES)
def test_the_page_says_what_it_is_written_from(page: str) -> None:
    assert (REFERENCE / page).read_text(encoding="utf-8") == PAGES[page]()


if __name__ == "__main__":
    for name, write in PAGES.items():
        (REFERENCE / name).write_text(write(), encoding="utf-8")
