"""The protocols of `segue.core.ports` over a simulated `World`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from segue.core.causes import Quote
from segue.core.downtime import Moments
from segue.core.evidence import Evidence, Sighting
from segue.core.measured import Range, Touched, Window
from segue.core.mends import Mend, Mended
from segue.core.model import Control, DriverKind, Guest, GuestState, HostAddress, HostFacts, JobStatus, MigrationSpec, Progress
from segue.core.ports import ActionLog, Hypervisor
from segue.core.preflight.facts import Cpu, HostMemory, Memory, Objection, Offer, Parts, Standing
from segue.core.record import Action, Settings
from segue.drivers.simulated.world import SimGuest, Stream, World
from segue.errors import HostUnreachable, HypervisorError, PrepareFailed, Unsupported

_STATES = {
    Sighting.RUNNING: GuestState.RUNNING,
    Sighting.POSTCOPY: GuestState.MIGRATING_IN,
    Sighting.INCOMING: GuestState.MIGRATING_IN,
    Sighting.DEFINED: GuestState.SHUT_OFF,
    Sighting.CRASHED: GuestState.SHUT_OFF,
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

    async def identity(self) -> str:
        """Its name: there is one world."""
        return self._host

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

    async def standing(self, guest: str) -> Standing:
        """A guest of the world has nothing but its state."""
        [found] = [one for one in await self.guests() if one.name == guest]
        return Standing(state=found.state)

    async def parts(self, guest: str) -> Parts:
        """Memory, and nothing else."""
        memory = Memory(total_bytes=self.world.guests[guest].memory_bytes)
        return Parts(machine="simulated", accelerator="simulated", memory=memory, cpu=Cpu(), types=frozenset(), blocked=())

    async def offer(self, wanted: Parts) -> Offer:
        """Room for any guest of the world."""
        return Offer(
            qemu=wanted.qemu,
            machines=frozenset({wanted.machine}),
            accelerators=frozenset({wanted.accelerator}),
            memory=HostMemory(available_bytes=wanted.memory.total_bytes),
            lacking=(),
            types=frozenset(),
            cpus=wanted.cpu.count,
        )

    async def before(self, guest: str, mend: Mend) -> str:
        """What is taken away is the name of the thing."""
        return f"{guest}: {mend.target}"

    async def mend(self, guest: str, mend: Mend) -> None:
        """Take it away."""
        if "mend" in self.world.broken:
            raise HypervisorError("The simulated mend was told to fail.", host=self._host)
        self.world.mended.add(f"{guest}: {mend.target}")

    async def unmend(self, guest: str, mended: Mended) -> None:  # noqa: ARG002  # it is in what was written down
        """Put it back."""
        self.world.mended.discard(mended.before)

    async def touched(self, guest: str) -> Touched:
        """All of it is in use."""
        count = self._running(guest).memory_bytes
        return Touched(bytes=Range(low=count, likely=count, high=count), how="simulated")

    async def dirtied(self, guest: str, *, seconds: int) -> Window:
        """What its model says; time passes only when a migration is looked at."""
        await asyncio.sleep(0)
        return Window(ms=seconds * 1000, dirtied_bytes=self._running(guest).dirtied(seconds * 1000))

    def _running(self, guest: str) -> SimGuest:
        found = self.world.guests.get(guest)
        if found is None or found.copies.get(self._host) is not Sighting.RUNNING:
            raise HypervisorError(f"{guest} does not run on {self._host}.", host=self._host)
        return found

    async def start(self, guest: str) -> None:
        """Let a guest run that is defined here."""
        copies = self.world.guests[guest].copies if guest in self.world.guests else {}
        if copies.get(self._host) is not Sighting.DEFINED:
            raise HypervisorError(f"{self._host} has no definition of {guest}.", host=self._host)
        self.world.show(guest, self._host, Sighting.RUNNING)

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

    async def objections(self, spec: MigrationSpec, destination: Hypervisor) -> tuple[Objection, ...]:  # noqa: ARG002
        """Everything can be done here."""
        return ()

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

    def attempt(self, spec: MigrationSpec, source: Hypervisor, destination: Hypervisor, log: ActionLog) -> SimulatedAttempt:
        """An attempt in this world."""
        if spec.control is not Control.DIRECT:
            raise Unsupported(f"The simulated driver knows direct control only, not {spec.control}.")
        return SimulatedAttempt(self.world, spec, source.host, destination.host, log)


class SimulatedAttempt:
    """One simulated migration in five phases, in the way of bare QEMU: only `finish` lets the destination run."""

    def __init__(self, world: World, spec: MigrationSpec, source: str, destination: str, log: ActionLog) -> None:
        self._world = world
        self._spec = spec
        self._guest = world.guests[spec.guest]
        self._source = source
        self._destination = destination
        self._log = log
        self._reattached = False
        self._told_to_run = False
        self._last = Progress(elapsed_ms=0, status=JobStatus.NONE)

    def _fail_if_broken(self, step: str) -> None:
        if step in self._world.broken:
            kind = PrepareFailed if step == "prepare" else None
            message = f"The simulated {step} was told to fail."
            raise kind(message) if kind else HypervisorError(message, host=self._source)

    def _shows(self, host: str) -> Sighting:
        """What a host shows of the guest.

        Raises:
            HypervisorError: it does not answer.
        """
        if host in self._world.unreachable:
            raise HypervisorError(f"{host} does not answer.", host=host)
        return self._guest.copies.get(host, Sighting.ABSENT)

    async def prepare(self) -> None:
        """The destination listens."""
        async with self._log.acting(Action.LAUNCH_DESTINATION, self._destination):
            self._shows(self._destination)
            self._world.show(self._guest.name, self._destination, Sighting.INCOMING)
        self._fail_if_broken("prepare")

    async def reattach(self, *, told_to_run: bool) -> None:
        """The job is the guest's: it is there, or it is not."""
        await asyncio.sleep(0)
        self._reattached, self._told_to_run = True, told_to_run

    async def perform(self) -> AsyncIterator[Progress]:
        """Sample by sample, `TICK_MS` of simulated time apart."""
        if not self._reattached:
            async with self._log.acting(Action.START, self._source):
                self._fail_if_broken("perform")
                self._start()
        if self._guest.job is None:
            yield self._last
            return
        while True:
            self._last = self._tick()
            yield self._last
            if self._last.status.is_final:
                return
            await asyncio.sleep(0)

    def _start(self) -> None:
        limits = self._spec.limits
        before = self._guest.job
        self._guest.job = Stream(
            world=self._world,
            guest=self._guest,
            max_downtime_ms=self._spec.first_downtime_ms,
            bandwidth_bps=limits.bandwidth_bps,
            left_bytes=self._guest.memory_bytes,
            began_ms=self._world.now_ms,
            deltas=self._spec.deltas,
            saved_bytes=before.saved_bytes if before and before.status is not JobStatus.COMPLETED else 0,  # that QEMU counts on
        )

    def _job(self) -> Stream:
        if self._guest.job is None:
            raise HypervisorError(f"{self._source} sends nothing.", host=self._source)
        return self._guest.job

    def _tick(self) -> Progress:
        """Let some time pass, with what both hosts do in it."""
        job = self._job()
        here, there = self._guest.copies.get(self._source), self._guest.copies.get(self._destination)
        if here is None:
            raise HypervisorError(f"The guest is gone from {self._source}.", host=self._source)
        if not job.status.is_final and there is None:
            job.status = JobStatus.FAILED
        job.tick()
        if job.status is JobStatus.COMPLETED and here is not Sighting.POSTMIGRATE:
            self._hand_over()
        return job.sample()

    def _hand_over(self) -> None:
        self._world.show(self._guest.name, self._source, Sighting.POSTMIGRATE)
        match self._guest.copies.get(self._destination):
            case Sighting.INCOMING:
                self._world.show(self._guest.name, self._destination, Sighting.SWITCHOVER)
            case Sighting.POSTCOPY:
                self._world.show(self._guest.name, self._destination, Sighting.RUNNING)

    async def start_postcopy(self, *, background_bps: int | None = None) -> None:
        """The destination executes from now on; the source keeps what is left."""
        if self._job().status is JobStatus.ACTIVE:
            async with self._log.acting(Action.START_POSTCOPY, self._source):
                job = self._job()
                if job.status is not JobStatus.ACTIVE:
                    raise HypervisorError("There is nothing left for post-copy.", host=self._source)
                job.status, job.downtime_ms, job.bandwidth_bps = JobStatus.POSTCOPY, 0, background_bps
                self._world.show(self._guest.name, self._source, Sighting.POSTCOPY)
            async with self._log.acting(Action.RESUME_DESTINATION, self._destination):
                self._told_to_run = True
                arrived = job.status is JobStatus.COMPLETED  # all of it, while this was written down
                self._world.show(self._guest.name, self._destination, Sighting.RUNNING if arrived else Sighting.POSTCOPY)

    async def recover_postcopy(self) -> None:
        """Goes on where the link carries again."""
        async with self._log.acting(Action.RECOVER_POSTCOPY, self._source):
            if self._world.cut:
                raise HypervisorError("The link does not carry.", host=self._source)
            self._job().status = JobStatus.POSTCOPY

    async def set_max_downtime(self, ms: int) -> None:
        """From the next iteration on."""
        async with self._log.acting(Action.TUNE, f"downtime limit {ms} ms"):
            self._job().max_downtime_ms = ms

    async def set_bandwidth(self, bps: int) -> None:
        """From the next sample on."""
        async with self._log.acting(Action.TUNE, f"bandwidth {bps} B/s"):
            self._job().bandwidth_bps = bps

    async def set_throttle(self, percent: int) -> None:
        """From the next iteration on."""
        if not self._spec.limits.auto_converge:
            raise HypervisorError("Auto-converge was not allowed from the start.", host=self._source)
        async with self._log.acting(Action.TUNE, f"slow the guest by {percent} %"):
            self._job().throttle_percent = percent

    async def settings(self) -> Settings:
        """What the job works by."""
        job = self._job()
        return Settings(bandwidth_bps=job.bandwidth_bps, max_downtime_ms=job.max_downtime_ms, postcopy=self._spec.limits.postcopy)

    async def cancel(self) -> None:
        """Ends the stream while it is still pre-copy."""
        job = self._guest.job
        if job is not None and job.status is JobStatus.ACTIVE:
            async with self._log.acting(Action.CANCEL, self._source):
                job.status = JobStatus.CANCELLED

    async def roll_back(self) -> None:
        """The destination forgets what it never ran; the source goes on."""
        self._fail_if_broken("roll_back")
        if self._told_to_run:
            return
        await self.cancel()
        if self._shows(self._destination) in (Sighting.INCOMING, Sighting.SWITCHOVER):
            if self._shows(self._source) is Sighting.ABSENT and self._shows(self._destination) is Sighting.SWITCHOVER:
                return  # the only whole guest there is
            async with self._log.acting(Action.END_DESTINATION, self._destination):
                self._world.show(self._guest.name, self._destination, Sighting.ABSENT)
        if self._shows(self._destination) is Sighting.ABSENT and self._shows(self._source) is Sighting.POSTMIGRATE:
            async with self._log.acting(Action.RESUME_SOURCE, self._source):
                self._world.show(self._guest.name, self._source, Sighting.RUNNING)

    async def finish(self) -> None:
        """The destination runs."""
        self._fail_if_broken("finish")
        if self._shows(self._destination) is Sighting.RUNNING:
            return
        if self._shows(self._source) not in (Sighting.POSTMIGRATE, Sighting.ABSENT):
            raise HypervisorError(f"{self._source} has not let go of the guest.", host=self._source)
        if self._shows(self._destination) is not Sighting.SWITCHOVER:
            raise HypervisorError(f"{self._destination} does not hold the guest.", host=self._destination)
        async with self._log.acting(Action.RESUME_DESTINATION, self._destination):
            self._told_to_run = True
            self._world.show(self._guest.name, self._destination, Sighting.RUNNING)

    async def confirm(self) -> None:
        """The source forgets the guest."""
        self._fail_if_broken("confirm")
        if self._shows(self._destination) is not Sighting.RUNNING:
            raise HypervisorError("The guest was not seen to run there.", host=self._destination)
        if self._shows(self._source) is not Sighting.ABSENT:
            async with self._log.acting(Action.END_SOURCE, self._source):
                self._world.show(self._guest.name, self._source, Sighting.ABSENT)

    async def discard(self) -> None:
        """Both hosts forget it."""
        for host, action in ((self._source, Action.END_SOURCE), (self._destination, Action.END_DESTINATION)):
            if self._shows(host) is not Sighting.ABSENT:
                async with self._log.acting(action, host):
                    self._world.show(self._guest.name, host, Sighting.ABSENT)

    async def result(self) -> Progress:
        """The last sample."""
        return self._last

    def moments(self) -> Moments:
        """The simulated world tells none."""
        return Moments()

    async def guest_lost_ms(self) -> int | None:
        """The simulated guest has no clock."""
        return None

    async def testimony(self) -> Sequence[Quote]:
        """Nobody writes anything here."""
        return ()

    async def aclose(self) -> None:
        """Nothing to let go of."""
