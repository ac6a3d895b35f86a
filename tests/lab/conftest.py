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
from tests.support import daemons
from tests.support.inside import Inside
from tests.support.labs import lab_name

NAME = lab_name("test")
SEGUE = str(Path(sys.executable).with_name("segue"))


_REVIVED = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Nothing ails yet."""
    config.stash[_REVIVED] = []


@pytest.fixture(autouse=True)
def _daemons_answer(request: pytest.FixtureRequest) -> None:
    """No test begins with a daemon that hangs or is gone."""
    if "lab" in request.fixturenames:
        for host in daemons.revived(request.getfixturevalue("lab")):
            request.config.stash[_REVIVED].append(f"libvirtd on {host}, before {request.node.nodeid}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What did is told, whatever became of the tests."""
    if revived := config.stash[_REVIVED]:
        terminalreporter.section("daemons that hung or were gone, and were started anew")
        for one in revived:
            terminalreporter.line(one)


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
