"""Another machine as a host, over ssh. What may live here: `SshShell`, and the sentences for every way in which ssh can fail.

The host needs an sshd and a POSIX ``sh``, nothing of Segue. Who may log in, and which key a host must show, is ssh's matter:
the user's ``~/.ssh/config``, agent and known_hosts count, except for what segue.toml says. The host's key is always
verified, and nobody is ever asked for a password.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import shlex
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from segue.errors import AnswerNotSeen, HostUnreachable, HypervisorError, SegueError
from segue.hosts.bridges import Bridges, Stream
from segue.hosts.shell import Completed, Target, checked, write_command

if TYPE_CHECKING:
    import asyncssh

KEEPALIVE_S: Final = 5
"""A dead path is noticed after three of these without an answer: libvirt's own keepalive is 5 s, five times."""
KEEPALIVE_TRIES: Final = 3
SERVED_WINDOW_BYTES: Final = 1 << 19
"""How much may be on its way from a served socket that nobody has read (RFC 4254, 5.2). QEMU judges what the way carries by what
it can write in 100 ms (migration/migration.c, BUFFER_DELAY), and takes what a wide window swallows at once, 2 MiB by asyncssh's
default, for speed: it switched over too early and the guest stood for seconds. This still carries 10 MiB/s over 50 ms."""
# Nothing that could ask a person for a secret.
_AUTHENTICATION: Final = ("gssapi-keyex", "gssapi-with-mic", "hostbased", "publickey")
# sshd hands the command to the user's login shell, whatever that is. So the command is three plain words, and ours goes to a
# POSIX sh on stdin, quoted: there `shlex` is right, and the words may be longer than one argument may be.
_SH: Final = "exec /bin/sh -s"
# What a command is to read follows after its script. A shell may read ahead of what it executes (dash does); dd does not.
_SH_WITH_INPUT: Final = "exec /bin/sh -c 'eval \"$(dd bs=1 count=%d 2>/dev/null)\"'"
# A login shell may read files first that print (bash reads ~/.bashrc when sshd starts it): output counts from this mark on.
_MARK: Final = b"--- segue ---\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class SshTarget:
    """Whom to log in to.

    Attributes:
        host: name, address or alias in ``~/.ssh/config``.
        user, port: ``None``: ssh's own choice.
        identity: path of a private key; empty: ssh's own choice.
        known_hosts: path of a known_hosts file; empty: the user's own.
    """

    host: str
    user: str | None = None
    port: int | None = None
    identity: str = ""
    known_hosts: str = ""


def _ciphers(target: SshTarget) -> list[str]:
    """What the user's own configuration lets be used, AES-GCM first.

    Of a packet in it OpenSSL makes one call; ChaCha20-Poly1305, which asyncssh would take, is put together in Python of six. That
    is a tenth of the 1.1 s that this process works for a whole migration (medians of ten, one beside the other).
    """
    import asyncssh

    allowed = asyncssh.SSHClientConnectionOptions(
        host=target.host, port=target.port or (), username=target.user or (), client_keys=(), config=()
    ).encryption_algs
    return sorted((name.decode() for name in allowed), key=lambda name: "gcm" not in name)


