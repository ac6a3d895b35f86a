"""What `./run soak` draws: the same for the same seed, and commands that Segue understands."""

from __future__ import annotations

import pytest
import typer

from segue.cli.main import assembled
from tests.soak.draws import Blow, Scene, scene

DRAWN = [scene(seed, number) for seed in (1, 2) for number in range(60)]


def test_the_same_seed_draws_the_same_and_another_one_something_else() -> None:
    assert [scene(1, number) for number in range(60)] == DRAWN[:60]
    assert DRAWN[:60] != DRAWN[60:]


def test_everything_that_can_happen_is_drawn() -> None:
    assert {move.blow for drawn in DRAWN for move in drawn.moves} == set(Blow)


@pytest.mark.parametrize("verb", ["migrate", "tune"])
def test_what_is_drawn_are_commands_that_segue_understands(verb: str) -> None:
    command = typer.main.get_command(assembled([verb])).commands[verb]  # type: ignore[attr-defined]
    words = {_words(drawn, verb) for drawn in DRAWN}
    for options in {one for each in words for one in each}:
        command.make_context(verb, [*("web1", "beta")[: 2 if verb == "migrate" else 1], *options])


def _words(drawn: Scene, verb: str) -> tuple[tuple[str, ...], ...]:
    if verb == "migrate":
        return tuple(move.options for move in drawn.moves)
    return tuple(move.tuned for move in drawn.moves if move.blow is Blow.TUNE)
