"""What every test shares: how hypothesis chooses its examples. Nothing of the lab may live here."""

from __future__ import annotations

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
