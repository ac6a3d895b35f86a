"""The bare QEMUs of one host: a shell there, and one shared session with each monitor."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from segue.core import argv
from segue.core.evidence import Evidence, Sighting
from segue.core.model import DriverKind, Guest, GuestState, HostAddress, HostFacts
from segue.drivers.qemu import fold, processes
from segue.drivers.qemu.processes import Process
from segue.drivers.qemu.session import Session
from segue.errors import AnswerNotSeen, HostUnreachable, HypervisorError, SegueError
from segue.hosts import HostShell

FACTS_DEADLINE_S: Final = 10.0

# Two addresses are one host when they show the same kernel and, for hosts made of namespaces, the same network and processes.
_FACTS: Final = r"""
cat /proc/sys/kernel/random/boot_id; readlink /proc/self/ns/net /proc/self/ns/pid_for_children; hostname
{ qemu-system-x86_64 --version || qemu-kvm --version || /usr/libexec/qemu-kvm --version; } 2>/dev/null | head -n 1
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
        self._sessions: dict[str, Session] = {}
        self._connecting = asyncio.Lock()

    @property
    def host(self) -> str:
        """The host's name."""
        return self.address.name

    async def facts(self) -> HostFacts:
        """QEMU's version, and what tells this host from others."""
        done = await self.shell.run(["sh", "-c", _FACTS], deadline_s=FACTS_DEADLINE_S)
        *identity, version = done.stdout.decode(errors="replace").splitlines() or [""]
        words = version.split()
        return HostFacts(
            host=self.host,
            driver=DriverKind.QEMU,
            hypervisor=f"QEMU {words[3]}" if len(words) > 3 else "QEMU (not on the PATH)",
            identity=" ".join(identity),
        )

    async def process(self, guest: str) -> Process | None:
        """The QEMU of that guest; ``None`` when there is none.

        Raises:
            HypervisorError: there are two.
        """
        found = [process for process in await processes.found(self.shell) if guest in (process.name, argv.uuid(process.line))]
        if len(found) > 1:
            pids = ", ".join(str(process.pid) for process in found)
            raise HypervisorError(f"Two QEMUs on {self.host} are called {guest}: pids {pids}.", host=self.host)
        return found[0] if found else None

    async def session(self, process: Process) -> Session:
        """The session with a QEMU's monitor, made on first use.

        Raises:
            HypervisorError: it has no monitor that we can speak to.
        """
        key = f"{process.pid} {process.fingerprint}"
        async with self._connecting:
            if key not in self._sessions:
                path = argv.qmp_path(process.line)
                if path is None:
                    raise HypervisorError(_no_monitor(process), host=self.host)
                self._sessions[key] = await Session.connect(self.shell, process.name, absolute(process, path))
            return self._sessions[key]

    async def drop(self, process: Process) -> None:
        """Forget the session with a QEMU that ended, or that broke."""
        if session := self._sessions.pop(f"{process.pid} {process.fingerprint}", None):
            await session.aclose()

    async def guests(self) -> Sequence[Guest]:
        """All QEMUs that libvirt does not manage."""
        found = await processes.found(self.shell)
        return sorted(await asyncio.gather(*(self._guest(process) for process in found)), key=lambda guest: guest.name)

    async def _guest(self, process: Process) -> Guest:
        state, obstacle = GuestState.UNKNOWN, ""
        if not process.mine:
            obstacle = f"{process.name} runs as another user than the one Segue logs in as on {self.host}."
        elif argv.qmp_path(process.line) is None:
            obstacle = _no_monitor(process)
        else:
            try:
                seen, _ = await self._look(process)
                state = fold.GUEST_STATES.get(seen, GuestState.UNKNOWN)
            except SegueError as error:
                obstacle = error.message
        return Guest(
            name=process.name,
            uuid=argv.uuid(process.line),
            host=self.host,
            driver=DriverKind.QEMU,
            state=state,
            memory_bytes=argv.memory_bytes(process.line),
            obstacle=obstacle,
        )

    async def _look(self, process: Process) -> tuple[Sighting, str]:
        try:
            session = await self.session(process)
            status = await session.query("query-status")
            migration = await session.query("query-migrate")
        except AnswerNotSeen:
            await self.drop(process)
            raise
        run_state = str(status.get("status"))
        raw = f"{run_state}, migration {migration.get('status', 'none')}"
        return fold.sighting(run_state, migration, arrived_here=process.line.has("incoming")), raw

    async def evidence(self, guest: str) -> Evidence:
        """What the process table and the monitor show. Never raises."""
        try:
            process = await self.process(guest)
            if process is None:
                sighting, raw = Sighting.ABSENT, "no such process"
            else:
                sighting, raw = await self._look(process)
        except HostUnreachable as error:
            sighting, raw = Sighting.UNREACHABLE, error.message
        except SegueError as error:
            sighting, raw = Sighting.UNKNOWN, error.message
        return Evidence(host=self.host, sighting=sighting, seen_at_ms=time.monotonic_ns() // 1_000_000, raw=raw)

    async def aclose(self) -> None:
        """Disconnect from all monitors and from the host."""
        sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            await session.aclose()
        await self.shell.aclose()


def absolute(process: Process, path: str) -> str:
    """A path of a QEMU, seen from anywhere."""
    return path if path.startswith("/") else f"{process.cwd.rstrip('/')}/{path}"


def _no_monitor(process: Process) -> str:
    return (
        f"{process.name} has no QMP socket, so nobody can ask it to move; next time start it with "
        f"-qmp unix:/run/{process.name}.qmp,server=on,wait=off."
    )
