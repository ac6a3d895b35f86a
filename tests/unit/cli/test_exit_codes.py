"""The exit statuses: one table in the code, the same in the docs, and every error of the tree is in it."""

import re
from collections.abc import Iterator
from pathlib import Path

from segue import errors
from segue.cli import exit_codes
from segue.core.model import OutcomeKind

PAGE = Path(__file__).parents[3] / "docs/reference/exit-codes.md"


def every(kind: type[errors.SegueError]) -> Iterator[type[errors.SegueError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from every(child)


def test_the_page_says_what_the_table_says() -> None:
    rows = dict(re.findall(r"^\| (\d+) \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert rows == {str(status): meaning for status, meaning in exit_codes.MEANINGS.items()}


def test_every_outcome_has_a_status() -> None:
    assert set(exit_codes.OF_OUTCOME) == set(OutcomeKind)
    assert set(exit_codes.OF_OUTCOME.values()) <= set(exit_codes.MEANINGS)


def test_every_error_leaves_with_a_documented_status() -> None:
    assert {error.exit_code for error in every(errors.SegueError)} <= set(exit_codes.MEANINGS)
