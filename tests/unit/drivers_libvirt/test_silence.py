"""A host that is asked now and then whether it is still there; libvirt's own driver for tests takes the place of one that is."""

from __future__ import annotations

import asyncio

import pytest

from segue.core.model import DriverKind, HostAddress
from segue.drivers.libvirt import runtime
from segue.drivers.libvirt.hypervisor import LibvirtHypervisor

pytestmark = pytest.mark.timeout(60)
LONG_S = 0.6


def host(uri: str) -> LibvirtHypervisor:
    return LibvirtHypervisor(HostAddress(name="beta", uri=uri, driver=DriverKind.LIBVIRT), runtime.opened("test:///default"))


async def test_a_host_that_answers_is_never_silent() -> None:
    silence = asyncio.create_task(host("test:///default").silence(long_s=LONG_S))
    done, _ = await asyncio.wait({silence}, timeout=3 * LONG_S)
    assert not done
    silence.cancel()


async def test_a_host_that_does_not_answer_for_so_long_is() -> None:
    gone = host("qemu+unix:///system?socket=/nowhere/libvirt-sock")
    await gone.aclose()
    await asyncio.wait_for(gone.silence(long_s=LONG_S), 30)
