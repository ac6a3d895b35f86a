"""A QMP session with one QEMU: commands with deadlines, events, and errors in our words.

A monitor's socket serves one client at a time (QEMU, chardev/char-socket.c): a second one connects and hears nothing until the
first leaves. So a session is shared by all who need it and ends with the last of them (`Sessions`), and a greeting that does not
come means that somebody else is in.

Who answers need not be a QEMU in its right mind: it may be half dead, or some other program. Whatever bytes come, or do not come,
each call here ends within its deadline, with an answer or an error of ours.
What may live here: the thin layer over QEMU's own qemu.qmp.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import posixpath
import shlex
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Self

from qemu.qmp import ConnectError, ExecuteError, Message, QMPClient, QMPError, Runstate

from segue.core import argv
from segue.core.argv import join_list
from segue.drivers.qemu import fold
from segue.drivers.qemu.processes import Process
from segue.errors import AnswerNotSeen, HypervisorError
from segue.hosts import HostShell

logging.getLogger("qemu.qmp").addHandler(logging.NullHandler())  # it would write to stderr; what matters is in our errors

GREETING_DEADLINE_S: Final = 3.0
COMMAND_DEADLINE_S: Final = 10.0
"""QEMU answers in milliseconds; but its main loop is held up while it stops or loads a guest, by up to the allowed downtime."""
LINE_BYTES: Final = 1 << 20
"""The longest line that is read. The longest answer that Segue asks for, query-machines, has 20 KB; query-qmp-schema has 250 KB.
It reads on to twice of it before it stops (asyncio, StreamReader), so that is what a line without end costs in memory."""


REMEMBERED: Final = frozenset({"STOP", "RESUME"})
"""Events whose time is wanted later (qapi/run-state.json): the guest stands, the guest runs."""


class _NoQmp(QMPError):
    """What came is no QMP."""


class _Client(QMPClient):
    """QEMU's own client, for a peer that may send anything.

    What its reader cannot stomach would come out of `disconnect` as whatever Python raised, with the whole line in its words; it
    writes every message out for a log that nobody reads, in Python's slowest JSON; and it keeps each event for ever.

    Args:
        name: of the connection, for logs.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name, LINE_BYTES)
        self.news: Final = asyncio.Event()
        """Set by any event."""
        self.heard: Final[dict[str, int]] = {}
        """When each of `REMEMBERED` came last, in ms of the monotonic clock."""
        self.broke = ""
        """Why what came could not be read; empty while it could."""

    async def _do_recv(self) -> Message:
        try:
            message = await super()._do_recv()
        except (QMPError, ValueError, RecursionError) as error:  # no JSON, too long, no UTF-8, too many digits, too deep
            self.broke = _shown(error)
            raise _NoQmp(self.broke) from None
        if not isinstance(message.get("id"), str | None):  # ours are; others it could not even look up
            self.broke = "an answer to something that nobody asked"
            raise _NoQmp(self.broke)
        return message

    def _cb_inbound(self, msg: Message) -> Message:
        return msg

    def _cb_outbound(self, msg: Message) -> Message:
        return msg

    async def _event_dispatch(self, msg: Message) -> None:
        name = msg["event"]
        if isinstance(name, str) and name in REMEMBERED:
            self.heard[name] = time.monotonic_ns() // 1_000_000
        self.news.set()


class Session:
    """A connected monitor. Made by `connect`.

    Args:
        host: the host's name, for errors.
        guest: the guest's name, for errors.
        client: connected.
        sock: by which it is.
    """

    def __init__(self, host: str, guest: str, client: _Client, sock: socket.socket) -> None:
        self._host = host
        self._guest = guest
        self._client = client
        self._sock = sock
        self._closing: asyncio.Task[None] | None = None

    @property
    def host(self) -> str:
        """The host's name."""
        return self._host

    @classmethod
    async def connect(cls, shell: HostShell, guest: str, path: str) -> Self:
        """Connect to a monitor's socket.

        Raises:
            HypervisorError: nobody listens there, or it is in use by somebody else.
        """
        sock = await shell.open_unix(path, deadline_s=GREETING_DEADLINE_S)
        client = _Client(f"{guest}@{shell.name}")
        try:
            async with asyncio.timeout(GREETING_DEADLINE_S):
                await client.connect(sock)
        except TimeoutError:
            sock.close()
            if client.greeting is not None:
                raise HypervisorError(
                    f"The monitor of {guest} on {shell.name} greets, and then does not answer.", host=shell.name
                ) from None
            raise HypervisorError(
                f"The monitor of {guest} on {shell.name} is in use by somebody else: it takes one client at a time.",
                host=shell.name,
                hint=f"End whoever is connected to {path} (another migration, a tool), or give QEMU a second -qmp socket.",
            ) from None
        except ConnectError as error:
            sock.close()
            raise HypervisorError(
                f"The monitor of {guest} on {shell.name} does not answer at {path}: {_shown(error)}.",
                host=shell.name,
                raw=_shown(error),
            ) from error
        except BaseException:
            sock.close()
            raise
        return cls(shell.name, guest, client, sock)

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
                number=fold.said(error.error_class),
            ) from error
        except TimeoutError:
            raise AnswerNotSeen(
                f"QEMU on {self._host} did not answer {command} for {self._guest} within {deadline_s:g} s.", host=self._host
            ) from None
        except (QMPError, EOFError, OSError) as error:
            raise AnswerNotSeen(
                f"The monitor of {self._guest} on {self._host} closed before it answered {command}.",
                host=self._host,
                raw=self._client.broke or _shown(error),
            ) from error

    async def query(self, command: str, *, deadline_s: float = COMMAND_DEADLINE_S) -> dict[str, object]:
        """Execute a query that returns an object. Raises as `execute` does.

        Raises:
            HypervisorError: it returned something else. That is not the same as nothing: an empty query-migrate means something.
        """
        answer = await self.execute(command, deadline_s=deadline_s)
        if not isinstance(answer, dict):
            raise HypervisorError(
                f"QEMU on {self._host} answered {command} with something that is no answer to it.",
                host=self._host,
                raw=type(answer).__name__,
            )
        return answer

    async def woken(self, *, timeout_s: float) -> None:
        """Wait for an event, or the end, at most so long; events that piled up count as one."""
        await self._any([asyncio.create_task(self._client.news.wait()), asyncio.create_task(self._over())], timeout_s)
        self._client.news.clear()

    def heard_ms(self, event: str) -> int | None:
        """When that event of `REMEMBERED` came last, in ms of the monotonic clock; ``None`` while it has not."""
        return self._client.heard.get(event)

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
        """Disconnect. May be repeated, also by several at once; whoever is cancelled while it waits leaves it to go on."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._disconnect())
        await asyncio.shield(self._closing)

    async def _disconnect(self) -> None:
        with contextlib.suppress(OSError):  # closed already
            self._sock.shutdown(socket.SHUT_RDWR)  # or it would wait until the other side has read all that was written
        with contextlib.suppress(Exception):  # what ended its reader comes out here; whoever waited for an answer was told
            await self._client.disconnect()


def _words(error: ExecuteError) -> str:
    """What QEMU says, without the full stop that some of its messages have."""
    return fold.said(str(error)).rstrip(".")


def _shown(error: Exception) -> str:
    """An error of the library for people: its first line, for the others quote whatever came."""
    return fold.said(str(error).partition("\n")[0]) or type(error).__name__


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

    def reaches(self, process: Process) -> bool:
        """A session with it is open, as far as is known: so it is there, and nobody else has its place."""
        shared = self._open.get(process.key)
        return shared is not None and shared.opening.done() and not shared.is_dead

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
