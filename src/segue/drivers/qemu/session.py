"""A QMP session with one QEMU: commands with deadlines, events, and errors in our words.

A monitor's socket serves one client at a time (QEMU, chardev/char-socket.c): a second one connects and hears nothing until the
first leaves. So a session is made once per QEMU and shared, and a greeting that does not come means that somebody else is in.
What may live here: the thin layer over QEMU's own qemu.qmp.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Final, Self

from qemu.qmp import ConnectError, EventListener, ExecInterruptedError, ExecuteError, QMPClient, QMPError, StateError

from segue.errors import AnswerNotSeen, HypervisorError
from segue.hosts import HostShell

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
        self.events: Final = EventListener(("MIGRATION", "MIGRATION_PASS"))
        client.register_listener(self.events)

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
        self, command: str, arguments: Mapping[str, object] | None = None, *, deadline_s: float = COMMAND_DEADLINE_S
    ) -> object:
        """Execute a command and return what it returns.

        Raises:
            HypervisorError: QEMU's own error.
            AnswerNotSeen: the session broke, or no answer by the deadline: done or not is open.
        """
        try:
            async with asyncio.timeout(deadline_s):
                return await self._client.execute(command, dict(arguments) if arguments else None)
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

    async def query(self, command: str) -> dict[str, object]:
        """Execute a query that returns an object."""
        answer = await self.execute(command)
        return answer if isinstance(answer, dict) else {}

    async def woken(self, *, timeout_s: float) -> None:
        """Wait for an event about migration, at most so long; events that piled up count as one."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.events.get()
        self.events.clear()

    async def aclose(self) -> None:
        """Disconnect. May be repeated."""
        await _discard(self._client)


async def _discard(client: QMPClient) -> None:
    with contextlib.suppress(QMPError, EOFError, OSError):  # it was broken already, which is what ended it
        await client.disconnect()


def _words(error: ExecuteError) -> str:
    """What QEMU says, without the full stop that some of its messages have."""
    return str(error).rstrip(".")
