"""What the guest's own clock lost in a move, where a guest agent in it tells the time.

The agent is asked before and after (virDomainGetTime); how much the guest's clock fell behind ours in between is what it lost. It
is asked only where libvirt has heard of one, beside everything else and not for long: a migration waits for no agent.
What may live here: that asking.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Final

import libvirt
from lxml import etree

from segue.drivers.libvirt import runtime
from segue.drivers.libvirt.hypervisor import LibvirtHypervisor
from segue.errors import SegueError

DEADLINE_S: Final = 2.0
"""An agent answers in milliseconds, or it hangs."""
SURE_WITHIN_MS: Final = 500
"""An answer that took longer says nothing: the clock was read at some moment in between."""
_CONNECTED: Final = "devices/channel/target[@name='org.qemu.guest_agent.0'][@state='connected']"


class AgentClock:
    """The clock of one guest, read twice.

    Args:
        source, destination: both hosts.
        leaves_as, arrives_as: the guest's name on each.
    """

    def __init__(self, source: LibvirtHypervisor, destination: LibvirtHypervisor, *, leaves_as: str, arrives_as: str) -> None:
        self._source, self._destination = source, destination
        self._leaves_as, self._arrives_as = leaves_as, arrives_as
        self._before: asyncio.Task[int | None] | None = None

    def start(self) -> None:
        """Begin to read it, before the move."""
        self._before = asyncio.create_task(_ahead_ms(self._source, self._leaves_as))

    async def lost_ms(self) -> int | None:
        """How much it lost, after the move; ``None``: nobody in the guest told, before or now."""
        if self._before is None or (before_ms := await self._before) is None:
            return None
        after_ms = await _ahead_ms(self._destination, self._arrives_as)
        return None if after_ms is None else max(0, before_ms - after_ms)

    async def aclose(self) -> None:
        """Ask no more. May be repeated."""
        if self._before is not None:
            self._before.cancel()
            await asyncio.gather(self._before, return_exceptions=True)


async def _ahead_ms(host: LibvirtHypervisor, guest: str) -> int | None:
    """How far a guest's clock is ahead of our monotonic one."""

    def look() -> int | None:
        domain = connection.lookupByName(guest)
        if etree.fromstring(domain.XMLDesc().encode()).find(_CONNECTED) is None:
            return None
        asked = time.monotonic_ns()
        told = domain.getTime()
        answered = time.monotonic_ns()
        if answered - asked > SURE_WITHIN_MS * 1_000_000:
            return None
        return (told["seconds"] * 1_000_000_000 + told["nseconds"] - (asked + answered) // 2) // 1_000_000  # type: ignore[no-any-return]

    with contextlib.suppress(SegueError, libvirt.libvirtError):
        connection = await host.connection()
        return await runtime.call(host.host, look, deadline_s=DEADLINE_S)
    return None
