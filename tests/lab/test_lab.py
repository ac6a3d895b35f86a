"""The lab itself: its hosts are hosts, its links are links, and whatever happens to `up`, `down` leaves nothing.

It has a lab of its own beside the one that the other tests move guests in: here labs are killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from segue import units
from segue.errors import CommandFailed, LabError
from segue.lab import Lab, down, up
from segue.lab.layout import Layout, uplink_mac
from tests.lab.conftest import SEGUE
from tests.support import daemons
from tests.support.labs import lab_name

pytestmark = pytest.mark.lab

NAME = lab_name("testlab")
KILLED = Layout(name=lab_name("testkilled"))
RATE_BPS = units.parse_rate("300mbit")
PYTHON = sys.executable
DEADLINE_S = 30.0


@pytest.fixture(scope="module")
def own() -> Iterator[Lab]:
    """A lab of two hosts with links of 300 Mbit/s."""
    asyncio.run(down(NAME))  # of a run that was killed
    found = asyncio.run(up(name=NAME, rate_bps=RATE_BPS))
    try:
        yield found
    finally:
        asyncio.run(down(NAME))


@pytest.fixture
def killed() -> Iterator[Layout]:
    """The name of a lab that is not up, and will not be."""
    asyncio.run(down(KILLED.name))
    yield KILLED
    asyncio.run(down(KILLED.name))


def segue_lab(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([SEGUE, "lab", *words], input=stdin, capture_output=True, text=True, timeout=DEADLINE_S, check=False)


def said(lab: Lab, host: str, *argv: str) -> str:
    return asyncio.run(lab.run(host, argv)).stdout.strip()


# --- what a host is


def test_hosts_have_their_own_names_addresses_and_processes(own: Lab) -> None:
    for host, address in {"admin": "10.77.0.2", "storage": "10.77.0.3", "alpha": "10.77.0.11", "beta": "10.77.0.12"}.items():
        assert said(own, host, "hostname") == host
        assert f" {address}/24" in said(own, host, "ip", "-o", "-4", "addr")
        assert host == "admin" or said(own, host, "cat", "/proc/1/comm") == "tini"
        assert said(own, "admin", "getent", "ahostsv4", host).split()[0] == address


async def test_no_guests_tap_gives_a_bridge_its_address(own: Lab) -> None:
    """Two hosts whose bridges have one address do not reach each other."""
    await own.run("alpha", ["ip", "tuntap", "add", "mode", "tap", "name", "vnet9"])
    try:
        await own.run("alpha", ["ip", "link", "set", "vnet9", "address", "fe:54:00:77:00:00", "master", "br0"])
        assert (await own.run("alpha", ["cat", "/sys/class/net/br0/address"])).stdout.strip() == uplink_mac("alpha")
    finally:
        await own.run("alpha", ["ip", "link", "del", "vnet9"])


def test_nothing_of_the_lab_is_in_the_users_own_namespaces(own: Lab) -> None:
    assert "10.77.0." not in subprocess.run(["ip", "addr"], capture_output=True, text=True, check=True).stdout
    assert str(own.root) not in Path("/proc/self/mountinfo").read_text(encoding="utf-8")


def test_libvirt_answers_over_tcp_and_over_ssh(own: Lab) -> None:
    for uri in ("qemu+tcp://alpha/system", "qemu+ssh://beta/system"):
        host = uri.split("//")[1].split("/")[0]
        assert said(own, "admin", "virsh", "-c", uri, "hostname") == host


def test_ssh_goes_from_admin_to_hosts_and_between_them(own: Lab) -> None:
    assert said(own, "admin", "ssh", "alpha", "ssh", "beta", "hostname") == "beta"


def test_what_qemu_writes_to_the_export_is_in_the_export(own: Lab) -> None:
    image = own.export / "written.img"
    with image.open("wb") as file:
        file.truncate(units.MIB)
    url = f"nfs://storage{image}"
    said(own, "alpha", "qemu-io", "-f", "raw", "-c", "write -P 0x5e 0 4k", url)
    assert image.read_bytes()[:4096] == b"\x5e" * 4096
    assert "pattern" not in said(own, "beta", "qemu-io", "-f", "raw", "-c", "read -P 0x5e 0 4k", url)


# --- links

_RECEIVE = """
import socket, time
with socket.create_server(("", 7000)) as server:
    print("ready", flush=True)
    peer, _ = server.accept()
    began, count = time.monotonic(), 0
    while data := peer.recv(1 << 20):
        count += len(data)
    print(count / (time.monotonic() - began))
