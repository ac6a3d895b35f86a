"""One lab for all tests that need one: two hosts, links of 1 Gbit/s, taken down at the end whatever happened."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from segue.lab import Lab, down, guests, up
from segue.lab.guests import GuestSpec, LabGuest
from segue.units import parse_rate
from tests.support.inside import Inside
from tests.support.labs import lab_name

NAME = lab_name("test")
SEGUE = str(Path(sys.executable).with_name("segue"))


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    asyncio.run(down(NAME))  # of a run that was killed
    found = asyncio.run(up(name=NAME, hosts=2, rate_bps=parse_rate("1gbit")))
    try:
        yield found
    finally:
        asyncio.run(down(NAME))


@pytest.fixture(scope="session")
def inside(lab: Lab) -> Iterator[Inside]:
    with Inside(lab.pids["admin"]) as loop:
        yield loop


@pytest.fixture
def start_guest(lab: Lab) -> Iterator[Callable[[GuestSpec], LabGuest]]:
    """Start guests that are stopped after the test."""
    started: list[str] = []

    def start(spec: GuestSpec) -> LabGuest:
        started.append(spec.name)
        return asyncio.run(guests.start(lab, spec))

    yield start
    for name in started:
        if name in guests.records(lab):
            asyncio.run(guests.stop(lab, name))
