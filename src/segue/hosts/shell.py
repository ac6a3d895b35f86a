"""What every way to reach a host promises. What may live here: the Protocol and its result type."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Protocol

from segue.errors import CommandFailed


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """How a command ended.

    Attributes:
        status: its exit status; 128 plus the signal's number when a signal ended it, as shells count.
        stdout, stderr: what it wrote, unchanged.
    """

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def complaint(self) -> str:
        """What it wrote to stderr, for people."""
        return os.fsdecode(self.stderr).strip()


Target = Callable[[], Awaitable[socket.socket]]
"""Opens the other end of a connection: connected, non-blocking, and the caller's to close."""


class HostShell(Protocol):
    """A way to one host, open until `aclose`.

    Words may hold anything but NUL; bytes that are no UTF-8 as `os.fsdecode` puts them.
    """

    @property
    def name(self) -> str:
        """The host, for people."""
        ...

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", deadline_s: float) -> Completed:
        """Run a command to its end; the status is not judged.

        No word is ever interpreted by a shell. At the deadline the command is let go of: its streams are closed.

        Raises:
            HostUnreachable: the connection is lost; the command may or may not have run.
            AnswerNotSeen: not done by the deadline; it may still go on.
        """
        ...

    def lines(self, argv: Sequence[str]) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Run a command for as long as the context lasts, and read what it writes to stdout, line by line as it comes.

        Raises:
            HostUnreachable: the connection to the host is lost; the command may go on.
        """
        ...

    async def read_file(self, path: str, *, deadline_s: float) -> bytes:
        """All of a file.

        Raises:
            CommandFailed: it cannot be read; with the reason.
            HostUnreachable, AnswerNotSeen: as `run`.
        """
        ...

    async def write_file(self, path: str, content: bytes, *, mode: int, deadline_s: float) -> None:
        """Make a file, or put another in its place: whole or not at all, and at no moment open to more than `mode` says.

        The content is in no command line, so it may be a secret.

        Raises:
            CommandFailed: it cannot be written; with the reason. What was there is as it was.
            HostUnreachable, AnswerNotSeen: it may or may not be there.
        """
        ...

    def serve_unix(self, path: str, target: Target, *, deadline_s: float) -> AbstractAsyncContextManager[None]:
        """Listen on a unix socket of the host, and carry each connection to it to what `target` opens, both ways.

        Only this user may connect. Leaving the context ends it, with every connection.

        Raises:
            HypervisorError: it cannot listen there; with the reason.
            HostUnreachable: the connection to the host is lost.
        """
        ...

    async def open_unix(self, path: str, *, deadline_s: float) -> socket.socket:
        """A connected, non-blocking socket whose other end is the host's unix socket of that path. The caller closes it.

        Raises:
            HypervisorError: there is no such socket, nobody listens on it, or it may not be opened; with the reason.
            HostUnreachable: the connection to the host is lost.
        """
        ...

    async def address(self) -> str:
        """An IP address by which this host was reached from here; empty for this machine itself."""
        ...

    async def aclose(self) -> None:
        """Let go of it, and of every socket opened through it. May be repeated."""
        ...


# $1 path, $2 mode, $3 its length: a connection that breaks ends our input too early, and half a file must not take its place.
_WRITE: Final = r"""
umask 077
new=$1.$$.segue
trap 'rm -f -- "$new"' EXIT
: >"$new" && chmod -- "$2" "$new" && cat >"$new" && sync -- "$new" && [ "$(wc -c <"$new")" -eq "$3" ] && mv -f -- "$new" "$1"
"""


def write_command(path: str, content: bytes, mode: int) -> list[str]:
    """The command that makes that file of its standard input."""
    return ["sh", "-c", _WRITE, "sh", path, f"{mode:o}", str(len(content))]


def checked(host: str, argv: Sequence[str], done: Completed) -> Completed:
    """The same result, if it is a success.

    Raises:
        CommandFailed: its status is not zero.
    """
    if done.status:
        raise CommandFailed(host=host, argv=tuple(argv), status=done.status, stderr=os.fsdecode(done.stderr))
    return done
