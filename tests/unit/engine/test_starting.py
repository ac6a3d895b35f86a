"""A guest is started only where no configured host has it, and none is silent."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from segue.config import Settings
from segue.core.evidence import Sighting
from segue.core.model import DriverKind, HostAddress
from segue.drivers.simulated import SimGuest, SimulatedDriver, World
from segue.engine import starting
from segue.errors import GuestBusy, GuestNotFound, HostUnreachable, UsageError

ADDRESSES = {host: (HostAddress(name=host, uri=f"sim://{host}", driver=DriverKind.SIMULATED),) for host in ("alpha", "beta")}
FLEET = Settings(path=Path("segue.toml"), hosts=ADDRESSES)


def world(**copies: Sighting) -> World:
    found = World()
    found.guests["web1"] = SimGuest(name="web1", copies=dict(copies))
    return found


def start(found: World, host: str = "beta", *, fenced: tuple[str, ...] = ()) -> None:
    driver = SimulatedDriver(found)
    asyncio.run(starting.start("web1", host, FLEET, driver=lambda _: driver, fenced=fenced))


def test_it_is_started_from_its_definition():
    found = world(alpha=Sighting.DEFINED, beta=Sighting.DEFINED)
    start(found)
    assert found.guests["web1"].running_on == ["beta"]


def test_without_a_definition_there_is_nothing_to_start():
    with pytest.raises(GuestNotFound, match="beta has no definition of web1"):
        start(world(alpha=Sighting.DEFINED))


@pytest.mark.parametrize("shown", [one for one in Sighting if one.is_proof and not one.is_idle])
@pytest.mark.parametrize("host", ["alpha", "beta"])
def test_a_host_that_has_any_of_it_stands_in_the_way(shown: Sighting, host: str):
    found = world(**{"beta": Sighting.DEFINED, host: shown})
    with pytest.raises((GuestBusy, GuestNotFound)):
        start(found)
    assert found.guests["web1"].copies[host] is shown


def test_a_silent_host_stands_in_the_way_until_a_person_says_that_it_is_off():
    found = world(beta=Sighting.DEFINED)
    found.unreachable = {"alpha"}
    with pytest.raises(HostUnreachable, match="alpha") as refused:
        start(found)
    assert "--fenced alpha" in refused.value.hint
    start(found, fenced=("alpha",))
    assert found.guests["web1"].running_on == ["beta"]


def test_unknown_hosts_are_usage_errors():
    with pytest.raises(UsageError, match="gamma"):
        start(world(beta=Sighting.DEFINED), "gamma")
    with pytest.raises(UsageError, match="gamma"):
        start(world(beta=Sighting.DEFINED), fenced=("gamma",))
