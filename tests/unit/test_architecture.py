"""ARCHITECTURE.md says what is: the tests that it names exist, so do the places, and its diagram is the table of phases."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from segue.core.phases import TRANSITIONS, State

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
TESTS = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))


def diagram() -> str:
    """The table of phases as mermaid draws it; paste it into the page when the table has changed."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.BEGIN}"]
    for state, row in TRANSITIONS.items():
        for following in dict.fromkeys(row.values()):
            facts = " or ".join(fact for fact, leads_to in row.items() if leads_to is following)
            lines.append(f"    {state} --> {following}: {facts}")
        if state.is_end:
            lines.append(f"    {state} --> [*]")
    return "\n".join(lines)


def test_the_diagram_is_the_table_of_phases():
    assert f"```mermaid\n{diagram()}\n```" in PAGE, diagram()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(test_\w+)`", PAGE))))
def test_every_test_that_is_named_exists(name):
    assert f"def {name}(" in TESTS


def places() -> list[str]:
    """The paths in the drawing of the house."""
    drawing = PAGE.split("## The house\n\n```\n")[1].split("```")[0]
    found, folders = [], [""]
    for line in drawing.splitlines():
        words = line.split()
        depth = (len(line) - len(line.lstrip())) // 2
        del folders[depth + 1 :]
        found.append(folders[-1] + words[0])
        if words[0].endswith("/"):
            folders.append(folders[-1] + words[0])
    return found


@pytest.mark.parametrize("place", places())
def test_every_place_that_is_drawn_exists(place):
    assert (ROOT / place).exists()
