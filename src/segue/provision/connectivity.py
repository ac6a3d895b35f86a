"""What each host can reach of each other, tried from the hosts themselves: over ssh, with a POSIX shell and what is there.

Nothing is installed and nothing stays: a listener on a migration port ends with its connection, or after `LISTEN_S`. What cannot
be tried on a host, for it lacks the program, is told as that. What may live here: the trying. What it means is decided in
`segue.core.connectivity`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Final
from urllib.parse import urlsplit

from segue.core import connectivity
from segue.core.connectivity import (
    ROUND_TRIPS,
    Cell,
    Clock,
    HostSeen,
    Pair,
    Reply,
    Sent,
    Way,
    data_host,
    data_ports,
    is_ip,
    libvirt_address,
)
from segue.core.model import HostAddress
from segue.core.pki import LIBVIRT_TLS_PORT
from segue.errors import SegueError
from segue.hosts import HostShell, reach, way_in

REACH_S: Final = 10.0
COMMAND_S: Final = 15.0
CONNECT_S: Final = 5
"""For one connection to come to be: some round trips; a firewall that lets packets vanish must not hold up the rest for long."""
LISTEN_S: Final = 20
SEND_S: Final = 0.5
SEND_BYTES: Final = 64 << 20
"""A link is measured no longer than this, with no more than that: it may be in use."""
GLANCE_S: Final = 0.1
GLANCE_BYTES: Final = 16 << 20
"""The same where a migration waits for it."""
ENOUGH_BYTES: Final = 1 << 20
ENOUGH_S: Final = 0.01
"""And there it ends with this much after so long, once the connection has come up to speed: that tells 100 Mbit/s from more."""
LIBVIRT_TCP_PORT: Final = 16509
_PYTHON: Final = ("python3", "-I", "-S", "-c")
"""Without site-packages, which nobody needs here and which take half of its start."""

# $@: names to look up. Each line is a word and its value.
_LOOK: Final = r"""
PATH=$PATH:/usr/sbin:/sbin
echo "hostname $(hostname)"
echo "user $(id -un)"
for name in "$(hostname)" "$@"; do
    found=$(getent ahosts "$name" 2>/dev/null | while read -r one _; do echo "$one"; done)
    echo "name $name $(echo "$found" | sort -u | tr '\n' ' ')"
done
{ virtqemud --version || libvirtd --version; } 2>/dev/null | while read -r _ _ version; do echo "libvirt $version"; break; done
{ qemu-system-"$(uname -m)" --version || qemu-kvm --version || /usr/libexec/qemu-kvm --version; } 2>/dev/null |
    while read -r _ _ _ version _; do echo "qemu $version"; break; done
if ufw status 2>/dev/null | grep -q '^Status: active'; then echo "keeper ufw"; fi
if firewall-cmd --state 2>/dev/null | grep -q '^running'; then echo "keeper firewalld"; fi
echo rules
seen=
rules=$(iptables-save 2>/dev/null) && seen=1 && echo "$rules"
rules=$(nft list ruleset 2>/dev/null) && seen=1 && echo "$rules"
[ -n "$seen" ] || echo unseen
"""

# The interface and the address by which $1 is reached from here, and that interface's MTU.
_ROUTE: Final = r"""
PATH=$PATH:/usr/sbin:/sbin
address=$(getent ahosts "$1" | { read -r address _; echo "$address"; })
set -- $(ip -o route get "${address:-$1}") || exit
device= source=
while [ $# -gt 1 ]; do
    case $1 in dev) device=$2 ;; src) source=$2 ;; esac
    shift
done
echo "$source $(cat "/sys/class/net/$device/mtu")"
"""

# argv: first and last port (0 0: any), seconds. Says on which port it listens, greets, counts what comes, tells how much. It ends
# when nobody listens to it any more: that shows when it writes. The module that `socket` is made of has what is needed here, and
# is loaded at once: `socket` takes 12 ms, as long as all else, and a migration waits for both ends.
_LISTENER: Final = r"""
import select, sys, time
import _socket as socket
first, last, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
why = None
for port in range(last, first - 1, -1):
    for family, any_ in ((socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")):
        try:
            server = socket.socket(family, socket.SOCK_STREAM)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            server.bind((any_, port))
            server.listen(4)
            break
        except OSError as error:
            why, server = error, None
    if server:
        break
else:
    sys.exit(print("no", why))
print("port", server.getsockname()[1], flush=True)
until = time.monotonic() + seconds
while not select.select([server], [], [], 0.1)[0]:
    print(flush=True)
    if time.monotonic() > until:
        sys.exit()
peer = socket.socket(fileno=server._accept()[0])
peer.settimeout(seconds)
peer.sendall(b"segue\n")
count = 0
while data := peer.recv(1 << 18):
    count += len(data)
peer.sendall(b"%d\n" % count)
"""

# argv: address, port, seconds to connect, seconds and bytes to send at the most, bytes that are enough after so many seconds and
# so many round trips. One line: how it went, bytes, ms for them, shortest round trip in ms, MTU, words.
_SENDER: Final = r"""
import struct, sys, time
import _socket as socket
host, port, patience, seconds, most = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5])
enough, least, round_trips = int(sys.argv[6]), float(sys.argv[7]), int(sys.argv[8])
def tell(how, count, began, mtu, words):
    print(how, count, round((time.monotonic() - began) * 1000), rtt, mtu, words)
    sys.exit()
