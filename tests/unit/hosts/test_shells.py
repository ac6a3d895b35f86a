"""Both ways to a host keep the same promises: this machine, and a real sshd's protocol in this process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import asyncssh
import pytest

from segue.core.model import DriverKind, HostAddress
from segue.errors import AnswerNotSeen, CommandFailed, HostUnreachable, HypervisorError, UsageError
from segue.hosts import HostShell, LocalShell, SshShell, SshTarget
from segue.hosts.reach import ssh_target, way_in
from segue.hosts.shell import write_command

ODD = ["a b", "it's", '"$HOME"', "$(touch /tmp/no)", "`id`", "two\nlines", "; exit 9", "*", "", "ünï", "\udcff", "-n"]


class Server(asyncssh.SSHServer):
    """Lets its one key in, and opens unix sockets."""

    ciphers: ClassVar[list[str]] = []
    """What each connection agreed on."""
    _connection: asyncssh.SSHServerConnection

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn

    def auth_completed(self) -> None:
        self.ciphers.append(self._connection.get_extra_info("recv_cipher"))

    def unix_connection_requested(self, _dest_path: str) -> bool:
        return True

    def unix_server_requested(self, _listen_path: str) -> bool:
        return True


EXECUTING: set[asyncio.Task[Any]] = set()
"""The server's commands; its fixture waits for them."""


async def execute(process: asyncssh.SSHServerProcess[bytes]) -> None:
    """Run the command as sshd does, through a login shell whose own files print."""
    if task := asyncio.current_task():
        EXECUTING.add(task)
    login = f"echo 'Welcome!'; echo 'Mind the gap' >&2; {process.command}"
    child = await asyncio.create_subprocess_shell(
        login, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert child.stdin
    assert child.stdout
    assert child.stderr
    child.stdin.write(await process.stdin.read())
    child.stdin.close()
    await asyncio.gather(pump(child.stdout, process.stdout), pump(child.stderr, process.stderr))
    process.exit(await child.wait())


async def pump(reader: asyncio.StreamReader, writer: asyncssh.SSHWriter[bytes]) -> None:
    while chunk := await reader.read(65536):
        with contextlib.suppress(BrokenPipeError):  # the client has left
            writer.write(chunk)
            await writer.drain()


@pytest.fixture
async def target(tmp_path: Path) -> AsyncIterator[SshTarget]:
    key, host_key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    key.write_private_key(str(tmp_path / "id"))
    (tmp_path / "authorized").write_bytes(key.export_public_key())
    server = await asyncssh.create_server(
        Server,
        "127.0.0.1",
        0,
        server_host_keys=[host_key],
        authorized_client_keys=str(tmp_path / "authorized"),
        process_factory=execute,
        encoding=None,
    )
    port = server.get_port()
    (tmp_path / "known").write_bytes(f"[127.0.0.1]:{port} ".encode() + host_key.export_public_key())
    yield SshTarget(host="127.0.0.1", port=port, user="root", identity=str(tmp_path / "id"), known_hosts=str(tmp_path / "known"))
    server.close()
    await server.wait_closed()
    async with asyncio.timeout(10):
        await asyncio.gather(*EXECUTING, return_exceptions=True)
    EXECUTING.clear()
    await asyncio.sleep(0)  # a process that has ended closes its transport in the loop's next turn
    await asyncio.sleep(0)


@pytest.fixture(params=["local", "ssh"])
async def shell(request: pytest.FixtureRequest, target: SshTarget) -> AsyncIterator[HostShell]:
    found: HostShell = LocalShell("h") if request.param == "local" else await SshShell.connect("h", target, deadline_s=5)
    yield found
    await found.aclose()
    await found.aclose()


async def test_no_word_is_interpreted(shell: HostShell):
    done = await shell.run(["printf", "%s\\0", *ODD], deadline_s=5)
    assert [os.fsdecode(word) for word in done.stdout.split(b"\0")[:-1]] == ODD
    assert done.status == 0


async def test_status_and_both_outputs_are_the_commands_own(shell: HostShell):
    done = await shell.run(["sh", "-c", "echo out; echo err >&2; exit 7"], deadline_s=5)
    assert (done.status, done.stdout, done.complaint) == (7, b"out\n", "err")


async def test_there_is_nothing_to_read(shell: HostShell):
    assert (await shell.run(["cat"], deadline_s=5)).stdout == b""


async def test_several_commands_at_once(shell: HostShell):
    done = await asyncio.gather(*(shell.run(["echo", str(number)], deadline_s=5) for number in range(5)))
    assert [one.stdout for one in done] == [f"{number}\n".encode() for number in range(5)]


async def test_files_are_read_or_said_to_be_unreadable(shell: HostShell, tmp_path: Path):
    (tmp_path / "it's").write_bytes(b"\0\xff")
    assert await shell.read_file(str(tmp_path / "it's"), deadline_s=5) == b"\0\xff"
    with pytest.raises(CommandFailed, match="none"):
        await shell.read_file(str(tmp_path / "none"), deadline_s=5)


async def test_a_unix_socket_is_carried_both_ways_and_closed(shell: HostShell, tmp_path: Path):
    ended = asyncio.Event()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line.upper())
        ended.set()
        writer.close()

    server = await asyncio.start_unix_server(echo, str(tmp_path / "s"))
    reader, writer = await asyncio.open_connection(sock=await shell.open_unix(str(tmp_path / "s"), deadline_s=5))
    writer.write(b"hello\n")
    async with asyncio.timeout(5):
        assert await reader.readline() == b"HELLO\n"
        writer.close()
        await ended.wait()
    server.close()


