"""One migration by libvirt: one call that does everything, and the job that shows how it goes.

The daemons run the five phases inside that call (libvirt, docs/migration.rst): we begin it, watch its job, steer it, and take its
result. So `prepare` only sets the limits, `perform` follows the call until it has returned, `finish` and `confirm` verify.

Whoever takes an attempt up again has no call to follow, only the job. Peer-to-peer goes on without the process that asked for it.
Under direct control that process was a part of the protocol: libvirt turns back by itself when its connection closes, except in
post-copy, which it sees through unattended (libvirt 8.5, qemuMigrationProcessUnattended). Only in the instant in which that
begins it cannot do without; so where post-copy is allowed, the call is made by a process of its own (`client`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Final

import libvirt

from segue import units
from segue.core.causes import Quote
from segue.core.domxml import Carried
from segue.core.downtime import Moments
from segue.core.evidence import Sighting
from segue.core.model import Control, JobStatus, MigrationSpec, Progress
from segue.core.ports import ActionLog
from segue.core.record import Action, Settings
from segue.drivers.libvirt import carried, fold, guestlog, heard, runtime
from segue.drivers.libvirt.agentclock import AgentClock
from segue.drivers.libvirt.calling import END_DEADLINE_S, Calling, Found, find
from segue.drivers.libvirt.disks import DiskCopy, FileDisk
from segue.drivers.libvirt.hypervisor import QUERY_DEADLINE_S, LibvirtHypervisor
from segue.errors import AnswerNotSeen, HypervisorError, PrepareFailed, SegueError

SAMPLE_S: Final = 0.1
CANCEL_DEADLINE_S: Final = 60.0
"""For the migrate call to return after its job was aborted: the destination's QEMU has to be killed, which libvirt gives 40 s."""
NO_LIMIT_BPS: Final = 1 << 40
"""Reported bandwidth from which on there is no limit: libvirt says 8796093022207 MiB/s."""
_HERE: Final = (Sighting.RUNNING, Sighting.PAUSED)
"""A destination that has the guest: whatever the source still holds of it may go."""
_IN_POSTCOPY: Final = (JobStatus.POSTCOPY, JobStatus.POSTCOPY_PAUSED)
_OF_POSTCOPY: Final = 1
"""VIR_DOMAIN_MIGRATE_MAX_SPEED_POSTCOPY, for which a libvirt before 5.1 has no name."""


