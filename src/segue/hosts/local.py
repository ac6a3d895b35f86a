"""This machine as a host. What may live here: `LocalShell`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from segue.errors import AnswerNotSeen, CommandFailed, HypervisorError
from segue.hosts.bridges import Bridges, Stream
from segue.hosts.shell import Completed, Target, checked, write_command


class LocalShell:
    """This machine, with the rights of this process.

    Args:
        name: of the host, for people.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def name(self) -> str:
        """The host, for people."""
        return self._name

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", deadline_s: float) -> Completed:
        """Run a command; at the deadline it is killed. See `HostShell.run`."""
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, stderr=pipe)
        except OSError as error:
            raise CommandFailed(host=self._name, argv=tuple(argv), status=127, stderr=str(error)) from error
        try:
            async with asyncio.timeout(deadline_s):
                stdout, stderr = await process.communicate(stdin)
        except TimeoutError:
            raise AnswerNotSeen(f"{argv[0]} on {self._name} was not done after {deadline_s:g} s.", host=self._name) from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        status = process.returncode or 0
        return Completed(status=status if status >= 0 else 128 - status, stdout=stdout, stderr=stderr)

    @contextlib.asynccontextmanager
    async def lines(self, argv: Sequence[str]) -> AsyncIterator[AsyncIterator[bytes]]:
        """Run a command, and read its lines. See `HostShell.lines`."""
        nothing, pipe = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(*argv, stdin=nothing, stdout=pipe, stderr=nothing)
        except OSError as error:
            raise CommandFailed(host=self._name, argv=tuple(argv), status=127, stderr=str(error)) from error
        if process.stdout is None:
            raise AssertionError("it is a pipe")
        try:
            yield process.stdout
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            await process.communicate()

    async def read_file(self, path: str, *, deadline_s: float) -> bytes:
        """All of a file. See `HostShell.read_file`."""
        argv = ["cat", "--", path]
        return checked(self._name, argv, await self.run(argv, deadline_s=deadline_s)).stdout

    async def write_file(self, path: str, content: bytes, *, mode: int, deadline_s: float) -> None:
        """Make a file. See `HostShell.write_file`."""
        argv = write_command(path, content, mode)
        checked(self._name, argv, await self.run(argv, stdin=content, deadline_s=deadline_s))

    @contextlib.asynccontextmanager
    async def serve_unix(self, path: str, target: Target, *, deadline_s: float) -> AsyncIterator[None]:  # noqa: ARG002  # at once
        """Listen on a unix socket. See `HostShell.serve_unix`."""
        bridges = Bridges()
        sock = socket.socket(socket.AF_UNIX)
        os.fchmod(sock.fileno(), 0o600)  # before it has a name, so that it is at no moment open to others
        try:
            sock.bind(path)
            server = await asyncio.start_unix_server(lambda *stream: bridges.to_target(Stream(*stream), target), sock=sock)
        except OSError as error:
            sock.close()
            raise HypervisorError(
                f"{self._name} cannot listen on {path}: {error.strerror}.", host=self._name, raw=str(error)
            ) from error
        try:
            yield
        finally:
            server.close()
            await bridges.aclose()
            await asyncio.to_thread(Path(path).unlink, missing_ok=True)

    async def open_unix(self, path: str, *, deadline_s: float) -> socket.socket:
        """Connect to a unix socket. See `HostShell.open_unix`."""
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        try:
            async with asyncio.timeout(deadline_s):
                await asyncio.get_running_loop().sock_connect(sock, path)
        except OSError as error:  # a TimeoutError is one too: the listener's backlog is full
            sock.close()
            raise HypervisorError(
                f"The socket {path} on {self._name} cannot be opened: {error.strerror or 'nobody accepts'}.",
                host=self._name,
                raw=str(error),
            ) from error
        except BaseException:
            sock.close()
            raise
        return sock

    async def address(self) -> str:
        """None: it was not reached over any network."""
        return ""

    async def aclose(self) -> None:
        """Nothing is held."""
