"""libvirt's migrate call: what it is asked, who makes it, and how it ended.

The call has a connection to the source to itself. On a shared one, queries beside it were seen to wait exactly 5 s for their
answer (libvirt 9.0's client, whenever an event loop runs in the process): the thread of the long call does not hand it over
until a keepalive arrives. With a connection each, none of 118 queries took more than 10 ms.

What may live here: the call. What is done about how it goes is `attempt`'s.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import libvirt

from segue import units
from segue.core import deltas, domxml, virsh
from segue.core.domxml import Carried
from segue.core.model import Control, MigrationSpec
from segue.core.storage import CopyStorage
from segue.drivers.libvirt import carried, definitions, runtime
from segue.drivers.libvirt.client import Client
from segue.drivers.libvirt.disks import FileDisk
from segue.drivers.libvirt.hosting import spare_bytes
from segue.drivers.libvirt.hypervisor import QUERY_DEADLINE_S, LibvirtHypervisor, connected
from segue.errors import AnswerNotSeen, HypervisorError

END_DEADLINE_S: Final = 60.0
RESUMED_AFTER_S: Final = 1.0
"""A call that is to resume a post-copy and cannot, says so within this (seen: 0.1 s for a peer that refuses)."""
RESUME_PATIENCE_S: Final = 10.0
"""A call that resumes takes 0.1 s where QEMU answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The source's domain as it was before anything was done.

    Attributes:
        domain: on the shared connection, for queries and steering.
        leaving: the same on a connection of its own, for the migrate call.
        persistent: it is defined, not only created.
        max_downtime_ms: its QEMU's downtime limit.
        carried: what libvirt would leave behind of it.
    """

    domain: libvirt.virDomain
    leaving: libvirt.virDomain
    persistent: bool
    max_downtime_ms: int
    carried: Carried
    remembers: int = 0


async def find(spec: MigrationSpec, source: LibvirtHypervisor) -> Found:
    """Look at the domain on the source.

    Raises:
        HypervisorError: there is none.
        HostUnreachable: the source does not answer.
    """
    line = await connected(source.address, deadline_s=QUERY_DEADLINE_S)

    def look(connection: libvirt.virConnect) -> Found:
        domain = connection.lookupByName(spec.guest)
        return Found(
            domain=domain,
            leaving=line.lookupByName(spec.guest),
            persistent=bool(domain.isPersistent()),
            max_downtime_ms=domain.migrateGetMaxDowntime() if domain.isActive() else spec.first_downtime_ms,
            carried=carried.find(domain),
            remembers=deltas.remembered_bytes(domain.maxMemory() * units.KIB, spare_bytes(domain)) if spec.deltas else 0,
        )

    return await source.ask(look)


class Calling:
    """The call of one attempt, and those that connect its post-copy again.

    Args:
        spec: what was asked for.
        source, destination: both hosts.
    """

    def __init__(self, spec: MigrationSpec, source: LibvirtHypervisor, destination: LibvirtHypervisor) -> None:
        self._spec = spec
        self._source = source
        self._destination = destination
        self._call: asyncio.Future[object] | None = None
        self._client: Client | None = None
        self._silence: asyncio.Task[None] | None = None
        self._resumed_at = 0.0

    @property
    def was_made(self) -> bool:
        """It was made here, by this process."""
        return self._call is not None

    @property
    def under_way(self) -> bool:
        """It was, and has not returned."""
        return self._call is not None and not self._call.done()

    @property
    def destination_is_silent(self) -> bool:
        """It is peer-to-peer, and the destination has been silent for long since before the source's daemon reached it."""
        return self._silence is not None and self._silence.done() and not self._silence.cancelled()

    async def make(self, found: Found, copied: Sequence[FileDisk]) -> None:
        """Make it.

        Args:
            found: the domain on the source.
            copied: its disks that come along.
        """
        self._call = _started(await self._function(found, copied))
        if self._spec.control is Control.P2P:
            self._silence = asyncio.create_task(self._destination.silence(long_s=runtime.DEAD_PEER_S))

    async def resume(self, found: Found, copied: Sequence[FileDisk]) -> None:
        """Make it again, to connect a post-copy (libvirt 8.5, VIR_MIGRATE_POSTCOPY_RESUME).

        Raises:
            HypervisorError: this libvirt cannot, or the call ended at once.
        """
        self._resumed_at = time.monotonic()
        flag = getattr(libvirt, "VIR_MIGRATE_POSTCOPY_RESUME", 0)
        if not flag:
            raise HypervisorError("This libvirt (before 8.5) cannot connect a post-copy again.", host=self._source.host)
        self._call = _started(await self._function(found, copied, flag))
        await asyncio.wait({self._call}, timeout=RESUMED_AFTER_S)
        if self._call.done():
            self.check()

    @property
    def is_resuming(self) -> bool:
        """It was made again, and there is no word yet of how it goes.

        Raises:
            HypervisorError: there should have been one long since.
        """
        if not self.under_way:
            return False
        if time.monotonic() - self._resumed_at < RESUME_PATIENCE_S:
            return True
        raise HypervisorError(
            f"libvirt is still at it: QEMU on {self._destination.host} does not answer. It waits for a page of the guest "
            "where it should listen to its monitor, and libvirt cannot reach it there; if it stays so, the guest is lost.",
            host=self._destination.host,
        )

    async def wait(self, timeout_s: float) -> bool:
        """Give it so long. Whether it has returned."""
        if self._call is None:
            await asyncio.sleep(timeout_s)
            return True
        return bool((await asyncio.wait({self._call}, timeout=timeout_s))[0])

    async def ended(self) -> None:
        """Wait for its end, and take what came of it.

        Raises:
            AnswerNotSeen: it did not return.
            HypervisorError: it failed.
        """
        if self._call is not None:
            if not await self.wait(END_DEADLINE_S):
                raise self.hangs()
            self.check()

    def check(self) -> None:
        """Take what came of one that has returned.

        Raises:
            HypervisorError: it failed.
        """
        if self._call is not None:
            try:
                self._call.result()
            except libvirt.libvirtError as error:
                raise runtime.wrapped(self._source.host, error) from error

    def hangs(self) -> AnswerNotSeen:
        """That it did not return."""
        return AnswerNotSeen(
            f"The migrate call of {self._spec.guest} did not return within {END_DEADLINE_S:g} s.", host=self._source.host
        )

    def forget(self) -> None:
        """It has returned, and did not take; whoever asked was told."""
        self._call = None

    def reached(self) -> None:
        """The source's daemon has reached the destination: from here on the daemons themselves notice when one is gone."""
        if self._silence is not None:
            self._silence.cancel()

    def outlive_us(self) -> None:
        """Post-copy is about to be asked for: who makes the call sees it through, whatever becomes of this process."""
        if self._client is not None:
            self._client.stay()

    def release(self) -> None:
        """We go. Should it still hang, it is a thread that holds nothing; a `client` ends, too, unless a post-copy needs it."""
        self.reached()
        if self._client is not None:
            self._client.release()

    async def _function(self, found: Found, copied: Sequence[FileDisk], more_flags: int = 0) -> Callable[[], object]:
        xml, persistent_xml = await self._source.ask(lambda _: definitions.wanted(found.domain, self._spec))
        if self._spec.disks is not None and self._spec.disks.how is CopyStorage.ALL and any(one.backing for one in copied):
            own = xml or await self._source.ask(lambda _: definitions.own(found.domain))
            xml = domxml.flattened(own, [one.target for one in copied])
        call = virsh.Call(
            spec=self._spec,
            there=self._destination.address,
            defined=found.persistent,
            xml=xml,
            persistent_xml=persistent_xml,
            disks=tuple(one.target for one in copied),
            remembers=found.remembers,
        )
        flags, parameters = arguments(call)
        flags |= more_flags
        if self._spec.control is Control.P2P:
            uri = self._destination.address.uri
            return lambda: found.leaving.migrateToURI3(uri, parameters, flags)
        if self._spec.limits.postcopy and not more_flags:
            self._client = Client(
                self._source.host,
                source=self._source.address.uri,
                destination=self._destination.address.uri,
                guest=self._spec.guest,
                parameters=parameters,
                flags=flags,
            )
            return self._client.result
        there = await self._destination.connection()
        return lambda: found.leaving.migrate3(there, parameters, flags)


def arguments(call: virsh.Call) -> tuple[int, dict[str, object]]:
    """The flags and the typed parameters of libvirt's migrate call."""
    flags, parameters = 0, dict[str, object]()
    for row, value in virsh.wanted(call):
        if row.is_parameter:
            parameters[getattr(libvirt, row.constant)] = list(value) if isinstance(value, tuple) else value
        else:
            flags |= getattr(libvirt, row.constant)
    return flags, parameters


def _started(function: Callable[[], object]) -> asyncio.Future[object]:
    """The call, in a thread of its own; whoever needs its result asks for it."""
    call = runtime.start(function)
    call.add_done_callback(_seen)
    return call


def _seen(call: asyncio.Future[object]) -> None:
    """Mark the exception as taken: whoever needs it asks for the result."""
    if not call.cancelled():
        call.exception()
