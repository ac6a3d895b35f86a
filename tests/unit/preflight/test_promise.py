"""Theme promise: what a forecast says of what was promised."""

from __future__ import annotations

from dataclasses import replace

import pytest

from segue.core.forecast import forecast
from segue.core.measured import Path, Range, Seen, Touched, Window
from segue.core.model import Limits
from segue.core.preflight import judge
from segue.core.preflight.facts import Unseen
from segue.core.preflight.findings import Severity
from segue.units import MIB
from tests.unit.preflight.facts import CLEAN


def exactly(value: int) -> Range:
    return Range(low=value, likely=value, high=value)


def seen(rates_mib: tuple[int, int]) -> Seen:
    """A guest of 512 MiB that dirtied so many MiB in one and in two seconds, over a path of 100 MiB/s."""
    return Seen(
        touched=Touched(bytes=exactly(512 * MIB), how="said"),
        windows=tuple(Window(ms=1000 * n, dirtied_bytes=mib * MIB) for n, mib in enumerate(rates_mib, 1)),
        path=Path(bps=exactly(100 * MIB), how="said"),
    )


@pytest.mark.parametrize(
    ("rates", "limits", "severity"),
    [
        ((5, 10), Limits(), None),
        ((200, 380), Limits(auto_converge=False), Severity.BLOCKER),
        ((200, 380), Limits(postcopy=True), None),
        ((200, 380), Limits(max_downtime_ms=10_000), None),
        ((5, 10), Limits(within_ms=1_000), Severity.BLOCKER),
        ((60, 62), Limits(auto_converge=False), Severity.WARNING),  # how soon that set is dirtied whole, nobody saw
    ],
)
def test_a_forecast_that_says_no_stands_in_the_way_where_it_is_sure(rates, limits, severity):
    facts = replace(CLEAN, spec=replace(CLEAN.spec, limits=limits), expected=forecast(seen(rates), limits))
    found = [one for one in judge(facts) if one.code == "promise"]
    assert [one.severity for one in found] == ([severity] if severity else [])
    for one in found:
        assert one.sentence.startswith("This cannot keep your promise: ")
        assert "MiB dirtied in 2 s" in one.seen[1].what


def test_what_was_not_measured_is_unchecked_and_what_was_not_asked_for_is_no_finding():
    unseen = replace(CLEAN, expected=Unseen(host="alpha", why="nobody knows what the path carries"))
    [one] = [one for one in judge(unseen) if one.code == "promise"]
    assert (one.severity, one.sentence) == (Severity.UNCHECKED, "There is no forecast: nobody knows what the path carries.")
    assert not [one for one in judge(CLEAN) if one.code == "promise"]
