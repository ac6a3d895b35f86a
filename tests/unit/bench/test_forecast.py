"""What rounds of one cell come to, and what is counted of all cells."""

from __future__ import annotations

from typing import Any

from forecast import Run, judge, row, verdict
from segue.units import MIB

GBIT = round(119.5e6)


def run(number: int, total_ms: int, *, moved: bool = True, touched: int = 512, dirtied: int = 1, limit_ms: int = 300) -> Run:
    """A guest that uses and dirties so many MiB, over 1 Gbit/s."""
    seen: dict[str, Any] = {
        "touched": {"bytes": dict.fromkeys(("low", "likely", "high"), touched * MIB), "how": "said", "of_bytes": 1024 * MIB},
        "windows": [{"ms": 1000 * n, "dirtied_bytes": dirtied * MIB, "error_bytes": MIB} for n in (1, 2, 4)],
        "path": {"bps": dict.fromkeys(("low", "likely", "high"), GBIT), "how": "said"},
        "own_ms": dict.fromkeys(("low", "likely", "high"), 500),
    }
    told = {"sent_bytes": touched * MIB, "iterations": 3, "client_ms": 90, "total_ms": total_ms, "moved": moved}
    return Run(workload="idle", link="1gbit", limit_ms=limit_ms, seen=seen, round=number, **told)  # type: ignore[arg-type]


def test_of_several_rounds_the_medians_count() -> None:
    rounds = [run(1, 5000), run(2, 9000, touched=256), run(3, 4000)]
    cell = judge(rounds)
    assert cell.total_ms == 5000
    assert cell.total_said == judge(rounds[:1]).total_said
    assert judge(rounds[1:2]).total_said != cell.total_said
    assert (cell.moves, cell.moved, cell.kept, cell.steady) == (True, True, True, True)


def test_a_round_that_came_to_something_else_is_not_hidden() -> None:
    rounds = [run(1, 5000), run(2, 30_000, moved=False), run(3, 5000)]
    cell = judge(rounds)
    assert (cell.moved, cell.steady, cell.total_ms) == (True, False, 5000)
    assert row(rounds)[4] == "2 of 3"
    said = verdict(rounds)
    assert said[0].startswith("1 cells, medians of 3 runs each; ")
    assert said[3] == "in 0 of 1 every run said, and came to, the same"


def test_cells_with_fewer_rounds_are_told() -> None:
    rounds = [run(1, 5000), run(2, 5000), run(1, 5000, limit_ms=100)]
    assert verdict(rounds)[0].startswith("2 cells, medians of 1 runs each or more; ")
    assert verdict([*rounds[:1], *rounds[2:]])[0].startswith("2 cells, one run each; ")
