"""What every way to reach a host promises. What may live here: the Protocol and its result type."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

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


class HostShell(Protocol):
    """A way to one host, open until `aclose`.

    Words may hold anything but NUL; bytes that are no UTF-8 as `os.fsdecode` puts them.
    """

    @property
    def name(self) -> str:
        """The host, for people."""
        ...

    async def run(self, argv: Sequence[str], *, deadline_s: float) -> Completed:
        """Run a command to its end, with nothing to read; the status is not judged.

        No word is ever interpreted by a shell. At the deadline the command is let go of: its streams are closed.

        Raises:
            HostUnreachable: the connection is lost; the command may or may not have run.
            AnswerNotSeen: not done by the deadline; it may still go on.
        """
        ...

    async def read_file(self, path: str, *, deadline_s: float) -> bytes:
        """All of a file.

        Raises:
            CommandFailed: it cannot be read; with the reason.
            HostUnreachable, AnswerNotSeen: as `run`.
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


def checked(host: str, argv: Sequence[str], done: Completed) -> Completed:
    """The same result, if it is a success.

    Raises:
        CommandFailed: its status is not zero.
    """
    if done.status:
        raise CommandFailed(host=host, argv=tuple(argv), status=done.status, stderr=os.fsdecode(done.stderr))
    return done
