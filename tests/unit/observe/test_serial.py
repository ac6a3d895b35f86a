"""Lines are put together again wherever a move tore them."""

from __future__ import annotations

import os
import time
from pathlib import Path

from segue.lab.observe.serial import SerialLines

DEADLINE_S = 5.0


def say(log: Path, text: str, *, at_s: int | None = None) -> None:
    with log.open("a", encoding="ascii") as file:
        file.write(text)
    if at_s is not None:
        os.utime(log, (at_s, at_s))


def heard(lines: SerialLines, count: int) -> list[tuple[str, int]]:
    """The ticks, once there are so many."""
    end = time.monotonic() + DEADLINE_S
    while len(lines.ticks) < count and time.monotonic() < end:
        time.sleep(0.001)
    return [(tick.host, tick.seq) for tick in lines.ticks]


def test_a_line_that_a_move_tore_belongs_to_where_it_ended(tmp_path: Path) -> None:
    alpha, beta = tmp_path / "alpha", tmp_path / "beta"
    lines = SerialLines({"alpha": alpha, "beta": beta})
    lines.start()
    try:
        say(alpha, "T b 1 10\nT b 2 2")
        assert heard(lines, 1) == [("alpha", 1)]
        say(beta, "0\nT b 3 30\n")
        assert heard(lines, 3) == [("alpha", 1), ("beta", 2), ("beta", 3)]
        assert [tick.mono_ms for tick in lines.ticks] == [10, 20, 30]
    finally:
        lines.stop()


def test_what_a_move_tore_long_ago_is_forgotten(tmp_path: Path) -> None:
    alpha, beta = tmp_path / "alpha", tmp_path / "beta"
    say(alpha, "T b 1 10\nT b 2 2", at_s=1_000)
    say(beta, "0\nT b 3 30\nT b 4 ", at_s=2_000)
    lines = SerialLines({"alpha": alpha, "beta": beta})
    lines.start()
    try:
        before = len(lines.ticks)
        say(beta, "40\n")
        heard(lines, before + 1)
        say(beta, "T b 5 50\n")
        assert heard(lines, before + 2)[before:] == [("beta", 4), ("beta", 5)]
    finally:
        lines.stop()