"""
_SEND = "import socket; socket.create_connection(('beta', 7000)).sendall(bytes(20 << 20))"
_ECHO = """
import socket
with socket.create_server(("", 7001)) as server:
    print("ready", flush=True)
    peer, _ = server.accept()
    while data := peer.recv(64):
        peer.sendall(data)
"""
_ASK = """
import socket, sys
with socket.create_connection(("beta", 7001)) as peer:
    for line in sys.stdin:
        peer.sendall(line.encode())
        print(peer.recv(64).decode(), end="", flush=True)
"""


async def start(lab: Lab, host: str, program: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    argv = lab.enter_argv(host, [PYTHON, "-c", program])
    return await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe)


async def heard(process: asyncio.subprocess.Process, *, deadline_s: float = 15.0) -> str:
    assert process.stdout
    return (await asyncio.wait_for(process.stdout.readline(), deadline_s)).decode().strip()


async def end(*them: asyncio.subprocess.Process) -> None:
    for process in them:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_a_link_has_the_rate_that_was_set(own: Lab) -> None:
    for rate_bps in (RATE_BPS, RATE_BPS // 2):
        await own.set_rate("beta", rate_bps)
        receiver = await start(own, "beta", _RECEIVE)
        try:
            assert await heard(receiver) == "ready"
            await own.run("alpha", [PYTHON, "-c", _SEND])
            assert 0.85 * rate_bps < float(await heard(receiver)) < 1.02 * rate_bps
        finally:
            await end(receiver)
    await own.set_rate("beta", RATE_BPS)


async def test_a_cut_link_loses_packets_silently_and_heals(own: Lab) -> None:
    server = await start(own, "beta", _ECHO)
    assert await heard(server) == "ready"
    client = await start(own, "alpha", _ASK)
    assert client.stdin
    try:
        client.stdin.write(b"before\n")
        assert await heard(client) == "before"
        await own.cut("beta")
        assert await own.cuts() == {"beta"}
        client.stdin.write(b"meanwhile\n")
        with pytest.raises(TimeoutError):
            await heard(client, deadline_s=0.5)
        assert client.returncode is None  # no reset told it
        assert "LOWER_UP" in (await own.run("beta", ["ip", "link", "show", "up0"])).stdout  # nor did the carrier
        await own.heal("beta")
        assert await heard(client) == "meanwhile"
        assert await own.cuts() == set()
    finally:
        await own.heal("beta")
        await end(client, server)


# --- lab run

_TELL_INTERRUPTS = """
import signal, sys, time
count = 0
def interrupted(*_):
    global count
    count += 1
signal.signal(signal.SIGINT, interrupted)
print("ready", flush=True)
while not count:  # not signal.pause: it would not wake for one that came just before it
    time.sleep(0.02)
end = time.monotonic() + 0.2  # a second one, of the same Ctrl-C, would come at once
while time.monotonic() < end:
    time.sleep(0.02)
