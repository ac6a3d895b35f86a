"""The page of ``segue check``: what it says of changes that ``segue migrate --fix`` would make."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from segue.cli import findings
from segue.core.preflight import judge
from segue.core.preflight.facts import Kind, Part
from segue.engine.preflight import Preflight
from tests.unit.preflight.facts import CLEAN, DISK, FILES, PARTS

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
USB = Part(kind=Kind.USB, name="stick", what="1234:5678")
PCI = Part(kind=Kind.PCI, name="card", what="0000:01:00.0")


def seen(*devices: Part, fix: bool) -> Preflight:
    facts = replace(CLEAN, parts=replace(PARTS, devices=devices))
    return Preflight(facts=facts, findings=judge(facts), fix=fix)


def lines(preflight: Preflight) -> list[str]:
    return _COLOUR.sub("", findings.page(preflight, verbose=False)).splitlines()


def test_what_can_be_mended_is_said_with_the_finding() -> None:
    page = lines(seen(USB, fix=False))
    assert "[segue migrate --fix does it]" in " ".join(" ".join(page).split())
    assert page[-1] == "can move after 1 fix ('segue migrate --fix' makes 1 of them)"


def test_a_command_that_fits_in_a_line_is_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    facts = replace(CLEAN, files=replace(FILES, proven={DISK.path: False}))
    page = lines(Preflight(facts=facts, findings=judge(facts)))
    assert max(map(len, page)) <= 80
    assert any("'segue migrate web beta --copy-storage all'" in line for line in page)


def test_with_fix_each_change_is_named_and_judged_as_made() -> None:
    page = lines(seen(USB, fix=True))
    assert page[page.index("'segue migrate --fix' WOULD") + 1] == "    unplug the USB device stick (1234:5678)"
    assert page[-1] == "can move with 'segue migrate --fix'"


def test_with_fix_the_rest_still_stands_in_the_way() -> None:
    page = lines(seen(USB, PCI, fix=True))
    assert "    unplug the USB device stick (1234:5678)" in page
    assert page[-1] == "can move after 1 fix"
