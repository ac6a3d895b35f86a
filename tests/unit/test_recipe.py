"""The page that `./run images` plays: it has been played, and names only verbs that there are."""

from __future__ import annotations

import pytest
import typer

from segue.cli.main import assembled
from segue.errors import LabError
from segue.lab import images
from tests.images.__main__ import BLOCK, PAGE

BLOCKS = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
COMMANDS = [line.removeprefix("$ ") for block in BLOCKS for line in block.splitlines() if line.startswith("$ ")]


def test_it_goes_from_a_lab_to_a_guest_that_moved_and_back():
    firsts = [" ".join(command.split()[:3]) for command in COMMANDS]
    wanted = ["segue lab up", "segue pki init", "segue host prepare", "segue migrate web1", "segue host undo", "segue lab down"]
    assert [first for first in dict.fromkeys(firsts) if first in wanted] == wanted
    assert any("web1 moved from alpha to beta" in block and "nowhere else" in block for block in BLOCKS)


@pytest.mark.parametrize("command", sorted({one for one in COMMANDS if one.startswith("segue ")}))
def test_its_verbs_are_there(command):
    verbs = getattr(typer.main.get_command(assembled()), "commands", {})
    _, verb, *rest = command.split()
    under = getattr(verbs[verb], "commands", {})
    assert not under or rest[0] in under


def test_an_image_that_nobody_tried_is_refused_with_those_that_there_are():
    with pytest.raises(LabError, match="no image 'potato'") as caught:
        images.check(["trixie", "potato"])
    assert "bookworm, trixie" in caught.value.hint
