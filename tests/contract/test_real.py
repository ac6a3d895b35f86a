"""The real drivers keep the contract, on the real lab: the same checks as the simulated driver."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from segue import config, units
from segue.core.model import DriverKind, HostAddress
from segue.drivers import driver
from segue.lab import Lab, guests
from segue.lab.guests import GuestSpec
from tests.contract.checks import CHECKS, DEADLINE_S, Bench, Check
from tests.lab.conftest import inside, lab  # noqa: F401  # the lab of the lab's own tests
from tests.support.inside import Inside

pytestmark = pytest.mark.lab

NOBODY = {DriverKind.LIBVIRT: "qemu+tcp://10.77.0.99/system", DriverKind.QEMU: "qmp+ssh://root@10.77.0.99/"}


@pytest.fixture(scope="module", params=[DriverKind.LIBVIRT, DriverKind.QEMU], ids=str)
def bench(request: pytest.FixtureRequest, lab: Lab) -> Iterator[Bench]:  # noqa: F811
    kind: DriverKind = request.param
    name = f"contract-{kind}"
    spec = GuestSpec(
        name=name, host="alpha", kind=kind.value, touch_bytes=64 * units.MIB, set_bytes=8 * units.MIB, rate="4", disk=True
    )
    asyncio.run(guests.start(lab, spec))
    settings = config.load(lab.layout.config)
    alpha, beta = (next(one for one in settings.hosts[host] if one.driver is kind) for host in ("alpha", "beta"))
    dead = HostAddress(name="dead", uri=NOBODY[kind], driver=kind)
    yield Bench(driver=driver(kind), addresses=(alpha, beta), dead=dead, guest=name)
    asyncio.run(guests.stop(lab, name))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check: Check, bench: Bench, inside: Inside) -> None:  # noqa: F811
    inside.run(check(bench), deadline_s=DEADLINE_S)