def connected():
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM):
        try:
            sock = socket.socket(family, kind, protocol)
            sock.settimeout(patience)
            sock.connect(address)
            return sock
        except OSError as error:
            why = error
    raise why
began, rtt, MIN_RTT = time.monotonic(), 0, 148  # linux/tcp.h, struct tcp_info, tcpi_min_rtt
try:
    sock = connected()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
    greeting = sock.recv(16)
except socket.timeout:
    tell("no", 0, began, 0, "no answer within %g s" % patience)
except OSError as error:
    tell("no", 0, began, 0, error.strerror or error)
if greeting != b"segue\n":
    tell("no", 0, began, 0, "somebody else answers there")
count, block, began = 0, bytes(1 << 17), time.monotonic()
mtu = lambda: sock.getsockopt(*((41, 24) if sock.family == socket.AF_INET6 else (0, 14)))
def rtt_us():
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, MIN_RTT + 4)
    return struct.unpack_from("I", info, MIN_RTT)[0] if len(info) >= MIN_RTT + 4 else 0
try:
    sock.settimeout(patience)
    while count < most and (took := time.monotonic() - began) < seconds:
        if count >= enough and took >= max(least, rtt_us() * round_trips / 1e6):
            break
        count += sock.send(block[:most - count])
    sock.shutdown(socket.SHUT_WR)
    while sock.recv(64):
        pass
    rtt = rtt_us() // 1000
    tell("ok", count, began, mtu(), "")
except OSError as error:
    tell("ok", 0, began, 0, "%d bytes were sent and not acknowledged (%s)" % (count, error))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """What was found.

    Attributes:
        cells: of every ordered pair of hosts that could be reached, in the order of the hosts.
        silent: the hosts that could not, and why.
    """

    cells: tuple[Cell, ...]
    silent: Mapping[str, SegueError]


async def verify(hosts: Mapping[str, tuple[HostAddress, ...]]) -> Matrix:
    """Try every way between all of these hosts, in parallel, and judge what came of it.

    Args:
        hosts: the addresses of each, by its name.
    """
    async with AsyncExitStack() as stack:
        shells, silent = await _reached(hosts, stack)
        names = tuple(dict.fromkeys(name for host in shells for name in connectivity.names_of(hosts[host])))
        seen = dict(zip(shells, await asyncio.gather(*(look(shell, names) for shell in shells.values())), strict=True))
        pairs = await asyncio.gather(
            *(
                _pair(shells[source], seen[source], shells[destination], seen[destination], hosts[destination], listening)
                for listening in [_Turns()]
                for source, destination in permutations(shells, 2)
            )
        )
    return Matrix(cells=tuple(cell for pair in pairs for cell in connectivity.judge(pair)), silent=silent)


async def _reached(
    hosts: Mapping[str, tuple[HostAddress, ...]], stack: AsyncExitStack
) -> tuple[dict[str, HostShell], dict[str, SegueError]]:
    silent: dict[str, SegueError] = {}

    async def one(host: str) -> tuple[str, HostShell] | None:
        try:
            shell = await reach(replace(way_in(hosts[host]), name=host), deadline_s=REACH_S)
        except SegueError as error:
            silent[host] = error
            return None
        stack.push_async_callback(shell.aclose)
        return host, shell

    return dict(found for found in await asyncio.gather(*map(one, hosts)) if found), silent