class SshShell:
    """A host behind an ssh connection. Made by `connect`.

    Args:
        name: of the host, for people.
        connection: open, and owned by this object from now on.
    """

    def __init__(self, name: str, connection: asyncssh.SSHClientConnection) -> None:
        self._name = name
        self._connection = connection
        self._bridges = Bridges()

    @staticmethod
    async def connect(name: str, target: SshTarget, *, deadline_s: float) -> SshShell:
        """Log in.

        Raises:
            HostUnreachable: with what happened and what to do about it.
        """
        import asyncssh

        logging.getLogger("asyncssh").addHandler(logging.NullHandler())  # what matters is in our errors
        try:
            async with asyncio.timeout(deadline_s):
                connection = await asyncssh.connect(
                    target.host,
                    port=target.port or (),
                    username=target.user or (),
                    client_keys=[target.identity] if target.identity else (),
                    known_hosts=target.known_hosts or (),
                    preferred_auth=_AUTHENTICATION,
                    encryption_algs=await asyncio.to_thread(_ciphers, target),
                    keepalive_interval=KEEPALIVE_S,
                    keepalive_count_max=KEEPALIVE_TRIES,
                )
        except (OSError, asyncssh.Error, asyncssh.KeyImportError) as error:
            raise _unreachable(name, target, error, deadline_s) from error
        return SshShell(name, connection)

    @property
    def name(self) -> str:
        """The host, for people."""
        return self._name

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", deadline_s: float) -> Completed:
        """Run a command in a channel of its own. See `HostShell.run`."""
        import asyncssh

        mark = shlex.quote(_MARK.decode().rstrip())
        script = os.fsencode(f"echo {mark}; echo {mark} >&2; exec {shlex.join(argv)}{'' if stdin else ' </dev/null'}\n")
        shell = _SH_WITH_INPUT % len(script) if stdin else _SH
        try:
            async with asyncio.timeout(deadline_s), self._connection.create_process(shell, encoding=None) as process:
                stdout, stderr = await process.communicate(script + stdin)
                await process.wait_closed()
        except TimeoutError:
            raise AnswerNotSeen(f"{argv[0]} on {self._name} was not done after {deadline_s:g} s.", host=self._name) from None
        except (OSError, asyncssh.Error) as error:
            raise self._lost(error) from error
        status = process.returncode
        if status is None:
            raise self._lost(None)
        status = status if status >= 0 else 128 - status
        return Completed(status=status, stdout=_after_mark(stdout), stderr=_after_mark(stderr))

    @contextlib.asynccontextmanager
    async def lines(self, argv: Sequence[str]) -> AsyncIterator[AsyncIterator[bytes]]:
        """Run a command, and read its lines. See `HostShell.lines`."""
        import asyncssh

        mark = shlex.quote(_MARK.decode().rstrip())
        try:
            async with self._connection.create_process(_SH, encoding=None) as process:
                process.stdin.write(os.fsencode(f"echo {mark}; exec {shlex.join(argv)} </dev/null 2>/dev/null\n"))
                process.stdin.write_eof()
                yield self._lines_of(process.stdout)
        except (OSError, asyncssh.Error) as error:
            raise self._lost(error) from error

    async def _lines_of(self, reader: asyncssh.SSHReader[bytes]) -> AsyncIterator[bytes]:
        while (line := await reader.readline()) and line != _MARK:
            pass
        while line := await reader.readline():
            yield line
        if self._connection.is_closed():
            raise self._lost(None)

    async def read_file(self, path: str, *, deadline_s: float) -> bytes:
        """All of a file. See `HostShell.read_file`."""
        argv = ["cat", "--", path]
        return checked(self._name, argv, await self.run(argv, deadline_s=deadline_s)).stdout

    async def write_file(self, path: str, content: bytes, *, mode: int, deadline_s: float) -> None:
        """Make a file. See `HostShell.write_file`."""
        argv = write_command(path, content, mode)
        checked(self._name, argv, await self.run(argv, stdin=content, deadline_s=deadline_s))

    async def open_unix(self, path: str, *, deadline_s: float) -> socket.socket:
        """One end of a socket pair; the other end is pumped through the connection. See `HostShell.open_unix`."""
        import asyncssh

        try:
            async with asyncio.timeout(deadline_s):
                far_reader, far_writer = await self._connection.open_unix_connection(path, encoding=None)
        except (TimeoutError, asyncssh.ChannelOpenError) as error:
            if self._connection.is_closed():
                raise self._lost(error) from error
            reason = error.reason if isinstance(error, asyncssh.ChannelOpenError) else f"no answer within {deadline_s:g} s"
            raise HypervisorError(
                f"The socket {path} on {self._name} cannot be opened: {reason}.",
                host=self._name,
                raw=str(error),
                hint="Its sshd must allow AllowStreamLocalForwarding, and the user who logs in must be allowed to open it.",
            ) from error
        except (OSError, asyncssh.Error) as error:
            raise self._lost(error) from error
        return await self._bridges.socket_of(Stream(far_reader, far_writer))

    @contextlib.asynccontextmanager
    async def serve_unix(self, path: str, target: Target, *, deadline_s: float) -> AsyncIterator[None]:
        """Let the host's sshd listen. See `HostShell.serve_unix`."""
        import asyncssh

        def connected() -> Callable[[asyncssh.SSHReader[bytes], asyncssh.SSHWriter[bytes]], None]:
            return lambda reader, writer: self._bridges.to_target(Stream(reader, writer), target)

        try:
            async with asyncio.timeout(deadline_s):
                listener = await self._connection.start_unix_server(connected, path, encoding=None, window=SERVED_WINDOW_BYTES)
        except (OSError, asyncssh.Error, asyncssh.ChannelListenError) as error:
            if self._connection.is_closed():
                raise self._lost(error) from error
            raise HypervisorError(
                f"The sshd of {self._name} cannot listen on {path}: {str(error) or f'no answer within {deadline_s:g} s'}.",
                host=self._name,
                raw=str(error),
                hint="It must allow AllowStreamLocalForwarding, and the user who logs in must be allowed to write there.",
            ) from error
        try:
            yield
        finally:
            listener.close()
            with contextlib.suppress(SegueError):  # sshd leaves the socket when the connection is lost; so do we
                await self.run(["rm", "-f", "--", path], deadline_s=deadline_s)

    async def address(self) -> str:
        """The address at the other end of the connection."""
        peer = self._connection.get_extra_info("peername")
        return str(peer[0]) if peer else ""

    async def aclose(self) -> None:
        """Close the connection; its bridges end with it."""
        await self._bridges.aclose()
        self._connection.close()
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(KEEPALIVE_S):
                await self._connection.wait_closed()

    def _lost(self, error: Exception | None) -> HostUnreachable:
        return HostUnreachable(
            f"The ssh connection to {self._name} was lost{f': {error}' if error else ''}.",
            host=self._name,
            hint="Look at the network and at the host.",
        )


