"""What every test shares: how hypothesis chooses its examples. Nothing of the lab may live here."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# The same examples on every run and every machine, so that red is red for everybody; no database that remembers.
settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
# `pytest --hypothesis-profile=explore` hunts with new examples: the seed is printed, and `--hypothesis-seed=N` replays it.
settings.register_profile(
    "explore",
    max_examples=2000,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long chaos goes on, and where it begins."""
    parser.addoption("--steps", type=int, default=20_000, help="steps of tests/property, at least (default 20000)")
    parser.addoption("--first-seed", type=int, default=1, help="the first seed of tests/property; one that failed is replayed")