class LibvirtAttempt:
    """One migration between two libvirt hosts.

    Args:
        spec: what was asked for.
        source, destination: both hosts.
        log: is told each action before it is done.
    """

    def __init__(self, spec: MigrationSpec, source: LibvirtHypervisor, destination: LibvirtHypervisor, log: ActionLog) -> None:
        self._spec = spec
        self._log = log
        self._source = source
        self._destination = destination
        self._began = time.monotonic()
        self._found: Found | None = None
        self._disks = DiskCopy(spec, source, destination, log) if spec.disks is not None else None
        self._copied: tuple[FileDisk, ...] = ()
        self._reattached = False
        self._call = Calling(spec, source, destination)
        self._gone_at = 0.0
        self._ears = {source.host: heard.Ear(spec.guest), destination.host: heard.Ear(spec.arrives_as)}
        self._clock = AgentClock(source, destination, leaves_as=spec.guest, arrives_as=spec.arrives_as)
        self._last = Progress(elapsed_ms=0, status=JobStatus.NONE)

    async def prepare(self) -> None:
        """Put into the definition what would stay behind, and set the downtime limit on the source.

        The rest of preparing is done inside the migrate call.

        The limit is a parameter of the running QEMU (virDomainMigrateSetMaxDowntime needs no job): it is in force from the start.
        """
        wanted = self._spec.first_downtime_ms
        try:
            found = self._found = await find(self._spec, self._source)
            self._clock.start()
            if found.max_downtime_ms != wanted:
                async with self._log.acting(Action.SET_UP_SOURCE, f"{self._source.host}: downtime limit {wanted} ms"):
                    await self._source.ask(lambda _: found.domain.migrateSetMaxDowntime(wanted))
            if found.carried:
                async with self._log.acting(Action.PACK, f"{self._source.host}: {_in_words(found.carried)}"):
                    await self._source.ask(lambda _: carried.pack(found.domain, found.carried))
            if self._disks is not None:
                self._copied = await self._disks.create(found.domain)
        except HypervisorError as error:
            raise PrepareFailed(error.message) from error

    async def reattach(self, *, told_to_run: bool) -> None:  # noqa: ARG002  # libvirt itself lets the destination run
        """Find the domain on the source again, where it still is."""
        self._reattached = True
        try:
            self._found = await find(self._spec, self._source)
        except HypervisorError as error:
            if error.number != libvirt.VIR_ERR_NO_DOMAIN:
                raise

    async def perform(self) -> AsyncIterator[Progress]:
        """Make the migrate call and follow its job until the call has returned."""
        if self._reattached:
            async for sample in self._follow_job():
                yield sample
            return
        await self._listen()
        async with self._log.acting(Action.START, f"{self._source.host} to {self._destination.host}, {self._spec.control}"):
            await self._call.make(self._require_found(), self._copied)
        while True:
            while not await self._call.wait(SAMPLE_S):
                self._last = await self._sample()
                yield self._last
            try:
                self._call.check()
                break
            except HypervisorError as error:
                self._last = await self._after_error()
                if self._last.status is not JobStatus.POSTCOPY_PAUSED:
                    raise self._told_of_its_host(error) from error
            yield self._last  # whoever gets this may connect the post-copy again, which is another call
            await asyncio.sleep(SAMPLE_S)
        self._last = replace(
            await self._completed(), elapsed_ms=self._elapsed_ms(), status=JobStatus.COMPLETED, ram_remaining_bytes=0
        )
        yield self._last

    async def _listen(self) -> None:
        """Hear of the switchover from both hosts; a host that cannot tell is none that cannot migrate."""
        for host in (self._source, self._destination):
            with contextlib.suppress(SegueError):
                await host.ask(self._ears[host.host].listen)

    def _told_of_its_host(self, error: HypervisorError) -> HypervisorError:
        """A connection that broke while memory flowed is the destination's daemon's, where ours to the source is whole."""
        if (
            error.area != libvirt.VIR_FROM_RPC
            or not self._last.sent_bytes
            or not self._require_found().leaving.connect().isAlive()
        ):
            return error
        return runtime.told(self._destination.host, {"raw": error.raw, "number": int(error.number or 0), "area": error.area})

    async def _after_error(self) -> Progress:
        """The sample that tells what the call left behind: failed, or a post-copy that lost its connection."""
        here = await self._source.evidence(self._spec.guest)
        broken = self._last.status in _IN_POSTCOPY and here.sighting in (Sighting.POSTCOPY, Sighting.POSTCOPY_PAUSED)
        status = JobStatus.POSTCOPY_PAUSED if broken else JobStatus.FAILED
        return replace(self._last, elapsed_ms=self._elapsed_ms(), status=status)

    async def _follow_job(self) -> AsyncIterator[Progress]:
        """Follow a job that another process began, until there is none; what it came to, the domain on the source tells."""
        name = self._spec.guest
        while (here := await self._source.evidence(name)).sighting.is_proof:
            if here.sighting is Sighting.CRASHED:
                raise self._source_died()
            if here.sighting.is_idle:
                gone = not self._spec.libvirt.offline or await self._arrived()  # of a guest that never ran, idle says nothing
                status = JobStatus.COMPLETED if gone else JobStatus.NONE
                self._last = replace(await self._completed(), elapsed_ms=self._elapsed_ms(), status=status)
                break
            self._last = await self._sample()
            if self._last.status is JobStatus.POSTCOPY_PAUSED and not self._call.under_way:
                self._call.forget()
            on_its_own = self._spec.control is Control.P2P or self._last.status in _IN_POSTCOPY
            if not on_its_own or not await self._has_job():
                self._last = replace(self._last, status=JobStatus.NONE)
                break
            yield self._last
            await asyncio.sleep(SAMPLE_S)
        yield self._last

    async def _arrived(self) -> bool:
        """Whether the destination has what was to come: a copy that was seen to run or to be kept from it, or the definition."""
        there = (await self._destination.evidence(self._spec.arrives_as)).sighting
        return there is Sighting.DEFINED if self._spec.libvirt.offline else there in _HERE

    async def _require_arrived(self) -> None:
        if not await self._arrived():
            raise HypervisorError(
                f"{self._spec.guest} was not seen to run on {self._destination.host}: {self._source.host} keeps what it has.",
                host=self._source.host,
            )

    async def _has_job(self) -> bool:
        """Whether the source still works on it: a job, or a post-copy that waits to be connected again."""
        domain = self._require_found().domain

        def look(_: libvirt.virConnect) -> tuple[dict[str, object], tuple[int, int]]:
            return domain.jobStats(), tuple(domain.state())

        try:
            stats, (state, reason) = await self._source.ask(look)
        except HypervisorError:
            return True  # the next look at the domain tells
        return fold.status_of(stats, state, reason) in _IN_POSTCOPY or stats.get("type") != libvirt.VIR_DOMAIN_JOB_NONE

    async def _sample(self) -> Progress:
        """One look at the job; while nothing can be seen, the last sample again."""
        domain = self._require_found().domain

        def look(_: libvirt.virConnect) -> tuple[dict[str, object], tuple[int, int]]:
            return domain.jobStats(), tuple(domain.state())

        try:
            stats, (state, reason) = await self._source.ask(look)
        except HypervisorError:  # the domain has left, or the daemon is busy: the call itself will say
            await self._see_source_alive()
            return replace(self._last, elapsed_ms=self._elapsed_ms())
        status = fold.status_of(stats, state, reason)
        if status is JobStatus.SETUP and self._last.sent_bytes:  # between the end of the job and the end of the call
            return replace(self._last, elapsed_ms=self._elapsed_ms(), status=JobStatus.SWITCHOVER)
        if status is JobStatus.SETUP:
            await self._see_destination_there()
        else:
            self._call.reached()
        return fold.progress(stats, elapsed_ms=self._elapsed_ms(), status=status)

    async def _see_source_alive(self) -> None:
        """Notice a source that died in post-copy: the call may never return then.

        A destination that waits for one of the source's pages answers no libvirtd, and the source's libvirtd waits for the
        destination's (seen with libvirt 9.0, peer-to-peer).

        Raises:
            HypervisorError: the source's QEMU is known to have died in post-copy.
            AnswerNotSeen: it is gone, and the call has not returned for a long time since.
        """
        if self._last.status not in _IN_POSTCOPY:
            return
        here = await self._source.evidence(self._spec.guest)
        if here.sighting is Sighting.CRASHED:
            raise self._source_died()
        self._gone_at = self._gone_at or time.monotonic() if here.sighting.is_idle else 0.0
        if self._gone_at and time.monotonic() - self._gone_at > END_DEADLINE_S:
            raise self._call.hangs()

    async def _see_destination_there(self) -> None:
        """Notice a destination that is gone before the source's daemon has reached it.

        That daemon waits for its connection as long as its kernel tries (seen: 40 to 130 s; tcp(7), tcp_syn_retries), and goes on
        when the link is back. Told to abort meanwhile, it does not go on (seen with libvirt 9.0).

        Raises:
            AnswerNotSeen: it is; the job was aborted, and the call has not returned.
        """
        if self._call.destination_is_silent:
            await self.cancel()
            raise AnswerNotSeen(
                f"{self._destination.host} has not answered for {runtime.DEAD_PEER_S} s, and libvirt on {self._source.host} had "
                f"not reached it yet: nothing of {self._spec.guest} was sent, and libvirt was told not to go on with it.",
                host=self._destination.host,
            )

    def _source_died(self) -> HypervisorError:
        return HypervisorError(f"QEMU of {self._spec.guest} on {self._source.host} died.", host=self._source.host)

    async def _completed(self) -> Progress:
        """The statistics that the destination keeps of the migration; the last sample where it keeps none."""
        name = self._spec.arrives_as
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

    async def start_postcopy(self, *, background_bps: int | None = None) -> None:
        """Ask for post-copy now. What `--postcopy-bandwidth` said when it began stays."""
        domain = self._require_found().domain
        async with self._log.acting(Action.START_POSTCOPY, self._source.host):
            if background_bps is not None and self._spec.libvirt.postcopy_bandwidth_bps is None:
                limit = _mib_per_second(background_bps)
                with contextlib.suppress(HypervisorError):  # before libvirt 5.1
                    await self._source.ask(lambda _: domain.migrateSetMaxSpeed(limit, _OF_POSTCOPY))
            self._call.outlive_us()
            await self._source.ask(lambda _: domain.migrateStartPostCopy(0))

    async def recover_postcopy(self) -> None:
        """Make the migrate call again, to resume (libvirt 8.5, VIR_MIGRATE_POSTCOPY_RESUME); `perform` follows it.

        Raises:
            HypervisorError: this libvirt cannot, or the call ended at once.
        """
        if self._call.is_resuming:
            return
        async with self._log.acting(Action.RECOVER_POSTCOPY, f"{self._source.host} to {self._destination.host}"):
            await self._call.resume(self._require_found(), self._copied)

    async def settings(self) -> Settings:
        """What libvirt says of the limits in force (bandwidth in MiB/s, without a limit a number that no wire carries)."""
        domain = self._require_found().domain
        downtime_ms, mib = await self._source.ask(lambda _: (domain.migrateGetMaxDowntime(), domain.migrateGetMaxSpeed()))
        return Settings(
            max_downtime_ms=downtime_ms,
            bandwidth_bps=mib * units.MIB if mib * units.MIB < NO_LIMIT_BPS else None,
            postcopy=self._spec.limits.postcopy,
        )

    async def set_max_downtime(self, ms: int) -> None:
        """From now on."""
        domain = self._require_found().domain
        async with self._log.acting(Action.TUNE, f"downtime limit {ms} ms"):
            await self._source.ask(lambda _: domain.migrateSetMaxDowntime(ms))

    async def set_bandwidth(self, bps: int) -> None:
        """From now on; libvirt counts in MiB/s."""
        domain = self._require_found().domain
        async with self._log.acting(Action.TUNE, f"bandwidth {bps} B/s"):
            await self._source.ask(lambda _: domain.migrateSetMaxSpeed(_mib_per_second(bps)))

    async def set_throttle(self, percent: int) -> None:
        """Refused: libvirt takes a word about throttling only when a migration begins."""
        raise HypervisorError(
            f"libvirt cannot be told on the way by how much ({percent} %) to slow {self._spec.guest}.", host=self._source.host
        )

    async def cancel(self) -> None:
        """Abort the job and wait until the migrate call has returned, one way or the other.

        One that still waits for a silent destination is not waited for: it turns back when it gets there.
        """
        if self._found is None or not (self._call.was_made or self._reattached):
            return
        domain = self._found.domain
        until = time.monotonic() + CANCEL_DEADLINE_S
        async with self._log.acting(Action.CANCEL, self._source.host):
            while await self._under_way():
                if time.monotonic() > until:
                    raise AnswerNotSeen(
                        f"The migration of {self._spec.guest} was aborted and did not end within {CANCEL_DEADLINE_S:g} s.",
                        host=self._source.host,
                    )
                with contextlib.suppress(HypervisorError):  # no job yet, or none any more: the call will return
                    await self._source.ask(lambda _: domain.abortJob())
                if self._call.destination_is_silent:
                    return
                await self._call.wait(SAMPLE_S)

    async def _under_way(self) -> bool:
        """The call has not returned; where it was another's, the job has not ended. A post-copy is not cancelled."""
        if self._call.was_made:
            return self._call.under_way
        here = await self._source.evidence(self._spec.guest)
        return here.sighting in (Sighting.RUNNING, Sighting.SWITCHOVER) and await self._has_job()

    async def roll_back(self) -> None:
        """See to it that libvirt has rolled back; mend what a daemon that died left half-way.

        A destination that never ran is destroyed, a source that only the migration had paused is resumed, in this order, and
        neither while the migrate call is still under way.
        """
        if self._reattached:
            await self.cancel()
        await self._restore_downtime()
        if self._call.under_way:
            return
        name = self._spec.guest
        arriving = self._spec.arrives_as
        there = await self._destination.evidence(arriving)
        if there.sighting is Sighting.INCOMING:
            async with self._log.acting(Action.END_DESTINATION, self._destination.host):
                await self._destination.ask(lambda connection: connection.lookupByName(arriving).destroy())
            there = await self._destination.evidence(arriving)
        here = await self._source.evidence(name)
        if here.sighting is Sighting.SWITCHOVER and there.sighting.is_idle:
            async with self._log.acting(Action.RESUME_SOURCE, self._source.host):
                await self._source.ask(lambda connection: connection.lookupByName(name).resume())
        if self._disks is not None and self._found is not None and there.sighting.is_idle:
            await self._disks.remove(self._found.domain)
        await self._unpack(self._source, name)

    async def _unpack(self, host: LibvirtHypervisor, name: str) -> None:
        """Give back what the definition there carries; nothing is done where there is none, or where nobody answers."""
        seen = (await host.evidence(name)).sighting
        if seen is Sighting.ABSENT or not seen.is_proof:
            return
        if await host.ask(lambda connection: carried.is_packed(connection.lookupByName(name))):
            async with self._log.acting(Action.UNPACK, host.host):
                await host.ask(lambda connection: carried.unpack(connection.lookupByName(name)))

    async def _restore_downtime(self) -> None:
        """Give the source's QEMU its own limit back; a guest that is not there any more needs none."""
        if (found := self._found) is not None:
            with contextlib.suppress(SegueError):
                await self._source.ask(lambda _: found.domain.migrateSetMaxDowntime(found.max_downtime_ms))

    async def finish(self) -> None:
        """Take the result of the migrate call, in which the destination was resumed."""
        await self._call.ended()

    async def confirm(self) -> None:
        """Remove what is left on the source; libvirt does it in the call, unless it could not.

        Only when the destination is seen to have the guest.

        Raises:
            HypervisorError: it is not; or the source is not done, as while its daemon, started anew, finds out that its guest has
                left, or nobody sees what it has.
        """
        name = self._spec.guest
        here = await self._source.evidence(name)
        if here.sighting in (Sighting.SWITCHOVER, Sighting.POSTMIGRATE):
            await self._require_arrived()
            async with self._log.acting(Action.END_SOURCE, self._source.host):
                await self._source.ask(lambda connection: connection.lookupByName(name).destroy())
            here = await self._source.evidence(name)
        if not here.sighting.is_idle:
            raise HypervisorError(
                f"{self._source.host} is not done with {name}: it shows it {here.sighting} ({here.raw}).", host=self._source.host
            )
        defined = here.sighting in (Sighting.DEFINED, Sighting.CRASHED)
        if defined and self._spec.undefines(defined=True):
            await self._require_arrived()
            keep = libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM  # the destination has its own copy or shares this one
            async with self._log.acting(Action.UNDEFINE_SOURCE, self._source.host):
                await self._source.ask(lambda connection: connection.lookupByName(name).undefineFlags(keep))
        await self._unpack(self._destination, self._spec.arrives_as)
        await self._unpack(self._source, name)
        if self._disks is not None and await self._arrived():
            arrived = await self._destination.ask(lambda connection: connection.lookupByName(self._spec.arrives_as))
            await self._disks.keep(arrived)

    async def discard(self) -> None:
        """End what is left on both hosts; definitions stay."""
        for host, name, action in (
            (self._source, self._spec.guest, Action.END_SOURCE),
            (self._destination, self._spec.arrives_as, Action.END_DESTINATION),
        ):
            if not (await host.evidence(name)).sighting.is_idle:
                async with self._log.acting(action, host.host):
                    await host.ask(lambda connection, name=name: connection.lookupByName(name).destroy())  # type: ignore[misc]

    async def result(self) -> Progress:
        """The last word of libvirt on it."""
        return self._last

    def moments(self) -> Moments:
        """As QEMU's events came through both libvirtds."""
        return heard.moments(self._ears[self._source.host], self._ears[self._destination.host])

    async def guest_lost_ms(self) -> int | None:
        """As the guest's agent tells the time."""
        return await self._clock.lost_ms()

    async def testimony(self) -> Sequence[Quote]:
        """The end of the guest's log on both hosts."""
        elapsed_s = self._elapsed_ms() / 1000
        addresses = (self._source.address, self._destination.address)
        said = await asyncio.gather(*(guestlog.telling_lines(address, self._spec.guest, elapsed_s) for address in addresses))
        return [quote for quotes in said for quote in quotes]

    async def aclose(self) -> None:
        """Nothing of the attempt runs on but a migrate call that hangs, or that a post-copy needs."""
        await self._clock.aclose()
        self._call.release()
        for host in (self._source, self._destination):
            ear = self._ears[host.host]
            with contextlib.suppress(SegueError):
                await runtime.call(host.host, ear.close, deadline_s=QUERY_DEADLINE_S)

    def _require_found(self) -> Found:
        if self._found is None:
            raise AssertionError("prepare comes first")
        return self._found

    def _elapsed_ms(self) -> int:
        return round((time.monotonic() - self._began) * 1000)


def _in_words(found: Carried) -> str:
    parts = {
        "autostart": found.autostart,
        f"{len(found.snapshots)} snapshots": found.snapshots,
        f"{len(found.checkpoints)} checkpoints": found.checkpoints,
    }
    return ", ".join(words for words, there in parts.items() if there)


def _mib_per_second(bps: int) -> int:
    """In libvirt's unit for bandwidth; 0 would mean no limit."""
    return max(1, -(-bps // units.MIB))
