"""One migration of a bare QEMU, in five phases of our own: only Segue lets the destination run.

Three rules keep the guest in one place. The destination is started with ``-S``, so it stands still when everything has arrived,
and it stands still if Segue dies. It is told to run only after the source has let go of the guest, and that is remembered
before it is told. And it is ended only while it was never told to run and the source still holds a whole guest.

The one moment at which it must not wait for `finish` is post-copy: its source has stopped by then, and every millisecond is
downtime.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Final

from segue.core import argv, causes, deltas
from segue.core import twin as core_twin
from segue.core.causes import Quote
from segue.core.causes.codes import JOB
from segue.core.downtime import Moments
from segue.core.evidence import Sighting
from segue.core.model import JobStatus, MigrationSpec, Progress, Transport
from segue.core.ports import ActionLog
from segue.core.record import Action, Settings
from segue.drivers.qemu import channel, fold, hosting, launch, processes, setup, storage, twin
from segue.drivers.qemu.channel import Channel
from segue.drivers.qemu.hypervisor import QemuHypervisor
from segue.drivers.qemu.processes import Process
from segue.drivers.qemu.session import Session, absolute
from segue.drivers.qemu.storage import DiskCopy
from segue.errors import AnswerNotSeen, HypervisorError, LeaseLost, PrepareFailed, SegueError

SAMPLE_S: Final = 0.2
"""The longest time between two samples (core/ports.py)."""
NEWS_S: Final = 0.12
"""Without an event QEMU is asked after this long, so that its answer is there in time for the sample."""
SETTLE_DEADLINE_S: Final = 20.0
"""For QEMU to end a cancelled job, to leave ``finish-migrate`` or to run after ``cont``: milliseconds of work, which slow storage
may hold up."""
RESUME_PAUSE_S: Final = 0.002
"""Between two looks at a destination that is about to get the guest: each ms is downtime, and QEMU has no event for it."""

_OVER: Final = (JobStatus.NONE, JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)
_STANDS_FOR_MIGRATION: Final = ("postmigrate", "finish-migrate")
# What a source shows that has let go of the guest for good.
_LET_GO: Final = frozenset({Sighting.ABSENT, Sighting.POSTMIGRATE, Sighting.POSTCOPY, Sighting.POSTCOPY_PAUSED})
# What the destination shows → what the source must show for the destination to be ended. While it waits or receives it is of no
# use to anybody; once it holds a whole guest it may be the only one that does.
_MAY_BE_ENDED: Final = {
    Sighting.INCOMING: frozenset(sighting for sighting in Sighting if sighting.is_proof),
    Sighting.SWITCHOVER: frozenset({Sighting.RUNNING, Sighting.PAUSED, Sighting.SWITCHOVER, Sighting.POSTMIGRATE}),
}


ANNOUNCE: Final = {"initial": 50, "max": 550, "rounds": 5, "step": 100}
"""QEMU's own defaults (migration/options.c, announce-*), in ms. It announces a network by itself when all has arrived, but a
guest that is told to run only then was seen to be unreachable for 650 ms more: switches had not listened yet."""


class QemuAttempt:
    """One migration between two hosts whose QEMUs nobody manages.

    Args:
        spec: what was asked for.
        source, destination: both hosts; their sessions are shared with whoever asks them for evidence.
        log: is told each action before it is done.
    """

    def __init__(self, spec: MigrationSpec, source: QemuHypervisor, destination: QemuHypervisor, log: ActionLog) -> None:
        self._spec = spec
        self._log = log
        self._source = source
        self._destination = destination
        self._disks = DiskCopy(spec.disks, spec.id, source.shell, destination.shell, log) if spec.disks else None
        self._began = time.monotonic()
        self._held = AsyncExitStack()
        self._leaving: Process | None = None
        self._arriving: Process | None = None
        self._launching = False
        self._reattached = False
        self._channel: Channel | None = None
        self._capabilities: frozenset[str] = frozenset()
        self._parameters: dict[str, str | int] = {}
        self._can: dict[str, bool] = {}
        self._listens = ""
        self._looking: asyncio.Task[Progress] | None = None
        self._postcopy_asked = False
        self._level = False
        self._told_to_run = False
        self._seen_running = False
        self._moments = Moments()
        self._heard: tuple[Quote, ...] = ()
        self._last = Progress(elapsed_ms=0, status=JobStatus.NONE)

    # prepare

    async def prepare(self) -> None:
        """Start the destination with the guest's own command line, and let it listen."""
        try:
            leaving = self._leaving = await self._source.lately(self._spec.guest)
            here = await self._held.enter_async_context(self._source.sessions.use(leaving))
            source, destination = self._source.shell, self._destination.shell
            overrides = self._spec.overrides
            renamed = core_twin.renamed(leaving.line, overrides)
            (aliases, default), address, self._can, observed, looks, _ = await asyncio.gather(
                setup.machines(here),
                self._data_address(),
                setup.capabilities(here),
                twin.observe(here, renamed),
                twin.first_look(source, destination, leaving),
                self._see_both(leaving),
            )
            copied = await self._disks.create(here, leaving.cwd) if self._disks else frozenset()
            (command, moved), remembered, _ = await asyncio.gather(
                twin.command(here, leaving, observed, looks[1].taken, overrides, aliases=aliases, default=default),
                self._remembered_bytes(here, leaving),
                twin.check_files(source, destination, leaving, observed.live, looks, copied=copied, renamed=renamed),
            )
            arriving = self._arriving = await self._launch(leaving, command)
            there = await self._held.enter_async_context(self._destination.sessions.use(arriving))
            twin.check_same(observed.shape, await twin.shape(there), names=(self._source.host, self._destination.host))
            async with self._log.acting(Action.LISTEN, "; ".join((self._destination.host, *moved))):
                can = await setup.capabilities(there)
                self._capabilities = setup.negotiate(self._can, can, replace(self._spec, deltas=bool(remembered)))
                self._parameters = await setup.parameters(here, there, self._spec)
                if "xbzrle" in self._capabilities and remembered:
                    self._parameters |= setup.remembering(remembered)
                await setup.set_capabilities(there, can, self._capabilities)
                self._listens = await self._way().receive(there, address)
            if self._disks:
                await self._disks.export(there, arriving.cwd, address)
        except (PrepareFailed, LeaseLost):
            raise
        except SegueError as error:
            said = await self._last_words()
            if said and await self._has_ended():
                raise processes.not_started(self._destination.host, said) from error
            raise PrepareFailed(
                f"{error.message}{self._quoted(said)}",
                guest_at=f"it is on {self._source.host}, untouched",
                hint=error.hint,
            ) from error

    async def _remembered_bytes(self, here: Session, leaving: Process) -> int:
        """How much of what was sent the source is to remember, to send only what changes in it; 0: nothing."""
        if not self._spec.deltas:
            return 0
        spare, size = await asyncio.gather(
            hosting.spare_bytes(self._source.shell, leaving), here.query("query-memory-size-summary")
        )
        guest_bytes = sum(one for one in size.values() if isinstance(one, int))
        return deltas.remembered_bytes(guest_bytes, spare)

    async def _data_address(self) -> str:
        """Where the destination is to receive; empty where no port is opened."""
        if self._spec.transport is Transport.TUNNELLED:
            return ""
        there = self._destination
        return await setup.data_address(self._source.shell, there.shell, there.address.migration_address)

    def _way(self) -> Channel:
        if self._channel is None:
            process = self._need(self._leaving or self._arriving)
            self._channel = channel.of(self._spec, self._source, self._destination, process)
        return self._channel

    async def _close_channel(self, host: QemuHypervisor, process: Process | None) -> None:
        """Remove what the channel made, now that the guest stays with that QEMU; a plain one made nothing."""
        if process is None or self._spec.transport is Transport.NATIVE:
            return
        async with self._log.acting(Action.CLOSE_CHANNEL, host.host), host.sessions.use(process) as session:
            await self._way().close(session)

    async def _see_both(self, leaving: Process) -> None:
        """See that this is still the guest, and the only one.

        Raises:
            PrepareFailed: it is not.
        """
        guest = self._spec.guest
        here, there = await asyncio.gather(self._source.process(guest), self._destination.process(guest))
        if here is None or here.key != leaving.key:
            raise PrepareFailed(f"{guest} is gone from {self._source.host}.")
        if there is not None:
            raise PrepareFailed(f"{self._destination.host} already has a guest {guest} (pid {there.pid}).")

    async def _launch(self, leaving: Process, command: argv.CommandLine) -> Process:
        monitor = absolute(leaving, argv.qmp_path(command) or "")
        async with self._log.acting(Action.LAUNCH_DESTINATION, f"{self._destination.host}, monitor {monitor}"):
            self._launching = True
            return await processes.start(self._destination.shell, command, monitor=monitor, like=leaving)

    async def _has_ended(self) -> bool:
        """A destination may end after it began to listen: QEMU makes its monitor before most of its devices."""
        with contextlib.suppress(SegueError):
            return await self._destination.process(self._spec.guest) is None
        return False

    async def _last_words(self) -> str:
        """What the destination's QEMU wrote; empty when there is nothing to quote. What the source's wrote is kept, too."""
        theirs, ours = await asyncio.gather(
            self._written_by(self._destination, self._arriving), self._written_by(self._source, self._leaving)
        )
        self._heard = tuple(
            Quote(host=host.host, where="QEMU", text=line)
            for host, said in ((self._destination, theirs), (self._source, ours))
            for line in causes.telling(said.splitlines())
        )
        return theirs

    async def _written_by(self, host: QemuHypervisor, process: Process | None) -> str:
        if process is not None:
            with contextlib.suppress(SegueError):
                return await processes.last_words(host.shell, process, since_s=time.monotonic() - self._began)
        return ""

    def _quoted(self, said: str) -> str:
        """That as part of a sentence."""
        return f" QEMU on {self._destination.host} says: {said}" if said else ""

    async def reattach(self, *, told_to_run: bool) -> None:
        """Find both QEMUs again. What the other process had asked of them shows in their answers."""
        guest = self._spec.guest
        self._leaving, self._arriving = await asyncio.gather(self._source.process(guest), self._destination.process(guest))
        self._reattached = self._launching = True
        self._told_to_run = told_to_run
        for host, process in ((self._source, self._leaving), (self._destination, self._arriving)):
            if process is not None:
                session = await self._held.enter_async_context(host.sessions.use(process))
                if self._disks:
                    await self._disks.find(session, process.cwd, on_destination=host is self._destination)

    # perform

    async def perform(self) -> AsyncIterator[Progress]:
        """Send, and report on every event, and every 200 ms even when QEMU does not answer."""
        if self._reattached:
            self._last = await self._look(news_s=0)
            if self._last.status is JobStatus.COMPLETED and not await self._stands():
                self._last = replace(self._last, status=JobStatus.NONE)
            if self._last.status is JobStatus.NONE:
                yield self._last
                return
        else:
            if self._disks:
                async for sample in self._sampled(self._copy, lambda _: self._level):
                    yield sample
            await self._start()
        async for sample in self._sampled(self._send, lambda sample: sample.status.is_final):
            yield sample
        if self._last.status is JobStatus.FAILED:
            raise await self._why_failed()

    async def _sampled(
        self, look: Callable[[float], Awaitable[Progress]], is_over: Callable[[Progress], bool]
    ) -> AsyncIterator[Progress]:
        """Look again and again, and give the last sample once more when a look takes too long."""
        looking = self._looking = asyncio.ensure_future(look(0))
        while True:
            done, _ = await asyncio.wait([looking], timeout=SAMPLE_S)
            self._last = looking.result() if done else replace(self._last, elapsed_ms=self._elapsed_ms())
            yield self._last
            if done and is_over(self._last):
                break
            if done:
                looking = self._looking = asyncio.ensure_future(look(NEWS_S))

    async def _copy(self, news_s: float) -> Progress:
        """Copy disks until all that is left is what the guest writes; the first look begins it."""
        async with self._source.sessions.use(self._need(self._leaving)) as here:
            if news_s:
                await here.woken(timeout_s=news_s)
            elif self._disks:
                await self._disks.start(here)
            return await self._follow_disks(here, Progress(elapsed_ms=self._elapsed_ms(), status=JobStatus.SETUP))

    async def _send(self, news_s: float) -> Progress:
        """One look at what is sent, disks too."""
        sample = await self._look(news_s=news_s)
        if sample.status is not JobStatus.ACTIVE:
            return replace(sample, disk_total_bytes=self._last.disk_total_bytes, disk_copied_bytes=self._last.disk_copied_bytes)
        async with self._source.sessions.use(self._need(self._leaving)) as here:
            return await self._follow_disks(here, sample)

    async def _follow_disks(self, here: Session, sample: Progress) -> Progress:
        if self._disks is None:
            return sample
        copied = await self._disks.follow(here)
        self._level = copied.ready
        return replace(sample, disk_total_bytes=copied.total_bytes, disk_copied_bytes=copied.copied_bytes)

    async def _start(self) -> None:
        async with self._source.sessions.use(self._need(self._leaving)) as here:
            agreed = {**self._parameters, **setup.compression(self._spec)} if self._spec.connections > 1 else self._parameters
            told = ", ".join([*sorted(self._capabilities), *(f"{name} {value}" for name, value in agreed.items())])
            async with self._log.acting(Action.SET_UP_SOURCE, f"{self._source.host}: {told}"):
                await setup.set_capabilities(here, self._can, self._capabilities)
                await setup.set_limits(here, self._spec, agreed=self._parameters)
                uri = await self._way().send(here)
            async with self._log.acting(Action.START, f"{self._source.host} to {self._listens}"):
                await here.execute("migrate", {"uri": uri})
        self._last = replace(self._last, status=JobStatus.SETUP, elapsed_ms=self._elapsed_ms())

    async def _look(self, *, news_s: float) -> Progress:
        """Ask the source, after an event or after so long; and where it went over to post-copy, let the destination run."""
        async with self._source.sessions.use(self._need(self._leaving)) as here:
            if news_s:
                await here.woken(timeout_s=news_s)
            migration = await here.query("query-migrate")
            if self._disks and migration.get("status") == storage.STANDS:
                async with self._destination.sessions.use(self._need(self._arriving)) as there:
                    await self._disks.hand_over(here, there)
            self._hear(here, migration)
            if fold.status_of(migration) is JobStatus.POSTCOPY and not self._told_to_run:
                await self._run_in_postcopy(here)
        return fold.progress(migration, elapsed_ms=self._elapsed_ms())

    def _hear(self, here: Session, migration: Mapping[str, object]) -> None:
        """Take down when the source stopped the guest, and when it said that the destination has what it needs to run it."""
        if self._moments.arrived_ms is None and fold.status_of(migration) in (JobStatus.COMPLETED, JobStatus.POSTCOPY):
            self._moments = Moments(
                stopped_ms=here.heard_ms("STOP"),
                arrived_ms=time.monotonic_ns() // 1_000_000,
                last_pass_bytes=fold.last_pass_bytes(migration),
                last_pass_bps=self._last.throughput_bps,
            )

    async def _run_in_postcopy(self, here: Session) -> None:
        """Let the destination run as soon as it holds the guest.

        With -S it stays paused when it is handed the guest (QEMU, loadvm_postcopy_handle_run_bh), and nobody executes it:
        this cannot wait for `finish`. Nor may it come early: in ``inmigrate`` QEMU 7.2 opens the disks for writing at once on
        ``cont`` (seen: 'Failed to get "write" lock'), and the source may not have let go of them yet. The source is asked after
        the destination, so that a post-copy which failed at its very start, and which the source undid, is seen.
        """
        async with self._destination.sessions.use(self._need(self._arriving)) as there:
            try:
                async with asyncio.timeout(SAMPLE_S):  # the next look tries again
                    while (await there.query("query-status")).get("status") == "inmigrate":  # noqa: ASYNC110  # no event
                        await asyncio.sleep(RESUME_PAUSE_S)
            except TimeoutError:
                return
            status = fold.status_of(await here.query("query-migrate"))
            if status in (JobStatus.POSTCOPY, JobStatus.COMPLETED):
                await self._tell_to_run(there)

    async def _stands(self) -> bool:
        """Whether the source stands because of a migration.

        QEMU keeps the status of the last one: also that by which the guest came here, and one that was handed over and undone. So
        one that is completed is not this one's where the guest runs, or was stopped by somebody else.
        """
        async with self._source.sessions.use(self._need(self._leaving)) as here:
            return (await here.query("query-status")).get("status") in _STANDS_FOR_MIGRATION

    async def _why_failed(self) -> HypervisorError:
        async with self._source.sessions.use(self._need(self._leaving)) as here:
            why = fold.said((await here.query("query-migrate")).get("error-desc")).rstrip(".") or "it does not say why"
        return HypervisorError(
            f"QEMU on {self._source.host} gave the migration up: {why}.{self._quoted(await self._last_words())}",
            host=self._source.host,
            raw=why,
            number=JOB,
        )

    async def start_postcopy(self, *, background_bps: int | None = None) -> None:
        """Ask for post-copy now; from here on it may begin at any moment, whatever is answered."""
        async with self._log.acting(Action.START_POSTCOPY, self._source.host):
            if background_bps is not None:
                with contextlib.suppress(HypervisorError):  # before QEMU 3.0
                    await self._tell_source("migrate-set-parameters", {"max-postcopy-bandwidth": background_bps})
            self._postcopy_asked = True
            await self._tell_source("migrate-start-postcopy")

    async def recover_postcopy(self) -> None:
        """Let the destination listen again and the source resume there (QEMU, docs/devel/migration/postcopy: recovery).

        A side that has not noticed yet that its peer is gone is told so; both then keep what they have. The destination is told
        out of band: its main loop may stand still, waiting for a page of the guest.
        """
        async with (
            self._log.acting(Action.RECOVER_POSTCOPY, f"{self._source.host} to {self._destination.host}"),
            self._source.sessions.use(self._need(self._leaving)) as here,
            self._destination.sessions.use(self._need(self._arriving)) as there,
        ):
            for session in (here, there):
                with contextlib.suppress(HypervisorError):  # it has noticed already
                    await session.execute("migrate-pause", out_of_band=True)
            uri = await self._way().receive_again(there, await self._data_address())
            await here.execute("migrate", {"uri": uri, "resume": True})

    async def settings(self) -> Settings:
        """What the source's QEMU says that it does."""
        async with self._source.sessions.use(self._need(self._leaving)) as here:
            return await setup.read_back(here)

    async def set_max_downtime(self, ms: int) -> None:
        """From now on."""
        async with self._log.acting(Action.TUNE, f"downtime limit {ms} ms"):
            await self._tell_source("migrate-set-parameters", {"downtime-limit": ms})

    async def set_bandwidth(self, bps: int) -> None:
        """From now on."""
        async with self._log.acting(Action.TUNE, f"bandwidth {bps} B/s"):
            await self._tell_source("migrate-set-parameters", setup.bandwidth(bps))

    async def set_throttle(self, percent: int) -> None:
        """From the next time that QEMU finds the guest too quick: twice more than half of what was sent was dirtied meanwhile."""
        if not self._spec.limits.auto_converge:
            raise HypervisorError(
                f"QEMU of {self._spec.guest} was not made ready to slow it when the migration began.", host=self._source.host
            )
        async with self._log.acting(Action.TUNE, f"slow the guest by {percent} %"):
            await self._tell_source("migrate-set-parameters", setup.throttle(percent))

    async def _tell_source(self, command: str, arguments: dict[str, int] | None = None) -> None:
        async with self._source.sessions.use(self._need(self._leaving)) as here:
            await here.execute(command, arguments)

    # the way back

    async def cancel(self) -> None:
        """Cancel, and wait until QEMU's job has ended.

        Once post-copy was asked for, to cancel may be to lose the guest: QEMU 7.2 takes ``migrate_cancel`` even while post-copy
        runs. Then this only follows the job to its end, letting the destination run when it must.
        """
        if self._leaving is None or self._told_to_run:
            return
        if self._reattached:
            self._last = await self._look(news_s=0)
        if self._last.status in _OVER:
            return
        if not self._postcopy_asked:
            async with self._log.acting(Action.CANCEL, self._source.host):
                await self._tell_source("migrate_cancel")
        async with self._within("cancelling", self._source.host):
            while self._last.status not in _OVER and not self._told_to_run:
                self._last = await self._look(news_s=NEWS_S)

    async def roll_back(self) -> None:
        """End a destination that was never told to run, and only after it is gone let the source go on."""
        if self._told_to_run or self._leaving is None:
            return
        if self._disks and await self._source.process(self._spec.guest) is not None:
            await self.cancel()  # a source that waits before its switchover notices nothing
            async with self._source.sessions.use(self._leaving) as here:
                await self._disks.abandon(here)
        if self._launching and not await self._end_destination():
            return
        if await self._destination.process(self._spec.guest) is None:
            await self._resume_source()
            if self._disks:
                await self._disks.remove()
            await self._close_channel(self._source, await self._source.process(self._spec.guest))

    async def _end_destination(self) -> bool:
        """End it if that is safe; whether it is gone."""
        started = self._arriving
        arriving = await self._destination.process(self._spec.guest)
        if arriving is None:  # a destination whose source cancels ends by itself, and leaves its socket
            if started is not None:
                await processes.see_gone(self._destination.shell, started)
            elif self._leaving is not None:  # another process started it, with the same paths
                await processes.sweep(self._destination.shell, self._leaving)
            return True
        self._arriving = arriving
        if self._listens or self._reattached:  # it listened, so it may have received
            there, here = await asyncio.gather(
                self._destination.evidence(self._spec.guest), self._source.evidence(self._spec.guest)
            )
            if here.sighting not in _MAY_BE_ENDED.get(there.sighting, ()):
                return False
        async with self._log.acting(Action.END_DESTINATION, f"{self._destination.host}, pid {arriving.pid}"):
            await self._quit(self._destination, arriving)
        return True

    async def _resume_source(self) -> None:
        """Let the source go on where this migration had stopped it."""
        if await self._source.process(self._spec.guest) is None:
            return
        async with self._source.sessions.use(self._need(self._leaving)) as here, self._within("resuming", self._source.host):
            while (state := (await here.query("query-status")).get("status")) in _STANDS_FOR_MIGRATION:
                if state == "postmigrate":  # in finish-migrate it refuses, and settles by itself in a moment
                    async with self._log.acting(Action.RESUME_SOURCE, self._source.host):
                        await here.execute("cont")
                        if self._spec.stopped:  # QEMU knows no other way out of "postmigrate" than to run
                            await here.execute("stop")
                await here.woken(timeout_s=NEWS_S)

    # finish and confirm

    async def finish(self) -> None:
        """Let the destination run, and see it run; a guest that somebody had stopped stays stopped there."""
        if self._seen_running:
            return
        async with self._destination.sessions.use(self._need(self._arriving)) as there:
            if not self._told_to_run:
                await self._check_let_go()
                await self._see_arrived(there)
            async with self._within("resuming", self._destination.host):
                while True:
                    await self._tell_to_run(there)
                    if self._spec.stopped or fold.runs(status := await there.query("query-status")):
                        break
                    self._check_disks_let_it_run(status)
                    # While it still loads, "cont" says that it shall run when it is done: an event tells when that is.
                    await there.woken(timeout_s=NEWS_S)
            async with self._log.acting(Action.ANNOUNCE, self._destination.host):
                await there.execute("announce-self", ANNOUNCE)
            self._moments = replace(self._moments, resumed_ms=there.heard_ms("RESUME"))
        self._seen_running = True

    def _check_disks_let_it_run(self, status: Mapping[str, object]) -> None:
        """See that a guest which was told to run was not stopped by a disk at once: told again, it repeats the same request.

        Raises:
            HypervisorError: it was.
        """
        if status.get("status") == "io-error":
            there = self._destination.host
            raise HypervisorError(
                f"A disk of {self._spec.guest} stopped it on {there} with an I/O error as soon as it was told to run.",
                host=there,
                hint=f"Mend the storage of {there}; then 'segue recover' lets it run and ends what {self._source.host} holds.",
            )

    async def _check_let_go(self) -> None:
        """See that the source cannot run the guest any more.

        Raises:
            HypervisorError: it can, or does not answer: the destination is not told to run.
        """
        if self._last.status is JobStatus.COMPLETED:
            return
        seen = await self._source.evidence(self._spec.guest)
        if seen.sighting not in _LET_GO:
            raise HypervisorError(
                f"{self._source.host} has not let go of {self._spec.guest} ({seen.raw}): nobody else may run it.",
                host=self._source.host,
            )

    async def _see_arrived(self, there: Session) -> None:
        """See that the destination holds the guest: that the source has let go is not believed of the source alone.

        Raises:
            HypervisorError, AnswerNotSeen: it does not, or does not answer: it is not told to run.
        """
        async with self._within("receiving", self._destination.host):
            while (await there.query("query-status")).get("status") == "inmigrate":  # noqa: ASYNC110  # no event
                await asyncio.sleep(RESUME_PAUSE_S)

    async def _tell_to_run(self, there: Session) -> None:
        """Tell the destination to run. From here on it may have run, whatever it answers; one that was stopped, it only has."""
        if self._told_to_run:  # already written down
            await self._let_run(there)
            return
        stays = ", where it stays stopped" * self._spec.stopped
        async with self._log.acting(Action.RESUME_DESTINATION, f"{self._destination.host}{stays}"):
            self._told_to_run = True
            await self._let_run(there)

    async def _let_run(self, there: Session) -> None:
        if not self._spec.stopped:
            await there.execute("cont")

    async def confirm(self) -> None:
        """End the source and remove what it leaves behind. It is ended only when all of the guest has left it."""
        record = asyncio.create_task(launch.load(self._source.shell, self._spec.guest))  # nothing waits for it alone
        try:
            if self._leaving is not None:  # else it was gone when this attempt was taken up
                await self._release_source(self._leaving)
            await self._close_channel(self._destination, self._arriving)
        finally:
            await asyncio.gather(record, return_exceptions=True)
        await self._redefine(defined=await record is not None)
        if self._disks:
            await self._disks.keep()

    async def _release_source(self, leaving: Process) -> None:
        if not self._seen_running:
            raise HypervisorError(
                f"{self._spec.guest} was not seen to run on {self._destination.host}: {self._source.host} keeps what it has.",
                host=self._source.host,
            )
        if self._source.sessions.reaches(leaving) or await self._source.process(self._spec.guest) is not None:
            async with self._source.sessions.use(leaving) as here:
                migration = await here.query("query-migrate")
                status = fold.status_of(migration)
                if status is not JobStatus.COMPLETED:  # in post-copy it holds pages that exist nowhere else
                    raise HypervisorError(
                        f"{self._source.host} still holds a part of {self._spec.guest} (migration {status}): it is not ended.",
                        host=self._source.host,
                    )
                self._last = fold.progress(migration, elapsed_ms=self._elapsed_ms())
        async with self._log.acting(Action.END_SOURCE, f"{self._source.host}, pid {leaving.pid}"):
            await self._quit(self._source, leaving)

    async def _redefine(self, *, defined: bool) -> None:
        """Put the launch records where they were asked to be; the destination's first, so that one is always there."""
        guest = self._spec.guest
        if self._spec.persists(defined=defined) and self._arriving is not None:
            async with self._log.acting(Action.DEFINE_DESTINATION, self._destination.host):
                await launch.save(self._destination.shell, guest, launch.of(self._arriving))
        if self._spec.undefines(defined=defined):
            async with self._log.acting(Action.UNDEFINE_SOURCE, self._source.host):
                await launch.remove(self._source.shell, guest)

    async def _quit(self, host: QemuHypervisor, process: Process) -> None:
        """End a QEMU, see it gone, remove what it leaves. Harmless when it is gone already, also when another has its place."""
        reached = host.sessions.reaches(process)
        there = None if reached else await host.process(self._spec.guest)
        if there is not None and there.key != process.key:
            return
        if reached or there is not None:
            with contextlib.suppress(HypervisorError):  # deaf, or gone before it answered: it is ended by its pid below
                async with host.sessions.use(process) as session:
                    await session.execute("quit")
                    await session.ended(timeout_s=SETTLE_DEADLINE_S)
        await processes.see_gone(host.shell, process)

    async def discard(self) -> None:
        """End what is left on both hosts."""
        ends = ((self._source, self._leaving, Action.END_SOURCE), (self._destination, self._arriving, Action.END_DESTINATION))
        for host, process, action in ends:
            if process is not None:
                async with self._log.acting(action, f"{host.host}, pid {process.pid}"):
                    await self._quit(host, process)
        if self._leaving or self._arriving:
            await self._way().close()

    async def result(self) -> Progress:
        """The source's last word."""
        return replace(self._last, ram_remaining_bytes=0) if self._last.status is JobStatus.COMPLETED else self._last

    def moments(self) -> Moments:
        """As both QEMUs' events came."""
        return self._moments

    async def guest_lost_ms(self) -> int | None:
        """Not known: its agent's socket, where there is one, belongs to whoever started the guest."""
        return None

    async def testimony(self) -> Sequence[Quote]:
        """What both QEMUs had written when it failed; a destination's log is gone by now."""
        return self._heard

    async def aclose(self) -> None:
        """Let go of the sessions and of what was being looked at."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        if self._channel is not None:
            await self._channel.aclose()
        await self._held.aclose()

    def _need(self, process: Process | None) -> Process:
        if process is None:
            raise HypervisorError(f"{self._spec.guest} was not prepared.", host=self._destination.host)
        return process

    @contextlib.asynccontextmanager
    async def _within(self, doing: str, host: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(SETTLE_DEADLINE_S):
                yield
        except TimeoutError:
            raise AnswerNotSeen(
                f"{doing.capitalize()} {self._spec.guest} on {host} was not done after {SETTLE_DEADLINE_S:g} s.", host=host
            ) from None

    def _elapsed_ms(self) -> int:
        return round((time.monotonic() - self._began) * 1000)