class _Turns:
    """One transfer at a time at each host, or they would measure each other."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}

    @contextlib.asynccontextmanager
    async def of(self, *hosts: str) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for host in sorted(hosts):
                await stack.enter_async_context(self._locks.setdefault(host, asyncio.Lock()))
            yield


# --- one host


async def look(shell: HostShell, names: Iterable[str]) -> HostSeen:
    """What a host says of itself. Raises nothing: what it does not say stays empty.

    Args:
        shell: of the host.
        names: to be looked up there.
    """
    try:
        told, clock = await asyncio.gather(shell.run(["sh", "-c", _LOOK, "sh", *names], deadline_s=COMMAND_S), read_clock(shell))
    except SegueError:
        return HostSeen(host=shell.name)
    head, _, rules = told.stdout.decode(errors="replace").partition("\nrules\n")
    words = [line.split() for line in head.splitlines() if line]
    said = {word[0]: word[1] for word in words if len(word) > 1 and word[0] != "name"}
    return HostSeen(
        host=shell.name,
        hostname=said.get("hostname", ""),
        user=said.get("user", ""),
        clock=clock,
        addresses={word[1]: tuple(word[2:]) for word in words if word[0] == "name" and len(word) > 1},
        libvirt=said.get("libvirt", ""),
        qemu=_version(said.get("qemu", "")),
        rules=None if rules.strip() == "unseen" else rules,
        keeper=said.get("keeper", ""),
    )


def _version(said: str) -> str:
    """The number at the beginning of "7.2.22(Debian"."""
    return "".join(char for char in said.partition("(")[0] if char.isdigit() or char == ".").strip(".")


async def read_clock(shell: HostShell) -> Clock | None:
    """How far a host's clock is ahead of ours; the way there and back is the most by which that can be wrong."""
    before = time.time()
    try:
        done = await shell.run(["date", "-u", "+%s.%N"], deadline_s=COMMAND_S)
        there = float(done.stdout)
    except (SegueError, ValueError):
        return None
    after = time.time()
    return Clock(ahead_ms=round((there - (before + after) / 2) * 1000), error_ms=round((after - before) * 500) + 1)


# --- one pair


async def _pair(
    source: HostShell, here: HostSeen, destination: HostShell, seen: HostSeen, there: tuple[HostAddress, ...], turns: _Turns
) -> Pair:
    address = data_host(there) or await destination.address() or seen.hostname
    ways: dict[Way, Awaitable[Reply]] = {
        Way.SSH: over_ssh(source, there),
        Way.TCP: libvirt_at(source, there, "tcp", LIBVIRT_TCP_PORT),
        Way.TLS: libvirt_at(source, there, "tls", LIBVIRT_TLS_PORT),
        Way.P2P: as_the_daemon(source, here, there),
    }

    async def data() -> Sent:
        async with turns.of(source.name, destination.name):
            return await send(source, destination, address, data_ports(there))

    tried, sent, (comes_from, mtu) = await asyncio.gather(asyncio.gather(*ways.values()), data(), route(source, address))
    _, back = await route(destination, comes_from) if comes_from else ("", 0)
    return Pair(
        source=replace(here, mtu=mtu),
        destination=replace(seen, mtu=back),
        there=there,
        tried=dict(zip(ways, tried, strict=True)),
        sent=sent,
        source_address=comes_from,
    )


async def route(shell: HostShell, address: str) -> tuple[str, int]:
    """From which address a host sends to another one, and the MTU of that link; empty and 0 where it does not say."""
    try:
        done = await shell.run(["sh", "-c", _ROUTE, "sh", address], deadline_s=COMMAND_S)
    except SegueError:
        return "", 0
    said = done.stdout.decode(errors="replace").split()
    return (said[0], int(said[1])) if len(said) == 2 and said[1].isdigit() and is_ip(said[0]) else ("", 0)


async def over_ssh(source: HostShell, there: tuple[HostAddress, ...]) -> Reply:
    """Whether a host may log in to another one, with its own keys, as its daemons would."""
    login = next((urlsplit(one.uri).netloc for one in there if urlsplit(one.uri).scheme.endswith("ssh")), "") or data_host(there)
    if not login:
        return Reply(worked=None, said="no address says where it is")
    options = [f"-oConnectTimeout={CONNECT_S}", "-oBatchMode=yes", "-oNumberOfPasswordPrompts=0"]
    return await _try(source, ["ssh", *options, "--", f"ssh://{login}" if ":" in login else login, "true"])


async def libvirt_at(source: HostShell, there: tuple[HostAddress, ...], scheme: str, usual_port: int) -> Reply:
    """Whether libvirt of a host answers another one by that transport, as virsh there sees it."""
    if libvirt_address(there) is None:
        return Reply(worked=None, said="the host has no libvirt address")
    own = next((one.uri for one in there if urlsplit(one.uri).scheme == f"qemu+{scheme}"), "")
    host = next((name for one in there if (name := urlsplit(one.uri).hostname)), "") or data_host(there)
    if not own and not host:
        return Reply(worked=None, said="no address says where it is")
    return await _virsh(source, own or f"qemu+{scheme}://{_bracketed(host)}:{usual_port}/system")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


async def as_the_daemon(source: HostShell, here: HostSeen, there: tuple[HostAddress, ...]) -> Reply:
    """Whether the source's daemon can go to the destination by itself, by the very URI that a peer-to-peer migration is given."""
    address = libvirt_address(there)
    if address is None:
        return await over_ssh(source, there)
    if here.user != "root":
        return Reply(
            worked=None, said=f"logged in as {here.user or 'nobody'}, and the daemon connects as root, with its own keys"
        )
    if not urlsplit(address.uri).hostname:
        return Reply(worked=None, said=f"{address.uri} names no host")
    return await _virsh(source, address.uri)


