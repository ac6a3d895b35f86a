"""The protocols of `segue.core.ports` over a simulated `World`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from segue.core.evidence import Evidence, Sighting
from segue.core.model import Control, DriverKind, Guest, GuestState, HostAddress, HostFacts, JobStatus, MigrationSpec, Progress
from segue.core.ports import Hypervisor
from segue.drivers.simulated.world import Stream, World
from segue.errors import HostUnreachable, HypervisorError, PrepareFailed, Unsupported

_STATES = {
    Sighting.RUNNING: GuestState.RUNNING,
    Sighting.POSTCOPY: GuestState.MIGRATING_IN,
    Sighting.INCOMING: GuestState.MIGRATING_IN,
    Sighting.DEFINED: GuestState.SHUT_OFF,
}


class SimulatedHypervisor:
    """One host of a simulated world."""

    def __init__(self, world: World, host: str) -> None:
        self.world = world
        self._host = host

    @property
    def host(self) -> str:
        """The host's name."""
        return self._host

    async def facts(self) -> HostFacts:
        """A host that says it is simulated."""
        return HostFacts(host=self._host, driver=DriverKind.SIMULATED, hypervisor="simulated", identity=self._host)

    async def guests(self) -> Sequence[Guest]:
        """Every guest that shows on this host."""
        return [
            Guest(
                name=guest.name,
                host=self._host,
                driver=DriverKind.SIMULATED,
                state=_STATES.get(guest.copies[self._host], GuestState.PAUSED),
                memory_bytes=guest.memory_bytes,
            )
            for guest in sorted(self.world.guests.values(), key=lambda guest: guest.name)
            if self._host in guest.copies
        ]

    async def evidence(self, guest: str) -> Evidence:
        """What the world holds."""
        await asyncio.sleep(0)
        if self._host in self.world.unreachable:
            sighting = Sighting.UNREACHABLE
        elif guest in self.world.guests:
            sighting = self.world.guests[guest].copies.get(self._host, Sighting.ABSENT)
        else:
            sighting = Sighting.ABSENT
        return Evidence(host=self._host, sighting=sighting, seen_at_ms=self.world.now_ms, raw=f"simulated: {sighting}")

    async def aclose(self) -> None:
        """Nothing to close."""


class SimulatedDriver:
    """Hosts of one world, reached as ``sim://HOST``.

    Args:
        world: shared by all who rehearse together; a new one with two empty hosts when not given.
    """

    def __init__(self, world: World | None = None) -> None:
        self.world = world or World()

    async def connect(self, address: HostAddress, *, deadline_s: float) -> SimulatedHypervisor:
        """Reach a host of the world."""
        host = address.uri.removeprefix("sim://")
        if host not in self.world.hosts or host in self.world.unreachable:
            raise HostUnreachable(f"{address.name} did not answer within {deadline_s:g} s.", host=address.name)
        return SimulatedHypervisor(self.world, host)

    def attempt(self, spec: MigrationSpec, source: Hypervisor, destination: Hypervisor) -> SimulatedAttempt:
        """An attempt in this world."""
        if spec.control is not Control.DIRECT:
            raise Unsupported(f"The simulated driver knows direct control only, not {spec.control}.")
        return SimulatedAttempt(self.world, spec, source.host, destination.host)


class SimulatedAttempt:
    """One simulated migration in five phases, in the way of bare QEMU: only `finish` lets the destination run."""

    def __init__(self, world: World, spec: MigrationSpec, source: str, destination: str) -> None:
        self._world = world
        self._guest = world.guests[spec.guest]
        self._source = source
        self._destination = destination
        self._stream = Stream(
            world=world,
            guest=self._guest,
            max_downtime_ms=spec.limits.max_downtime_ms,
            bandwidth_bps=spec.limits.bandwidth_bps,
            left_bytes=self._guest.memory_bytes,
            began_ms=world.now_ms,
        )
        self._started = False

    def _fail_if_broken(self, step: str) -> None:
        if step in self._world.broken:
            kind = PrepareFailed if step == "prepare" else None
            message = f"The simulated {step} was told to fail."
            raise kind(message) if kind else HypervisorError(message, host=self._source)

    async def prepare(self) -> None:
        """The destination listens."""
        await asyncio.sleep(0)
        self._world.show(self._guest.name, self._destination, Sighting.INCOMING)
        self._fail_if_broken("prepare")

    async def perform(self) -> AsyncIterator[Progress]:
        """Sample by sample, `TICK_MS` of simulated time apart."""
        self._fail_if_broken("perform")
        self._started = True
        while not self._stream.status.is_final:
            self._stream.tick()
            if self._stream.status is JobStatus.COMPLETED:
                self._hand_over()
            yield self._stream.sample()
            await asyncio.sleep(0)

    def _hand_over(self) -> None:
        self._world.show(self._guest.name, self._source, Sighting.POSTMIGRATE)
        if self._guest.copies.get(self._destination) is Sighting.INCOMING:
            self._world.show(self._guest.name, self._destination, Sighting.SWITCHOVER)

    async def start_postcopy(self) -> None:
        """The destination executes from now on; the source keeps what is left."""
        if self._stream.status is JobStatus.ACTIVE:
            self._stream.status = JobStatus.POSTCOPY
            self._stream.downtime_ms = 0
            self._world.show(self._guest.name, self._source, Sighting.POSTCOPY_PAUSED)
            self._world.show(self._guest.name, self._destination, Sighting.POSTCOPY)

    async def set_max_downtime(self, ms: int) -> None:
        """From the next iteration on."""
        self._stream.max_downtime_ms = ms

    async def set_bandwidth(self, bps: int) -> None:
        """From the next sample on."""
        self._stream.bandwidth_bps = bps

    async def cancel(self) -> None:
        """Ends the stream while it is still pre-copy."""
        if self._started and self._stream.status is JobStatus.ACTIVE:
            self._stream.status = JobStatus.CANCELLED

    async def roll_back(self) -> None:
        """The destination forgets what it never ran; the source goes on."""
        self._fail_if_broken("roll_back")
        copies = self._guest.copies
        if copies.get(self._destination) in (Sighting.INCOMING, Sighting.SWITCHOVER):
            self._world.show(self._guest.name, self._destination, Sighting.ABSENT)
        if self._destination not in copies and copies.get(self._source) is Sighting.POSTMIGRATE:
            self._world.show(self._guest.name, self._source, Sighting.RUNNING)

    async def finish(self) -> None:
        """The destination runs."""
        self._fail_if_broken("finish")
        self._world.show(self._guest.name, self._destination, Sighting.RUNNING)

    async def confirm(self) -> None:
        """The source forgets the guest."""
        self._fail_if_broken("confirm")
        self._world.show(self._guest.name, self._source, Sighting.ABSENT)

    async def result(self) -> Progress:
        """The last sample."""
        return self._stream.sample()

    async def aclose(self) -> None:
        """Nothing to let go of."""
