"""The error tree: what its docstring draws is what there is, and every error says what, where and what to do."""

from __future__ import annotations

import inspect
import re

import pytest

from segue import errors
from segue.errors import AnswerNotSeen, CommandFailed, HostUnreachable, HypervisorError, SegueError

ALL = [
    thing for _, thing in inspect.getmembers(errors, inspect.isclass) if issubclass(thing, SegueError) and thing is not SegueError
]


def drawn() -> dict[str, tuple[str, str, int | None]]:
    """The tree in the docstring: name → (parent, code, exit code where one is drawn)."""
    found: dict[str, tuple[str, str, int | None]] = {}
    above = ["SegueError"]
    for line in (inspect.getdoc(errors) or "").splitlines():
        if match := re.match(r"\s*([│ ]*)[├└]── (\w+)\s+([a-z-]+)(?:.*exit (\d))?", line):
            depth = 1 + len(match[1]) // 4
            del above[depth:]
            found[match[2]] = (above[-1], match[3], int(match[4]) if match[4] else None)
            above.append(match[2])
    return found


def test_the_tree_that_is_drawn_is_the_tree_that_there_is():
    assert {name: (parent, code) for name, (parent, code, _) in drawn().items()} == {
        error.__name__: (error.__mro__[1].__name__, error.code) for error in ALL
    }


def test_the_exit_codes_that_are_drawn_are_the_ones_that_there_are():
    for name, (_, _, exit_code) in drawn().items():
        assert exit_code is None or getattr(errors, name).exit_code == exit_code, name


def test_every_error_has_a_code_of_its_own():
    codes = [error.code for error in ALL]
    assert sorted(set(codes)) == sorted(codes)
    assert SegueError.code not in codes


@pytest.mark.parametrize("error", ALL)
def test_every_error_has_its_own_words_and_an_exit_code_that_is_documented(error):
    assert error.__doc__
    assert error.__doc__ != error.__mro__[1].__doc__
    assert error.exit_code in range(1, 7)


def test_an_error_is_one_paragraph_of_what_where_and_what_to_do():
    error = SegueError("It broke.", guest_at="it runs on alpha", hint="Try again.")
    assert str(error) == "It broke. The guest: it runs on alpha. Try again."
    assert str(SegueError("It broke.")) == "It broke."


def test_an_error_of_an_edge_carries_what_was_said_there():
    unreachable = HostUnreachable("beta does not answer.", host="beta")
    said = HypervisorError("QEMU refused.", host="beta", raw="{'class': 'GenericError'}", number="GenericError")
    assert unreachable.host == said.host == "beta"
    assert (said.raw, said.number) == ("{'class': 'GenericError'}", "GenericError")
    assert isinstance(AnswerNotSeen("No answer.", host="beta"), HypervisorError)


@pytest.mark.parametrize(
    ("stderr", "sentence"),
    [
        ("", "ls on alpha ended with status 2."),
        ("warning\nls: no such file\n\n", "ls on alpha ended with status 2: ls: no such file."),
    ],
)
def test_a_failed_command_says_which_where_and_its_last_word(stderr, sentence):
    error = CommandFailed(host="alpha", argv=("ls", "-l"), status=2, stderr=stderr)
    assert str(error) == sentence
    assert (error.argv, error.status, error.stderr) == (("ls", "-l"), 2, stderr)
