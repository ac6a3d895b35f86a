"""The bare QEMUs of one host: a shell there, and one shared session with each monitor."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from segue.core import argv, twin
from segue.core.evidence import Evidence, Sighting
from segue.core.measured import Touched, Window
from segue.core.mends import Mend, Mended
from segue.core.model import DriverKind, Guest, GuestProcess, GuestState, HostAddress, HostFacts, MigrationSpec
from segue.core.ports import Hypervisor
from segue.core.preflight.facts import BUSY_S, Objection, Offer, Parts, Standing
from segue.drivers.qemu import fold, hosting, launch, measure, mending, processes, standing
from segue.drivers.qemu import twin as twins
from segue.drivers.qemu.processes import Process
from segue.drivers.qemu.session import Sessions, absolute, no_monitor
from segue.errors import HostUnreachable, HypervisorError, PrepareFailed, RefusedError, SegueError
from segue.hosts import HostShell
from segue.hosts.shell import checked

FACTS_DEADLINE_S: Final = 10.0
LATELY_S: Final = 2.0
"""So long whoever only looks at a guest may go by the process that was listed when it was found."""
LOOK_DEADLINE_S: Final = 3.0
"""For a monitor to say what it shows. Later it is "unknown", which nobody acts on."""

# Who shows the same processes is the same host, by whatever name or network it was reached: one boot of one kernel, one PID
# namespace. A machine id tells less: containers and cloned machines share it.
_IDENTITY: Final = "cat /proc/sys/kernel/random/boot_id && exec readlink /proc/self/ns/pid"
_VERSION: Final = r"""
{ qemu-system-"$(uname -m)" --version || qemu-kvm --version || /usr/libexec/qemu-kvm --version; } 2>/dev/null | head -n 1
"""


class QemuHypervisor:
    """A host whose QEMUs nobody manages. Made by `QemuDriver.connect`.

    Args:
        address: how it was reached.
        shell: the host.
    """

    def __init__(self, address: HostAddress, shell: HostShell) -> None:
        self.address: Final = address
        self.shell: Final = shell
        self.sessions: Final = Sessions(shell)
        self._identity: asyncio.Task[str] | None = None
        self._listed: tuple[float, list[Process]] = (0.0, [])
        self._next_listing: asyncio.Task[list[Process]] | None = None
        self._listings: set[asyncio.Task[list[Process]]] = set()

    @property
    def host(self) -> str:
        """The host's name."""
        return self.address.name

    async def facts(self) -> HostFacts:
        """QEMU's version, and what tells this host from others. It takes the start of a QEMU."""
        identity, version = await asyncio.gather(self.identity(), self._asked(_VERSION))
        words = version.split()
        return HostFacts(
            host=self.host,
            driver=DriverKind.QEMU,
            hypervisor=f"QEMU {words[3]}" if len(words) > 3 else "QEMU (not on the PATH)",
            identity=identity,
        )

    async def identity(self) -> str:
        """One boot of one kernel, and a PID namespace; asked once."""
        if self._identity is None:
            self._identity = asyncio.create_task(self._asked(_IDENTITY))
        return await asyncio.shield(self._identity)

    async def _asked(self, script: str) -> str:
        command = ["sh", "-c", script]
        done = checked(self.host, command, await self.shell.run(command, deadline_s=FACTS_DEADLINE_S))
        return " ".join(done.stdout.decode(errors="replace").split())

    async def process(self, guest: str) -> Process | None:
        """The QEMU of that guest; ``None`` when there is none.

        Raises:
            HypervisorError: there are two.
        """
        found = [process for process in await self._processes() if process.is_of(guest)]
        if len(found) > 1:
            pids = ", ".join(str(process.pid) for process in found)
            raise HypervisorError(f"Two QEMUs on {self.host} are called {guest}: pids {pids}.", host=self.host)
        return found[0] if found else None

    async def _processes(self) -> list[Process]:
        """All QEMUs as they are from now on. Those who ask in one turn of the loop share a listing, which begins after it."""
        if self._next_listing is None:
            self._next_listing = asyncio.create_task(self._list())
            self._listings.add(self._next_listing)
            self._next_listing.add_done_callback(self._listings.discard)
        return await asyncio.shield(self._next_listing)

    async def _list(self) -> list[Process]:
        self._next_listing = None  # whoever asks from now on wants what is newer
        return await processes.found(self.shell)

    async def guests(self) -> Sequence[Guest]:
        """All QEMUs that libvirt does not manage, and those that are not there but have a launch record."""
        found, known = await asyncio.gather(self._processes(), launch.known(self.shell))
        self._listed = (time.monotonic(), found)
        records = {record.process.name: record for record in known}
        running = await asyncio.gather(*(self._guest(process, persistent=process.name in records) for process in found))
        names = {guest.name for guest in running}
        resting = [self._resting(record.process) for name, record in records.items() if name not in names]
        return sorted([*running, *resting], key=lambda guest: guest.name)

    def _resting(self, process: Process) -> Guest:
        return Guest(
            name=process.name,
            uuid=argv.uuid(process.line),
            host=self.host,
            driver=DriverKind.QEMU,
            state=GuestState.SHUT_OFF,
            memory_bytes=argv.memory_bytes(process.line),
            persistent=True,
        )

    async def standing(self, guest: str) -> Standing:
        """What a QEMU is doing, and what its disks hold besides."""
        process = await self.lately(guest)
        async with self.sessions.use(process) as session:
            found, busy_percent = await asyncio.gather(
                standing.look(session, arrived_here=process.line.has("incoming")),
                measure.wanted_percent(self.shell, process, seconds=BUSY_S),
            )
        return replace(found, busy_percent=busy_percent)

    async def parts(self, guest: str) -> Parts:
        """What a running QEMU is made of, by its command line and its own answers."""
        process = await self.lately(guest)
        async with self.sessions.use(process) as session:
            return await hosting.parts(session, process)

    async def lately(self, guest: str) -> Process:
        """The QEMU of that guest as it was when guests were listed a moment ago, or as it is now.

        Raises:
            HypervisorError: there is none, or there are two.
        """
        at, listed = self._listed
        known = [process for process in listed if process.is_of(guest)]
        return known[0] if len(known) == 1 and time.monotonic() - at < LATELY_S else await self._there(guest)

    async def _there(self, guest: str) -> Process:
        process = await self.process(guest)
        if process is None:
            raise HypervisorError(f"{guest} is gone from {self.host}.", host=self.host)
        return process

    async def offer(self, wanted: Parts) -> Offer:
        """What a QEMU of this host could give to that guest; one without a machine is started for a moment, and asked."""
        return await hosting.offer(self.shell, wanted)

    async def objections(self, spec: MigrationSpec, destination: Hypervisor) -> tuple[Objection, ...]:  # noqa: ARG002
        """What no command line can say of the guest as it is now; parts that are to have another place, and are not there."""
        process = await self.lately(spec.guest)
        async with self.sessions.use(process) as session:
            return await twins.objections(session, process.line, spec)

    async def before(self, guest: str, mend: Mend) -> str:
        """What its monitor would be told to have it back."""
        process = await self._there(guest)
        async with self.sessions.use(process) as session:
            return await mending.before(session, process.line, mend)

    async def mend(self, guest: str, mend: Mend) -> None:
        """Change the running guest through its monitor."""
        async with self.sessions.use(await self._there(guest)) as session:
            await mending.mend(session, mend)

    async def unmend(self, guest: str, mended: Mended) -> None:
        """Tell its monitor to have it back."""
        async with self.sessions.use(await self._there(guest)) as session:
            await mending.unmend(session, mended)

    async def touched(self, guest: str) -> Touched:
        """The resident part of its memory, from the process table."""
        return await measure.touched(self.shell, await self._running(guest))

    async def dirtied(self, guest: str, *, seconds: int) -> Window:
        """By QEMU's own sampling of pages."""
        process = await self._running(guest)
        async with self.sessions.use(process) as session:
            return await measure.dirtied(session, self.shell, process, seconds=seconds)

    async def _running(self, guest: str) -> Process:
        process = await self.process(guest)
        if process is None:
            raise HypervisorError(f"{guest} does not run on {self.host}.", host=self.host)
        return process

    async def start(self, guest: str) -> None:
        """Start it from its launch record."""
        record = await launch.load(self.shell, guest)
        if record is None:
            raise HypervisorError(
                f"{self.host} has no launch record of {guest}.",
                host=self.host,
                hint="A move with --persist leaves one where it arrives.",
            )
        process = record.process
        monitor = absolute(process, argv.qmp_path(process.line) or f"/run/{guest}.qmp")
        try:
            await processes.start(self.shell, process.line, monitor=monitor, like=process)
        except PrepareFailed as error:
            raise HypervisorError(error.message, host=self.host, hint=error.hint) from error

    async def _guest(self, process: Process, *, persistent: bool) -> Guest:
        state, obstacle = GuestState.UNKNOWN, self._obstacle(process)
        path = argv.qmp_path(process.line)
        if process.mine and path is not None:
            try:
                seen, _, migration = await self._look(process)
                state = fold.guest_state(seen, migration)
                obstacle = obstacle or _blocked(process, migration)
            except SegueError as error:
                obstacle = obstacle or str(error)
        return Guest(
            name=process.name,
            uuid=argv.uuid(process.line),
            host=self.host,
            driver=DriverKind.QEMU,
            state=state,
            memory_bytes=argv.memory_bytes(process.line),
            persistent=persistent,
            obstacle=obstacle,
            process=GuestProcess(
                pid=process.pid,
                user=process.user or process.me,
                directory=process.cwd,
                monitor=absolute(process, path) if path else "",
            ),
        )

    def _obstacle(self, process: Process) -> str:
        """What the process alone says against moving it; empty when nothing."""
        if not process.mine:
            return (
                f"{process.name} runs as {process.user}, and Segue is logged in on {self.host} as somebody else who is not root."
            )
        if argv.qmp_path(process.line) is None:
            return no_monitor(process)
        if not argv.guest_name(process.line):
            return f"{process.name} has no name to be known by on both hosts; next time start it with -name guest=NAME."
        try:
            twin.refuse(process.line)
        except RefusedError as error:
            return str(error)
        return ""

    async def _look(self, process: Process) -> tuple[Sighting, str, Mapping[str, object]]:
        """What a QEMU shows, in its own words, and its migration. The session ends with it if nobody else needs it."""
        async with self.sessions.use(process) as session:
            status, migration = await asyncio.gather(
                *(session.query(word, deadline_s=LOOK_DEADLINE_S) for word in ("query-status", "query-migrate"))
            )
        run_state = fold.said(status.get("status"))
        raw = f"pid {process.pid}, {run_state}, migration {fold.said(migration.get('status', 'none'))}"
        return fold.sighting(run_state, migration, arrived_here=process.line.has("incoming")), raw, migration

    async def evidence(self, guest: str) -> Evidence:
        """What the process table and the monitor show. Never raises."""
        for _ in range(2):  # it may end while it is asked; then it is gone at the second look
            try:
                sighting, raw = await self._see(guest)
                break
            except HostUnreachable as error:
                sighting, raw = Sighting.UNREACHABLE, error.message
                break
            except SegueError as error:
                sighting, raw = Sighting.UNKNOWN, error.message
        return Evidence(host=self.host, sighting=sighting, seen_at_ms=time.monotonic_ns() // 1_000_000, raw=raw)

    async def _see(self, guest: str) -> tuple[Sighting, str]:
        process = await self.process(guest)
        if process is None:
            return Sighting.ABSENT, "no such process"
        try:
            sighting, raw, _ = await self._look(process)
        except HypervisorError as error:
            if not process.line.has("incoming") or not await processes.waits_for_pages(self.shell, process):
                raise
            return Sighting.POSTCOPY_PAUSED, f"pid {process.pid} waits for pages and does not answer: {error.message}"
        return sighting, raw

    async def aclose(self) -> None:
        """Disconnect from all monitors and from the host. May be repeated."""
        asked = [*self._listings, *([self._identity] if self._identity is not None else [])]
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        await self.sessions.aclose()
        await self.shell.aclose()


def _blocked(process: Process, migration: Mapping[str, object]) -> str:
    """What QEMU itself says against moving it; empty when nothing."""
    reasons = migration.get("blocked-reasons")
    if not isinstance(reasons, list) or not reasons:
        return ""
    return f"QEMU says that {process.name} cannot be moved: {'; '.join(map(fold.said, reasons))}"