def _after_mark(output: bytes | None) -> bytes:
    """What the command itself wrote."""
    return (output or b"").partition(_MARK)[2]


def _unreachable(name: str, target: SshTarget, error: Exception, deadline_s: float) -> HostUnreachable:
    """What went wrong with logging in, in words, and what to do about it."""
    import asyncssh

    there = target.host if target.port is None else f"{target.host} port {target.port}"
    match error:
        case asyncssh.HostKeyNotVerifiable():
            what, hint = _key_trouble(target)
        case asyncssh.PermissionDenied():
            what = "no key that was offered is accepted there"
            hint = f"'ssh {target.user + '@' if target.user else ''}{target.host}' must work without asking for a password."
        case asyncssh.KeyImportError():
            what, hint = f"the key {target.identity} cannot be used: {error}", "Name another one with ssh_identity."
        case ConnectionRefusedError():
            what, hint = "the connection was refused", "Is sshd running there, on that port, and let through by the firewall?"
        case TimeoutError():
            what, hint = f"no answer within {deadline_s:g} s", "Is the host up, and port 22 let through by the firewall?"
        case socket.gaierror():
            what, hint = "there is no such host", "Look for a typing error; otherwise add the name to DNS or /etc/hosts."
        case OSError(errno=errno.EHOSTUNREACH | errno.ENETUNREACH):
            what, hint = (
                "there is no way to it",
                f"Is the host up? 'ip route get {target.host}' shows the way.",
            )
        case _:
            what, hint = str(error) or type(error).__name__, f"'ssh -v {target.host} true' shows more."
    return HostUnreachable(f"{name} cannot be reached by ssh at {there}: {what}.", host=name, hint=hint)


def _key_trouble(target: SshTarget) -> tuple[str, str]:
    """A host key that was not accepted: never seen, or another one than the known one?"""
    import asyncssh

    known_hosts = target.known_hosts or str(Path("~/.ssh/known_hosts").expanduser())
    try:
        keys = asyncssh.match_known_hosts(known_hosts, target.host, "", target.port)[0]
    except (OSError, ValueError):
        keys = []
    if keys:
        return (
            f"its host key is not the one in {known_hosts}",
            f"Find out why it changed before you trust it; 'ssh-keygen -R {target.host} -f {known_hosts}' then forgets it.",
        )
    return (
        f"its host key is not known in {known_hosts}",
        f"Compare it with the host's own (ssh-keyscan {target.host}), then add it to that file.",
    )
