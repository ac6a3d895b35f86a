"""One migration of a bare QEMU, in five phases of our own: only `finish` lets the destination run.

The destination is always started with ``-S``, so it stands still when everything has arrived, and it stands still if Segue dies.
The one moment at which it must not wait is post-copy: its source has stopped by then, and every millisecond is downtime.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

from segue.core import argv
from segue.core.evidence import Sighting
from segue.core.model import JobStatus, MigrationSpec, Progress
from segue.drivers.qemu import fold, processes
from segue.drivers.qemu.hypervisor import QemuHypervisor, absolute
from segue.drivers.qemu.processes import Process
from segue.drivers.qemu.session import Session
from segue.errors import AnswerNotSeen, HypervisorError, PrepareFailed, Unsupported

SAMPLE_S: Final = 0.1
CANCEL_DEADLINE_S: Final = 20.0
RESUME_DEADLINE_S: Final = 30.0
RESUME_PAUSE_S: Final = 0.005
NO_LIMIT_BPS: Final = 1 << 40
"""More than any network carries. QEMU's own default is 128 MiB/s (migration/options.c, MAX_THROTTLE), about one Gbit."""
_STANDS_FOR_MIGRATION: Final = ("postmigrate", "finish-migrate")


class QemuAttempt:
    """One migration between two hosts whose QEMUs nobody manages.

    Args:
        spec: what was asked for.
        source, destination: both hosts.

    Raises:
        Unsupported: the destination has no address that the source could send to.
    """

    def __init__(self, spec: MigrationSpec, source: QemuHypervisor, destination: QemuHypervisor) -> None:
        self._spec = spec
        self._source = source
        self._destination = destination
        self._data_host = destination.address.migration_address or urlsplit(destination.address.uri).hostname or ""
        if not self._data_host:
            raise Unsupported(
                f"{source.host} has no address of {destination.host} to send the guest to: {destination.address.uri} names none.",
                hint="Name the destination in segue.toml and give it a migration_address.",
            )
        self._began = time.monotonic()
        self._leaving: Process | None = None
        self._arriving: Process | None = None
        self._told_to_run = False
        self._last = Progress(elapsed_ms=0, status=JobStatus.NONE)

    async def prepare(self) -> None:
        """Start the destination with the guest's own command line, and let it listen."""
        try:
            leaving = self._leaving = await self._source.process(self._spec.guest)
            if leaving is None:
                raise PrepareFailed(f"{self._spec.guest} is gone from {self._source.host}.")
            here = await self._source.session(leaving)
            aliases, default = await _machines(here)
            command = argv.for_destination(leaving.line, aliases=aliases, default_machine=default)
            arriving = await self._launch(leaving, command)
            there = await self._destination.session(arriving)
            await asyncio.gather(self._set_up_source(here), self._set_up_destination(there))
        except HypervisorError as error:
            raise PrepareFailed(error.message, hint=error.hint) from error

    async def _launch(self, leaving: Process, command: argv.CommandLine) -> Process:
        monitor = absolute(leaving, argv.qmp_path(command) or "")
        await processes.start(self._destination.shell, command, cwd=leaving.cwd, monitor=monitor)
        self._arriving = await self._destination.process(self._spec.guest)
        if self._arriving is None:
            raise PrepareFailed(f"QEMU started on {self._destination.host} and ended at once.")
        return self._arriving

    async def _set_up_source(self, session: Session) -> None:
        limits = self._spec.limits
        await self._set_capabilities(session)
        parameters = {"downtime-limit": limits.max_downtime_ms, "max-bandwidth": limits.bandwidth_bps or NO_LIMIT_BPS}
        await session.execute("migrate-set-parameters", {**parameters, "max-postcopy-bandwidth": 0})

    async def _set_up_destination(self, session: Session) -> None:
        await self._set_capabilities(session)
        host = f"[{self._data_host}]" if ":" in self._data_host else self._data_host
        await session.execute("migrate-incoming", {"uri": f"tcp:{host}:0"})

    async def _set_capabilities(self, session: Session) -> None:
        """Set the same on both sides.

        Without the return path QEMU under-reports downtime: 2 to 43 ms were said when a guest stood for 97 to 128 ms, with it
        both agree within 5 ms. Disks are taken over only when the destination runs (late-block-activate).
        """
        wanted = {
            "events": True,
            "return-path": True,
            "late-block-activate": True,
            "auto-converge": self._spec.limits.auto_converge,
            "postcopy-ram": self._spec.limits.postcopy,
        }
        states = [{"capability": name, "state": state} for name, state in wanted.items()]
        await session.execute("migrate-set-capabilities", {"capabilities": states})

    async def perform(self) -> AsyncIterator[Progress]:
        """Send, and report on every event and at least every 100 ms."""
        here = await self._here()
        session = await self._destination.session(self._need(self._arriving))
        await here.execute("migrate", {"uri": await _listening(session, self._destination.host)})
        while not self._last.status.is_final:
            await here.woken(timeout_s=SAMPLE_S)
            migration = await here.query("query-migrate")
            self._last = fold.progress(migration, elapsed_ms=self._elapsed_ms())
            if self._last.status is JobStatus.POSTCOPY and not self._told_to_run:
                await self._resume()
            if self._last.status is JobStatus.FAILED:
                raise HypervisorError(
                    f"QEMU on {self._source.host} gave the migration up: {migration.get('error-desc', 'it does not say why')}.",
                    host=self._source.host,
                    raw=str(migration.get("error-desc", "")),
                )
            yield self._last

    async def start_postcopy(self) -> None:
        """Ask for post-copy now."""
        await (await self._here()).execute("migrate-start-postcopy")

    async def set_max_downtime(self, ms: int) -> None:
        """From now on."""
        await (await self._here()).execute("migrate-set-parameters", {"downtime-limit": ms})

    async def set_bandwidth(self, bps: int) -> None:
        """From now on."""
        await (await self._here()).execute("migrate-set-parameters", {"max-bandwidth": bps})

    async def cancel(self) -> None:
        """Cancel, and wait until QEMU's job has ended."""
        if self._leaving is None or self._told_to_run:
            return
        session = await self._here()
        async with asyncio.timeout(CANCEL_DEADLINE_S):
            status = fold.status_of(await session.query("query-migrate"))
            if status not in (JobStatus.NONE, JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED):
                await session.execute("migrate_cancel")
            while status is not JobStatus.NONE and not status.is_final:
                await session.woken(timeout_s=SAMPLE_S)
                status = fold.status_of(await session.query("query-migrate"))

    async def roll_back(self) -> None:
        """End a destination that was never told to run, and only after it is gone let the source go on."""
        if self._told_to_run:
            return
        if self._arriving is None and self._leaving is not None:  # started, and we did not get to see it
            self._arriving = await self._destination.process(self._spec.guest)
        if arriving := self._arriving:
            with contextlib.suppress(HypervisorError):  # it may be gone, or deaf: it is ended by its pid below
                session = await self._destination.session(arriving)
                if (await session.query("query-status")).get("running"):
                    return  # somebody else let it run: not ours to end
                await session.execute("quit")
            await self._destination.drop(arriving)
            await processes.wait_gone(self._destination.shell, arriving, signal="TERM")
            await processes.sweep(self._destination.shell, arriving)
            self._arriving = None
        if self._leaving is not None and (await self._source.evidence(self._spec.guest)).sighting is not Sighting.ABSENT:
            session = await self._here()
            if (await session.query("query-status")).get("status") in _STANDS_FOR_MIGRATION:
                await session.execute("cont")

    async def finish(self) -> None:
        """Let the destination run, and see it run."""
        await self._resume()
        session = await self._destination.session(self._need(self._arriving))
        async with asyncio.timeout(RESUME_DEADLINE_S):
            # While it still loads, "cont" only says that it shall run when it is done: there is no event to be sure of.
            while not (await session.query("query-status")).get("running"):  # noqa: ASYNC110
                await asyncio.sleep(RESUME_PAUSE_S)

    async def _resume(self) -> None:
        """Tell the destination to run. From here on it may have run, whatever it answers."""
        session = await self._destination.session(self._need(self._arriving))
        self._told_to_run = True
        await session.execute("cont")

    async def confirm(self) -> None:
        """End the source and remove what it leaves behind."""
        leaving = self._need(self._leaving)
        if await self._source.process(self._spec.guest) is not None:
            session = await self._source.session(leaving)
            if (await session.query("query-status")).get("running"):
                raise HypervisorError(f"{self._spec.guest} runs on {self._source.host}: it is not ended.", host=self._source.host)
            migration = await session.query("query-migrate")
            if fold.status_of(migration) is JobStatus.COMPLETED:
                self._last = fold.progress(migration, elapsed_ms=self._elapsed_ms())
            with contextlib.suppress(AnswerNotSeen):  # it may be gone before it has answered
                await session.execute("quit")
        await self._source.drop(leaving)
        await processes.wait_gone(self._source.shell, leaving)
        await processes.sweep(self._source.shell, leaving)

    async def result(self) -> Progress:
        """The source's last word."""
        return replace(self._last, ram_remaining_bytes=0) if self._last.status is JobStatus.COMPLETED else self._last

    async def aclose(self) -> None:
        """Sessions belong to the hosts; the attempt itself holds nothing."""

    async def _here(self) -> Session:
        return await self._source.session(self._need(self._leaving))

    def _need(self, process: Process | None) -> Process:
        if process is None:
            raise HypervisorError(f"{self._spec.guest} was not prepared.", host=self._destination.host)
        return process

    def _elapsed_ms(self) -> int:
        return round((time.monotonic() - self._began) * 1000)


async def _machines(session: Session) -> tuple[dict[str, str], str]:
    """The machine aliases of a QEMU and the versioned names they mean, and the versioned name of its default."""
    answer = await session.execute("query-machines")
    machines = [machine for machine in answer if isinstance(machine, dict)] if isinstance(answer, list) else []
    aliases = {str(machine["alias"]): str(machine["name"]) for machine in machines if "alias" in machine}
    default = next((str(machine["name"]) for machine in machines if machine.get("is-default")), "pc")
    return aliases, default


async def _listening(session: Session, host: str) -> str:
    """The URI at which a destination listens: it chose the port itself."""
    addresses = (await session.query("query-migrate")).get("socket-address")
    first = addresses[0] if isinstance(addresses, list) and addresses else None
    if not isinstance(first, dict):
        raise HypervisorError(f"QEMU on {host} does not say where it listens.", host=host, raw=str(addresses))
    name = str(first.get("host"))
    return f"tcp:{f'[{name}]' if ':' in name else name}:{first.get('port')}"