async def test_a_socket_that_is_not_there_is_named(shell: HostShell, tmp_path: Path):
    with pytest.raises(HypervisorError, match=str(tmp_path / "none")):
        await shell.open_unix(str(tmp_path / "none"), deadline_s=5)


async def test_a_command_that_takes_too_long_is_let_go_of():
    with pytest.raises(AnswerNotSeen, match=r"0\.05 s"):
        await LocalShell("h").run(["sleep", "60"], deadline_s=0.05)


async def refused(target: SshTarget, **changes: object) -> HostUnreachable:
    fields = {name: getattr(target, name) for name in ("host", "user", "port", "identity", "known_hosts")}
    with pytest.raises(HostUnreachable) as caught:
        await SshShell.connect("h", SshTarget(**{**fields, **changes}), deadline_s=0.5)
    return caught.value


async def test_an_unknown_host_key_is_not_trusted(target: SshTarget, tmp_path: Path):
    (tmp_path / "empty").touch()
    assert "is not known" in (await refused(target, known_hosts=str(tmp_path / "empty"))).message


async def test_a_changed_host_key_is_not_trusted(target: SshTarget):
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key()
    Path(target.known_hosts).write_bytes(f"[127.0.0.1]:{target.port} ".encode() + other)
    error = await refused(target)
    assert "is not the one" in error.message
    assert "ssh-keygen -R" in error.hint


async def test_a_key_that_is_not_accepted(target: SshTarget, tmp_path: Path):
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(tmp_path / "other"))
    assert "no key" in (await refused(target, identity=str(tmp_path / "other"))).message


@pytest.mark.parametrize(
    ("config", "taken"),
    [("", "aes256-gcm@openssh.com"), ("Ciphers chacha20-poly1305@openssh.com,aes128-ctr\n", "chacha20-poly1305@openssh.com")],
)
async def test_the_cipher_is_the_cheapest_that_the_user_lets_be_used(
    target: SshTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str, taken: str
):
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text(config, encoding="utf-8")
    monkeypatch.setenv("HOME", str(tmp_path))
    shell = await SshShell.connect("h", target, deadline_s=5)
    try:
        assert Server.ciphers[-1] == taken
    finally:
        await shell.aclose()


async def test_nobody_listens(target: SshTarget):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert "refused" in (await refused(target, port=taken.getsockname()[1])).message


async def test_nobody_answers(target: SshTarget):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert "no answer within 0.5 s" in (await refused(target, port=silent.getsockname()[1])).message


async def test_no_such_host(target: SshTarget):
    assert "no such host" in (await refused(target, host="nowhere.invalid")).message


def address(uri: str) -> HostAddress:
    return HostAddress(name="h", uri=uri, driver=DriverKind.QEMU)


def test_who_is_meant_by_a_uri():
    assert ssh_target(address("qmp:///")) is None
    assert ssh_target(address("qmp+ssh://beta/")) == SshTarget(host="beta")
    assert ssh_target(address("qmp+ssh://a%40b@[fe80::1]:22")) == SshTarget(host="fe80::1", user="a@b", port=22)


@pytest.mark.parametrize(
    "uri", ["qmp+ssh:///", "qmp://beta/", "qmp+ssh://u:secret@beta/", "qmp+ssh://b:x/", "qmp+ssh://b/system"]
)
def test_a_uri_that_cannot_be_is_said_so_without_its_password(uri):
    with pytest.raises(UsageError) as caught:
        ssh_target(address(uri))
    assert "secret" not in str(caught.value)


async def test_a_command_reads_what_it_is_given_and_nothing_of_our_script(shell: HostShell):
    done = await shell.run(["cat"], stdin=(given := bytes(range(256)) * 5000), deadline_s=10)
    assert done.stdout == given


async def test_a_file_is_written_whole_with_its_mode_and_takes_the_place_of_another(shell: HostShell, tmp_path: Path):
    path = tmp_path / "it's $(new)"
    for content, mode in ((b"old", 0o644), (os.urandom(100_000) + b"\0\n", 0o600), (b"", 0o640)):
        await shell.write_file(str(path), content, mode=mode, deadline_s=10)
        assert (path.read_bytes(), path.stat().st_mode & 0o777) == (content, mode)
    assert list(tmp_path.glob("it*")) == [path]


