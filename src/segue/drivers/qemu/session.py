"""A QMP session with one QEMU: commands with deadlines, events, and errors in our words.

A monitor's socket serves one client at a time (QEMU, chardev/char-socket.c): a second one connects and hears nothing until the
first leaves. So a session is shared by all who need it and ends with the last of them (`Sessions`), and a greeting that does not
come means that somebody else is in.
What may live here: the thin layer over QEMU's own qemu.qmp.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import posixpath
import shlex
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Self

from qemu.qmp import ConnectError, ExecInterruptedError, ExecuteError, QMPClient, QMPError, Runstate, StateError

from segue.core import argv
from segue.core.argv import join_list
from segue.drivers.qemu.processes import Process
from segue.errors import AnswerNotSeen, HypervisorError
from segue.hosts import HostShell

logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())  # it would write to stderr; what matters is in our errors

GREETING_DEADLINE_S: Final = 3.0
COMMAND_DEADLINE_S: Final = 10.0
"""QEMU answers in milliseconds; but its main loop is held up while it stops or loads a guest, by up to the allowed downtime."""


class Session:
    """A connected monitor. Made by `connect`.

    Args:
        host: the host's name, for errors.
        guest: the guest's name, for errors.
        client: connected.
    """

    def __init__(self, host: str, guest: str, client: QMPClient) -> None:
        self._host = host
        self._guest = guest
        self._client = client

    @classmethod
    async def connect(cls, shell: HostShell, guest: str, path: str) -> Self:
        """Connect to a monitor's socket.

        Raises:
            HypervisorError: nobody listens there, or it is in use by somebody else.
        """
        sock = await shell.open_unix(path, deadline_s=GREETING_DEADLINE_S)
        client = QMPClient(f"{guest}@{shell.name}")
        try:
            async with asyncio.timeout(GREETING_DEADLINE_S):
                await client.connect(sock)
        except TimeoutError:
            sock.close()
            raise HypervisorError(
                f"The monitor of {guest} on {shell.name} is in use by somebody else: it takes one client at a time.",
                host=shell.name,
                hint=f"End whoever is connected to {path} (another migration, a tool), or give QEMU a second -qmp socket.",
            ) from None
        except ConnectError as error:
            sock.close()
            raise HypervisorError(
                f"The monitor of {guest} on {shell.name} does not answer at {path}: {error}.", host=shell.name, raw=str(error)
            ) from error
        except BaseException:
            sock.close()
            raise
        return cls(shell.name, guest, client)

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        *,
        out_of_band: bool = False,
        deadline_s: float = COMMAND_DEADLINE_S,
    ) -> object:
        """Execute a command and return what it returns.

        Args:
            command: its name.
            arguments: of the command.
            out_of_band: even while QEMU's main loop stands still; few commands can (docs/interop/qmp-spec, 2.3.1).
            deadline_s: for the answer.

        Raises:
            HypervisorError: QEMU's own error.
            AnswerNotSeen: the session broke, or no answer by the deadline: done or not is open.
        """
        try:
            async with asyncio.timeout(deadline_s):
                return await self._client.execute(command, dict(arguments) if arguments else None, oob=out_of_band)
        except ExecuteError as error:
            raise HypervisorError(
                f"QEMU on {self._host}: {_words(error)}.",
                host=self._host,
                raw=_words(error),
                number=error.error_class,
            ) from error
        except TimeoutError:
            raise AnswerNotSeen(
                f"QEMU on {self._host} did not answer {command} for {self._guest} within {deadline_s:g} s.", host=self._host
            ) from None
        except (ExecInterruptedError, StateError, QMPError, EOFError, OSError) as error:
            raise AnswerNotSeen(
                f"The monitor of {self._guest} on {self._host} closed before it answered {command}.",
                host=self._host,
                raw=str(error),
            ) from error

    async def query(self, command: str, *, deadline_s: float = COMMAND_DEADLINE_S) -> dict[str, object]:
        """Execute a query that returns an object. Raises as `execute` does."""
        answer = await self.execute(command, deadline_s=deadline_s)
        return answer if isinstance(answer, dict) else {}

    async def woken(self, *, timeout_s: float) -> None:
        """Wait for an event, or the end, at most so long; events that piled up count as one."""
        event = asyncio.create_task(self._client.events.get())
        await self._any([event, asyncio.create_task(self._over())], timeout_s)
        self._client.events.clear()

    async def ended(self, *, timeout_s: float) -> bool:
        """Wait until QEMU closes the session, as it does when it ends; whether it has, after so long."""
        await self._any([asyncio.create_task(self._over())], timeout_s)
        return not self.is_open

    @property
    def is_open(self) -> bool:
        """Whether commands can still be answered, as far as is known."""
        return self._client.runstate is Runstate.RUNNING

    async def _over(self) -> None:
        while self.is_open:
            await self._client.runstate_changed()

    async def _any(self, tasks: list[asyncio.Task[Any]], timeout_s: float) -> None:
        try:
            await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def aclose(self) -> None:
        """Disconnect. May be repeated."""
        await _discard(self._client)


async def _discard(client: QMPClient) -> None:
    with contextlib.suppress(QMPError, EOFError, OSError):  # it was broken already, which is what ended it
        await client.disconnect()


def _words(error: ExecuteError) -> str:
    """What QEMU says, without the full stop that some of its messages have."""
    return str(error).rstrip(".")


class _Shared:
    """One session, on its way or open, and how many use it."""

    def __init__(self, opening: asyncio.Task[Session]) -> None:
        self.opening = opening
        self.users = 0

    @property
    def is_dead(self) -> bool:
        """Nobody can use it any more."""
        if not self.opening.done():
            return False
        return self.opening.cancelled() or self.opening.exception() is not None or not self.opening.result().is_open

    async def aclose(self) -> None:
        """End it, whatever it has got to."""
        self.opening.cancel()
        await asyncio.gather(self.opening, return_exceptions=True)
        if not self.opening.cancelled() and self.opening.exception() is None:
            await self.opening.result().aclose()


class Sessions:
    """The sessions that one connection to a host has open: at most one with each QEMU, shared.

    Args:
        shell: the way to the host.
    """

    def __init__(self, shell: HostShell) -> None:
        self._shell = shell
        self._open: dict[str, _Shared] = {}

    @asynccontextmanager
    async def use(self, process: Process) -> AsyncIterator[Session]:
        """The session with that QEMU for as long as it is needed; the last one to leave ends it.

        Raises:
            HypervisorError: it has no monitor that we can speak to.
            HostUnreachable: the host is lost.
        """
        key = process.key
        shared = self._open.get(key)
        if shared is None or shared.is_dead:
            shared = self._open[key] = _Shared(asyncio.create_task(self._connect(process)))
        shared.users += 1
        try:
            yield await asyncio.shield(shared.opening)
        finally:
            shared.users -= 1
            if not shared.users:
                if self._open.get(key) is shared:
                    del self._open[key]
                await shared.aclose()

    async def _connect(self, process: Process) -> Session:
        path = argv.qmp_path(process.line)
        if path is None:
            raise HypervisorError(no_monitor(process), host=self._shell.name)
        return await Session.connect(self._shell, process.name, absolute(process, path))

    async def aclose(self) -> None:
        """End every session."""
        open_now = list(self._open.values())
        self._open.clear()
        await asyncio.gather(*(shared.aclose() for shared in open_now))


def absolute(process: Process, path: str) -> str:
    """A path of a QEMU, seen from anywhere."""
    return posixpath.join(process.cwd or "/", path)


def no_monitor(process: Process) -> str:
    """What to say about a guest that nobody can ask to move."""
    option = join_list([("", f"unix:/run/{process.name}.qmp"), ("server", "on"), ("wait", "off")])
    return (
        f"{process.name} has {argv.why_no_qmp(process.line)}, so nobody can ask it to move; next time start it with "
        f"-qmp {shlex.quote(option)} besides."
    )
