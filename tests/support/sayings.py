"""Drives one attempt to its failure, and asks what a person would read of it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, contextmanager

from segue import config
from segue.core import causes
from segue.core.causes import Explained, Scene
from segue.core.evidence import Sighting
from segue.core.model import Control, DriverKind, HostAddress, MigrationSpec, Transport
from segue.drivers import driver
from segue.errors import SegueError
from segue.lab import Lab
from tests.support.ledger import Ledger

_TINY = """<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory>
<os><type arch='x86_64' machine='pc'>hvm</type></os><cpu mode='custom'><model>qemu64</model></cpu>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{devices}</devices></domain>"""


@contextmanager
def tiny(lab: Lab, name: str, devices: str) -> Iterator[str]:
    """A domain on alpha without an operating system, for what is refused before anything of it is sent."""
    path = f"/run/{name}.xml"
    lab.host_path("alpha", path).write_text(_TINY.format(name=name, devices=devices), encoding="utf-8")
    asyncio.run(lab.run("alpha", ["virsh", "-q", "create", path]))
    try:
        yield name
    finally:
        asyncio.run(lab.run("alpha", ["virsh", "-q", "destroy", name], check=False))


def addresses(lab: Lab, kind: DriverKind) -> list[HostAddress]:
    """Of alpha and beta."""
    settings = config.load(lab.layout.config)
    return [next(one for one in settings.hosts[host] if one.driver is kind) for host in ("alpha", "beta")]


async def told(
    pair: Sequence[HostAddress], guest: str, *, control: Control = Control.DIRECT, transport: Transport = Transport.NATIVE
) -> Explained:
    """Try to move a guest, see it fail and the guest run on where it was; why, in words. No look ahead is in the way."""
    kind = pair[0].driver
    spec = MigrationSpec(
        id=secrets.token_hex(4),
        guest=guest,
        source=pair[0].name,
        destination=pair[1].name,
        driver=kind,
        control=control,
        transport=transport,
    )
    async with AsyncExitStack() as stack:
        hosts = []
        for address in pair:
            hosts.append(await driver(kind).connect(address, deadline_s=10))
            stack.push_async_callback(hosts[-1].aclose)
        attempt = await stack.enter_async_context(aclosing(driver(kind).attempt(spec, hosts[0], hosts[1], Ledger())))
        try:
            await attempt.prepare()
            async for _ in attempt.perform():
                pass
        except SegueError as error:
            await attempt.roll_back()
            assert (await hosts[0].evidence(guest)).sighting is Sighting.RUNNING
            scene = Scene(guest=guest, here=spec.source, there=spec.destination)
            if explained := causes.explained(error, await attempt.testimony(), scene):
                return explained
            raise
    raise AssertionError("it moved")