print(count, flush=True)
sys.exit(4)
"""


@pytest.mark.usefixtures("own")
def test_run_gives_the_commands_status_input_and_output() -> None:
    echoed = segue_lab("run", "--name", NAME, "--on", "alpha", "--", "sh", "-c", "cat; hostname; exit 7", stdin="hello\n")
    assert (echoed.returncode, echoed.stdout, echoed.stderr) == (7, "hello\nalpha\n", "")


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("by", ["signal", "terminal"])
def test_an_interrupt_reaches_the_command_once_and_its_status_comes_back(by: str) -> None:
    argv = [SEGUE, "lab", "run", "--name", NAME, "--", PYTHON, "-c", _TELL_INTERRUPTS]
    keyboard, terminal = pty.openpty()
    if by == "terminal":
        argv = ["setsid", "--ctty", "--wait", *argv]
    process = subprocess.Popen(argv, stdin=terminal, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        if by == "terminal":
            os.write(keyboard, b"\x03")
        else:
            process.send_signal(signal.SIGINT)
        assert (process.stdout.read(), process.wait(DEADLINE_S)) == ("1\n", 4)
    finally:
        process.kill()
        process.communicate()
        os.close(keyboard)
        os.close(terminal)


async def test_a_command_that_is_given_up_does_not_live_on(own: Lab) -> None:
    with pytest.raises(LabError, match="not done after"):
        await own.run("alpha", ["sleep", "7777"], deadline_s=0.5)
    async with asyncio.timeout(10):
        while (await own.run("alpha", ["pgrep", "-f", "^sleep 7777"], check=False)).status == 0:
            pass


# --- what it says


@pytest.mark.usefixtures("own")
def test_status_shows_hosts_daemons_and_links() -> None:
    shown = json.loads(segue_lab("status", "--name", NAME, "--json").stdout)
    assert shown["hosts"]["alpha"]["daemons"] == {"sshd": True, "libvirtd": True}
    assert shown["hosts"]["storage"]["daemons"] == {"rpcbind": True, "ganesha.nfsd": True}
    assert (shown["hosts"]["beta"]["rate_bps"], shown["hosts"]["beta"]["cut"]) == (RATE_BPS, False)
    assert shown["storage"] in ("kernel", "qemu-nfs")


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (("up", "--name", NAME), 1, "is already up"),
        (("up", "--name", "No-Name"), 1, "is no name for a lab"),
        (("up", "--name", "other", "--hosts", "9"), 1, "1 to 8 hosts"),
        (("up", "--name", "other", "--link", "fast"), 2, "is not a rate"),
        (("status", "--name", "nosuch"), 1, "is not up"),
        (("run", "--name", NAME, "--on", "omega", "--", "true"), 1, "has no host 'omega'"),
        (("link", "omega", "cut", "--name", NAME), 1, "has no host 'omega'"),
        (("link", "beta", "slowly", "--name", NAME), 2, "is not a rate"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_errors_are_one_sentence_and_a_status(words: tuple[str, ...], status: int, says: str) -> None:
    ended = segue_lab(*words)
    assert ended.returncode == status
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


@pytest.mark.usefixtures("own")
def test_without_root_it_says_so() -> None:
    for words in (("up", "--name", "other"), ("down", "--name", NAME), ("status", "--name", NAME)):
        nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", SEGUE, "lab", *words]
        ended = subprocess.run(nobody, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        assert ended.returncode == 1, ended.stderr
        assert "Run it with sudo." in ended.stderr


async def test_a_failing_command_in_a_host_is_an_error_with_its_words(own: Lab) -> None:
    with pytest.raises(CommandFailed, match="ls on alpha ended with status 2"):
        await own.run("alpha", ["ls", "/nowhere"])


# --- nothing stays


def remains(layout: Layout) -> list[str]:
    """What there is of a lab: files, namespaces, and processes that were born in it or work on it."""
    found = [str(path) for path in (layout.root, layout.lock) if path.exists()]
    found += [str(path) for path in Path("/run/netns").glob(f"{layout.netns_prefix}*")]
    signs = [os.fsencode(word) for word in (f"{layout.root}/", layout.netns_prefix)]
    for process in Path("/proc").glob("[0-9]*"):
        for file in ("cmdline", "mountinfo"):
            try:
                text = (process / file).read_bytes()
            except OSError:
                continue
            if any(sign in text for sign in signs):
                found.append(f"{process.name} ({file})")
    return found


def begin_up() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [SEGUE, "lab", "up", "--name", KILLED.name], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Until `up` has got that far; as fine as can be, for the moments are short. One that ended meanwhile was there."""
    deadline = time.monotonic() + DEADLINE_S
    while not what():
        if process.poll() is not None:
            assert what(), process.communicate()
        assert time.monotonic() < deadline


