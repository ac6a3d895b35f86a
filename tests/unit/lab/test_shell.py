"""Commands on this machine: how they end, and what is told of one that does not."""

from __future__ import annotations

import re

import pytest

from segue.errors import CommandFailed, LabError
from segue.lab.shell import run


async def test_what_a_command_says_and_how_it_ends() -> None:
    done = await run(["sh", "-c", "cat; echo aside >&2; exit 3"], stdin="word", check=False)
    assert (done.status, done.stdout, done.stderr) == (3, "word", "aside\n")
    with pytest.raises(CommandFailed, match="aside"):
        await run(["sh", "-c", "echo aside >&2; exit 3"])


@pytest.mark.parametrize(
    ("words", "told"), [("echo one; echo two >&2", "Last it said: one | two"), ("true", "It had said nothing.")]
)
async def test_of_a_command_that_hangs_its_last_words_are_told(words: str, told: str) -> None:
    with pytest.raises(LabError, match=re.escape(f"on alpha was not done after 0.5 s. {told}")):
        await run(["sh", "-c", f"{words}; exec sleep 7777"], deadline_s=0.5, host="alpha")
