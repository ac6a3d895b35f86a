"""The simulated driver keeps the contract: what is tried on it holds for the real ones."""

import asyncio

import pytest

from segue import units
from segue.core.model import DriverKind, HostAddress
from segue.drivers.simulated import SimGuest, SimulatedDriver, World
from tests.contract.checks import CHECKS, Bench, Check


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_contract(check: Check) -> None:
    world = World()
    world.add(SimGuest(name="web", working_set_bytes=8 * units.MIB, write_bps=4 * units.MIB), "alpha")
    alpha, beta, dead = (
        HostAddress(name=name, uri=f"sim://{name}", driver=DriverKind.SIMULATED) for name in ("alpha", "beta", "dead")
    )
    async with asyncio.timeout(10):
        await check(Bench(driver=SimulatedDriver(world), addresses=(alpha, beta), dead=dead, guest="web"))
    assert world.most_copies == 1