def there(path: Path) -> Callable[[], bool]:
    return path.exists


ALPHA = KILLED.host_root("alpha")
MOMENTS = {
    "locked": KILLED.lock,
    "has its directory": KILLED.root,
    "makes its keys": KILLED.client_key,
    "has its first namespace": Path("/run/netns", KILLED.netns("switch")),
    "has its last namespace": Path("/run/netns", KILLED.netns("beta")),
    "writes the files of a host": ALPHA / "etc",
    "starts a host": ALPHA / "init.log",
    "starts the last host": KILLED.host_root("beta") / "init.log",
    "starts a daemon": ALPHA / "run/sshd.pid",
    "waits for libvirt": ALPHA / "run/libvirt",
    "says how to find it": KILLED.config,
    "is done": KILLED.state,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_down_leaves_nothing_of_an_up_that_was_killed_when_it(killed: Layout, moment: str) -> None:
    process = begin_up()
    try:
        wait_for(there(MOMENTS[moment]), process)
    finally:
        process.kill()
        process.communicate()
    ended = segue_lab("down", "--name", killed.name)
    assert ended.returncode == 0, ended.stderr
    assert remains(killed) == []
    assert segue_lab("down", "--name", killed.name).stdout == f"There was no lab {killed.name!r}.\n"


@pytest.mark.parametrize("signals", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM,)], ids=["ctrl-c twice", "kill"])
@pytest.mark.parametrize("moment", ["has its first namespace", "starts a daemon"])
def test_an_interrupted_up_leaves_nothing(killed: Layout, moment: str, signals: tuple[signal.Signals, ...]) -> None:
    process = begin_up()
    try:
        wait_for(there(MOMENTS[moment]), process)
        for number in signals:
            process.send_signal(number)
        _, stderr = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 1
    assert "Interrupted; nothing is left of it." in stderr
    assert remains(killed) == []


def test_down_ends_guests_and_whatever_else_lives_in_the_lab(killed: Layout) -> None:
    lab = asyncio.run(up(name=killed.name, hosts=1))
    pid = KILLED.host_path("alpha", "/run/left.pid")
    qemu = ["qemu-system-x86_64", "-S", "-display", "none", "-nodefaults", "-netdev", "bridge,id=n,br=br0"]
    asyncio.run(lab.run("alpha", [*qemu, "-device", "e1000,netdev=n", "-daemonize", "-pidfile", "/run/left.pid"]))
    assert pid.exists()
    stranger = subprocess.Popen(["ip", "netns", "exec", lab.netns("alpha"), "sleep", "7777"])
    asyncio.run(down(killed.name))
    assert stranger.wait(DEADLINE_S) == -signal.SIGKILL
    assert remains(killed) == []


def test_a_failing_up_takes_down_what_it_made(killed: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The NFS server of this PATH ends at once with an error."""
    broken = tmp_path / "ganesha.nfsd"
    broken.write_text("#!/bin/sh\necho out of order >&2; exit 3\n", encoding="utf-8")
    broken.chmod(0o755)
    monkeypatch.setattr("segue.lab.services.SBIN_PATH", f"{tmp_path}:/usr/sbin:/usr/bin:/sbin:/bin")
    with pytest.raises(LabError, match=r"does not start on storage: out of order"):
        asyncio.run(up(name=killed.name))
    assert remains(killed) == []


@pytest.mark.parametrize("fault", ["pkill -STOP libvirtd", "pkill -KILL libvirtd; while pgrep -x libvirtd; do sleep 0.02; done"])
def test_a_daemon_that_hangs_or_is_gone_is_started_anew_between_tests(
    own: Lab, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(daemons, "ANSWER_S", 3.0)
    asyncio.run(own.run("beta", ["sh", "-c", fault]))
    assert daemons.revived(own) == ["beta"]
    assert daemons.revived(own) == []
