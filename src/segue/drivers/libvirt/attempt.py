"""One migration by libvirt: one call that does everything, and the job that shows how it goes.

The daemons run the five phases inside that call (libvirt, docs/migration.rst): we begin it, watch its job, steer it, and take its
result. So `prepare` only sets the limits, `perform` follows the call until it has returned, `finish` and `confirm` verify.

The call has a connection to the source to itself. On a shared one, queries beside it were seen to wait exactly 5 s for their
answer (libvirt 9.0's client, whenever an event loop runs in the process): the thread of the long call does not hand it over
until a keepalive arrives. With a connection each, none of 118 queries took more than 10 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

import libvirt

from segue import units
from segue.core.evidence import Sighting
from segue.core.model import Control, JobStatus, MigrationSpec, Progress
from segue.drivers.libvirt import fold, runtime
from segue.drivers.libvirt.hypervisor import QUERY_DEADLINE_S, LibvirtHypervisor, connected
from segue.errors import HypervisorError, PrepareFailed, SegueError, Unsupported

SAMPLE_S: Final = 0.1
CANCEL_DEADLINE_S: Final = 60.0
"""For the migrate call to return after its job was aborted: the destination's QEMU has to be killed, which libvirt gives 40 s."""
CALL_END_DEADLINE_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """The source's domain as it was before anything was done.

    Attributes:
        domain: on the shared connection, for queries and steering.
        leaving: the same on a connection of its own, for the migrate call.
        persistent: it is defined, not only created.
        max_downtime_ms: its QEMU's downtime limit.
    """

    domain: libvirt.virDomain
    leaving: libvirt.virDomain
    persistent: bool
    max_downtime_ms: int