async def test_a_file_that_cannot_be_written_leaves_what_was_there(shell: HostShell, tmp_path: Path):
    with pytest.raises(CommandFailed):
        await shell.write_file(str(tmp_path / "missing/file"), b"secret", mode=0o600, deadline_s=10)
    (tmp_path / "directory").mkdir()
    with pytest.raises(CommandFailed):
        await shell.write_file(f"{tmp_path}/directory/", b"secret", mode=0o600, deadline_s=10)
    assert not list((tmp_path / "directory").iterdir())


async def test_half_a_file_does_not_take_the_place_of_another(tmp_path: Path):
    path = tmp_path / "kept"
    path.write_bytes(b"whole")
    command = write_command(str(path), b"new content", 0o600)
    done = await LocalShell("h").run(command, stdin=b"new con", deadline_s=5)
    assert (done.status != 0, path.read_bytes(), list(tmp_path.glob("kept*"))) == (True, b"whole", [path])


async def test_a_served_socket_carries_to_its_target_both_ways(shell: HostShell, tmp_path: Path):
    path = str(tmp_path / "served")
    here, there = socket.socketpair()
    for sock in (here, there):
        sock.setblocking(False)

    async def target() -> socket.socket:
        return there

    async with asyncio.timeout(20), shell.serve_unix(path, target, deadline_s=5):
        reader, writer = await asyncio.open_unix_connection(path)
        far_reader, far_writer = await asyncio.open_connection(sock=here)
        sent = os.urandom(3_000_000)
        for stream, other in ((writer, far_reader), (far_writer, reader)):
            stream.write(sent)
            assert await other.readexactly(len(sent)) == sent
        writer.close()
        assert await far_reader.read() == b""  # one end closed closes the other
        far_writer.close()
    assert not Path(path).exists()


async def test_a_served_socket_without_a_target_is_closed_to_whoever_connects(shell: HostShell, tmp_path: Path):
    path = str(tmp_path / "served")

    async def target() -> socket.socket:
        raise HypervisorError("not there", host="h")

    async with asyncio.timeout(20), shell.serve_unix(path, target, deadline_s=5):
        reader, writer = await asyncio.open_unix_connection(path)
        assert await reader.read() == b""
        writer.close()


async def test_a_socket_that_cannot_be_served_says_why(shell: HostShell, tmp_path: Path):
    with pytest.raises(HypervisorError, match="cannot listen"):
        async with shell.serve_unix(str(tmp_path / "missing/served"), LocalShell("h").aclose, deadline_s=5):  # type: ignore[arg-type]
            pass


async def test_lines_come_as_they_are_written(shell: HostShell, tmp_path: Path):
    os.mkfifo(tmp_path / "go on")
    waits = ["sh", "-c", 'echo one; read x <"$1"; echo "$x"', "sh", str(tmp_path / "go on")]
    async with asyncio.timeout(10), shell.lines(waits) as lines:
        assert await anext(lines) == b"one\n"
        await asyncio.to_thread((tmp_path / "go on").write_text, "two\n")
        assert [line async for line in lines] == [b"two\n"]


async def test_who_stops_reading_lines_does_not_wait_for_the_rest(shell: HostShell):
    async with asyncio.timeout(10), shell.lines(["sh", "-c", "echo one; seq 1000"]) as lines:
        assert await anext(lines) == b"one\n"


@pytest.mark.parametrize(
    ("uris", "way"),
    [
        (["qemu+tls://beta:16514/system", "qmp+ssh://root@b/"], "qmp+ssh://root@b/"),
        (["qemu+ssh://root@beta:2222/system"], "qmp+ssh://root@beta:2222/"),
        (["qemu+tls://beta:16514/system"], "qmp+ssh://beta/"),
        (["qemu+tcp://[fd00::2]/system"], "qmp+ssh://[fd00::2]/"),
        (["qemu:///system"], "qmp:///"),
    ],
)
def test_a_host_is_entered_as_its_bare_guests_are_or_by_ssh_to_its_libvirt(uris, way):
    kinds = {True: DriverKind.QEMU, False: DriverKind.LIBVIRT}
    addresses = [HostAddress(name="b", uri=uri, driver=kinds[uri.startswith("qmp")], ssh_identity="k") for uri in uris]
    found = way_in(addresses)
    assert (found.uri, found.driver, found.ssh_identity) == (way, DriverKind.QEMU, "k")
    ssh_target(found)


def test_no_compiler_is_started_to_load_what_reaches_a_host(tmp_path: Path) -> None:
    for name in ("gcc", "cc", "ld"):
        (tmp_path / name).write_text('#!/bin/sh\n: >"$0.ran"\n', encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    script = "import sys; from segue.hosts import load; from segue.config import address_of; load([address_of(sys.argv[1])])"
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run([sys.executable, "-c", script, "qmp+ssh://h/"], env=environment, check=True, timeout=60)
    assert list(tmp_path.glob("*.ran")) == []
