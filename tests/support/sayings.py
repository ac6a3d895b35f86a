"""Drives one attempt to its failure, and asks what a person would read of it."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import AsyncExitStack, aclosing

from segue import config
from segue.core import causes
from segue.core.causes import Explained, Scene
from segue.core.evidence import Sighting
from segue.core.model import Control, DriverKind, HostAddress, MigrationSpec, Transport
from segue.drivers import driver
from segue.errors import SegueError
from segue.lab import Lab
from tests.support.ledger import Ledger


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