class LibvirtAttempt:
    """One migration between two libvirt hosts.

    Args:
        spec: what was asked for.
        source, destination: both hosts.

    Raises:
        Unsupported: peer-to-peer to an address that only this machine understands.
    """

    def __init__(self, spec: MigrationSpec, source: LibvirtHypervisor, destination: LibvirtHypervisor) -> None:
        self._spec = spec
        self._source = source
        self._destination = destination
        self._began = time.monotonic()
        self._found: _Found | None = None
        self._call: asyncio.Future[object] | None = None
        self._last = Progress(elapsed_ms=0, status=JobStatus.NONE)
        if spec.control is Control.P2P and not urlsplit(destination.address.uri).hostname:
            raise Unsupported(
                f"Peer-to-peer needs an address that {source.host} can use; {destination.address.uri} is not one.",
                guest_at=f"it is on {source.host}; nothing was touched",
                hint=f"Give a remote URI for {destination.host}, such as qemu+ssh://HOST/system, or use --control direct.",
            )

    async def prepare(self) -> None:
        """Set the downtime limit on the source; the rest of preparing is done inside the migrate call.

        The limit is a parameter of the running QEMU (virDomainMigrateSetMaxDowntime needs no job): it is in force from the start.
        """
        wanted = self._spec.limits.max_downtime_ms

        def look(connection: libvirt.virConnect) -> _Found:
            domain = connection.lookupByName(self._spec.guest)
            found = _Found(
                domain=domain,
                leaving=line.lookupByName(self._spec.guest),
                persistent=bool(domain.isPersistent()),
                max_downtime_ms=domain.migrateGetMaxDowntime(),
            )
            if found.max_downtime_ms != wanted:
                domain.migrateSetMaxDowntime(wanted)
            return found

        try:
            line = await connected(self._source.address, deadline_s=QUERY_DEADLINE_S)
            self._found = await self._source.ask(look)
        except HypervisorError as error:
            raise PrepareFailed(error.message) from error

    async def perform(self) -> AsyncIterator[Progress]:
        """Make the migrate call and follow its job until the call has returned."""
        self._call = runtime.start(await self._migrate_call())
        self._call.add_done_callback(_seen)
        while not (await asyncio.wait({self._call}, timeout=SAMPLE_S))[0]:
            self._last = await self._sample()
            yield self._last
        try:
            await self._result_of_call()
        except HypervisorError:
            self._last = replace(self._last, elapsed_ms=self._elapsed_ms(), status=JobStatus.FAILED)
            raise
        self._last = replace(
            await self._completed(), elapsed_ms=self._elapsed_ms(), status=JobStatus.COMPLETED, ram_remaining_bytes=0
        )
        yield self._last

    async def _migrate_call(self) -> Callable[[], object]:
        found = self._require_found()
        limits = self._spec.limits
        flags = libvirt.VIR_MIGRATE_LIVE
        if found.persistent:
            flags |= libvirt.VIR_MIGRATE_PERSIST_DEST | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
        if limits.auto_converge:
            flags |= libvirt.VIR_MIGRATE_AUTO_CONVERGE
        if limits.postcopy:
            flags |= libvirt.VIR_MIGRATE_POSTCOPY
        parameters: dict[str, object] = {}
        address = self._destination.address
        if data_host := address.migration_address or urlsplit(address.uri).hostname:
            # Never left to libvirt, which would send to whatever name the destination believes it has.
            parameters[libvirt.VIR_MIGRATE_PARAM_URI] = f"tcp://{f'[{data_host}]' if ':' in data_host else data_host}"
        if limits.bandwidth_bps:
            parameters[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH] = _mib_per_second(limits.bandwidth_bps)
        if self._spec.control is Control.P2P:
            return lambda: found.leaving.migrateToURI3(address.uri, parameters, flags | libvirt.VIR_MIGRATE_PEER2PEER)
        there = await self._destination.connection()
        return lambda: found.leaving.migrate3(there, parameters, flags)

    async def _sample(self) -> Progress:
        """One look at the job; while nothing can be seen, the last sample again."""
        domain = self._require_found().domain

        def look(_: libvirt.virConnect) -> tuple[dict[str, object], tuple[int, int]]:
            return domain.jobStats(), tuple(domain.state())

        try:
            stats, (state, reason) = await self._source.ask(look)
        except HypervisorError:  # the domain has left, or the daemon is busy: the call itself will say
            return replace(self._last, elapsed_ms=self._elapsed_ms())
        status = fold.status_of(stats, state, reason)
        if status is JobStatus.SETUP and self._last.sent_bytes:  # between the end of the job and the end of the call
            return replace(self._last, elapsed_ms=self._elapsed_ms(), status=JobStatus.SWITCHOVER)
        return fold.progress(stats, elapsed_ms=self._elapsed_ms(), status=status)

    async def _completed(self) -> Progress:
        """The statistics that the destination keeps of the migration; the last sample where it keeps none."""
        name = self._spec.guest
        kept = libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED | libvirt.VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED

        def look(connection: libvirt.virConnect) -> dict[str, object]:
            return connection.lookupByName(name).jobStats(kept)  # type: ignore[no-any-return]  # libvirt has no types

        try:
            stats = await self._destination.ask(look)
        except SegueError:
            return self._last
        return (
            fold.progress(stats, elapsed_ms=self._elapsed_ms(), status=JobStatus.COMPLETED)
            if stats.get("memory_total")
            else self._last
        )

    async def start_postcopy(self) -> None:
        """Ask for post-copy now."""
        domain = self._require_found().domain
        await self._source.ask(lambda _: domain.migrateStartPostCopy(0))

    async def set_max_downtime(self, ms: int) -> None:
        """From now on."""
        domain = self._require_found().domain
        await self._source.ask(lambda _: domain.migrateSetMaxDowntime(ms))

    async def set_bandwidth(self, bps: int) -> None:
        """From now on; libvirt counts in MiB/s."""
        domain = self._require_found().domain
        await self._source.ask(lambda _: domain.migrateSetMaxSpeed(_mib_per_second(bps)))

    async def cancel(self) -> None:
        """Abort the job and wait until the migrate call has returned, one way or the other."""
        if self._call is None or self._found is None:
            return
        domain = self._found.domain
        async with asyncio.timeout(CANCEL_DEADLINE_S):
            while not self._call.done():
                with contextlib.suppress(HypervisorError):  # no job yet, or none any more: the call will return
                    await self._source.ask(lambda _: domain.abortJob())
                await asyncio.wait({self._call}, timeout=SAMPLE_S)

    async def roll_back(self) -> None:
        """See to it that libvirt has rolled back; mend what a daemon that died left half-way.

        A destination that never ran is destroyed, a source that only the migration had paused is resumed, in this order, and
        neither while the migrate call is still under way.
        """
        await self._restore_downtime()
        if self._call is not None and not self._call.done():
            return
        name = self._spec.guest
        there = await self._destination.evidence(name)
        if there.sighting is Sighting.INCOMING:
            await self._destination.ask(lambda connection: connection.lookupByName(name).destroy())
            there = await self._destination.evidence(name)
        here = await self._source.evidence(name)
        if here.sighting is Sighting.SWITCHOVER and there.sighting in (Sighting.ABSENT, Sighting.DEFINED):
            await self._source.ask(lambda connection: connection.lookupByName(name).resume())

    async def _restore_downtime(self) -> None:
        """Give the source's QEMU its own limit back; a guest that is not there any more needs none."""
        if (found := self._found) is not None and found.max_downtime_ms != self._spec.limits.max_downtime_ms:
            with contextlib.suppress(SegueError):
                await self._source.ask(lambda _: found.domain.migrateSetMaxDowntime(found.max_downtime_ms))

    async def finish(self) -> None:
        """Take the result of the migrate call, in which the destination was resumed."""
        if self._call is not None:
            async with asyncio.timeout(CALL_END_DEADLINE_S):
                await asyncio.wait({self._call})
            await self._result_of_call()

    async def _result_of_call(self) -> None:
        if self._call is not None:
            try:
                self._call.result()
            except libvirt.libvirtError as error:
                raise runtime.wrapped(self._source.host, error) from error

    async def confirm(self) -> None:
        """Undefine what is left of a persistent guest on the source; libvirt does it in the call, unless it could not."""
        name = self._spec.guest
        if (await self._source.evidence(name)).sighting is not Sighting.DEFINED:
            return
        keep = libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM  # the destination has its own copy or shares this one
        await self._source.ask(lambda connection: connection.lookupByName(name).undefineFlags(keep))

    async def result(self) -> Progress:
        """The last word of libvirt on it."""
        return self._last

    async def aclose(self) -> None:
        """Nothing of the attempt runs on: the migrate call, should it still hang, is a thread that holds nothing."""

    def _require_found(self) -> _Found:
        if self._found is None:
            raise AssertionError("prepare comes first")
        return self._found

    def _elapsed_ms(self) -> int:
        return round((time.monotonic() - self._began) * 1000)


def _seen(call: asyncio.Future[object]) -> None:
    """Mark the exception as taken: whoever needs it asks for the result."""
    if not call.cancelled():
        call.exception()


def _mib_per_second(bps: int) -> int:
    """In libvirt's unit for bandwidth; 0 would mean no limit."""
    return max(1, -(-bps // units.MIB))