async def _virsh(source: HostShell, uri: str) -> Reply:
    return await _try(source, ["virsh", "-q", "-c", uri, "uri"])


async def _try(source: HostShell, argv: Sequence[str]) -> Reply:
    """Run a command that says nothing where it succeeds, with no terminal on which it could ask for a password."""
    words = ["setsid", "-w", "timeout", str(CONNECT_S + 1), *argv]
    try:
        done = await source.run(words, deadline_s=COMMAND_S)
    except SegueError as error:
        return Reply(worked=None, said=error.message)
    lines = [line.removeprefix("error: ") for line in done.complaint.splitlines() if line.strip()]
    if not done.status:
        return Reply(worked=True)
    if done.status == 127:
        return Reply(worked=None, said=f"{source.name} has no {argv[0]}")
    if done.status == 124:
        return Reply(worked=False, said=f"connection timed out: no answer within {CONNECT_S + 1} s")
    return Reply(worked=False, said=lines[-1] if lines else f"{argv[0]} ended with status {done.status}")


# --- the migration port


async def send(
    source: HostShell, destination: HostShell, address: str, ports: tuple[int, int] | None, *, measured: bool = True
) -> Sent:
    """Listen on a free port of the range on the destination, connect from the source, and send for a moment.

    Args:
        source: the host that connects.
        destination: the host that listens.
        address: where the guest's memory would be sent.
        ports: the range; ``None``: any port.
        measured: send as much as is needed to measure the link well; else as little as tells slow from fast.
    """
    first, last = ports or (0, 0)
    listen = [*_PYTHON, _LISTENER, str(first), str(last), str(LISTEN_S)]
    try:
        async with destination.lines(listen) as lines:
            port = await _first_line(lines)
            if port is None:
                why = f"{destination.name} has no python3 to listen with"
                return Sent(address=address, port=0, reply=Reply(worked=None, said=why))
            if isinstance(port, str):
                return Sent(address=address, port=0, reply=Reply(worked=False, said=port))
            return await _connect(source, address, port, measured=measured)
    except SegueError as error:
        return Sent(address=address, port=0, reply=Reply(worked=None, said=error.message))


async def _first_line(lines: AsyncIterator[bytes]) -> int | str | None:
    """The port that a listener says, or why it has none; ``None``: it says nothing."""
    try:
        async with asyncio.timeout(COMMAND_S):
            async for line in lines:
                said = line.decode(errors="replace").split(None, 1)
                return int(said[1]) if said[0] == "port" else said[-1].strip()
    except TimeoutError:
        pass
    return None


async def _connect(source: HostShell, address: str, port: int, *, measured: bool) -> Sent:
    seconds, most, enough = (SEND_S, SEND_BYTES, SEND_BYTES) if measured else (GLANCE_S, GLANCE_BYTES, ENOUGH_BYTES)
    figures = (CONNECT_S, seconds, most, enough, ENOUGH_S, ROUND_TRIPS)
    argv = [*_PYTHON, _SENDER, address, str(port), *map(str, figures)]
    done = await source.run(argv, deadline_s=COMMAND_S + LISTEN_S)
    said = done.stdout.decode(errors="replace").split(None, 5)
    if done.status == 127 or len(said) < 5:
        return await _connect_by_bash(source, address, port)
    words = said[5].strip() if len(said) > 5 else ""
    sent, took, rtt, mtu = (int(word) for word in said[1:5])
    reply = Reply(worked=said[0] == "ok", said=words)
    return Sent(address=address, port=port, reply=reply, sent_bytes=sent, took_ms=took if sent else 0, rtt_ms=rtt, mtu=mtu)


_BY_BASH: Final = 'exec 3<>"/dev/tcp/$0/$1" && IFS= read -r -t "$2" line <&3 && [ "$line" = segue ]'


async def _connect_by_bash(source: HostShell, address: str, port: int) -> Sent:
    """Where there is no python3: whether it opens, and nothing more."""
    argv = ["timeout", str(CONNECT_S), "bash", "-c", _BY_BASH, address, str(port), str(CONNECT_S)]
    done = await source.run(argv, deadline_s=COMMAND_S)
    if done.status in (126, 127):
        return Sent(address=address, port=port, reply=Reply(worked=None, said=f"{source.name} has neither python3 nor bash"))
    complaint = done.complaint.splitlines()
    why = complaint[-1].rpartition(": ")[2] if complaint else f"no answer within {CONNECT_S} s"
    reply = Reply(worked=not done.status, said="" if not done.status else why)
    return Sent(address=address, port=port, reply=reply)
