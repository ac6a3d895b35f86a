"""Asks the guest over the network while it moves, as a client would, and remembers how long no answer came.

It runs in a thread of its own, so that neither the migration waits for it nor it for the migration; what it remembers does not
grow with the answers, only with the gaps between them. The arrival of a datagram is the kernel's own time stamp, not the moment
at which this process got round to reading it. What may live here: the prober and the ways to ask. What the gaps come to is
`core.downtime`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import select
import socket
import struct
import threading
import time
from typing import Final, Protocol

from segue.core import downtime
from segue.core.downtime import Client, Gap, ProbeKind, ProbeTarget
from segue.errors import RefusedError

EVERY_NS: Final = 5_000_000
"""Between two datagrams, and so what a gap is short of the truth by, at most."""
CONNECT_EVERY_NS: Final = 10_000_000
"""Between two connections: each is a little work for the guest."""
WORTH_KEEPING_MS: Final = 20
"""Shorter gaps are the wire's and this machine's own noise."""
MOST_GAPS: Final = 10_000
CONNECT_PATIENCE_NS: Final = 3_000_000_000
"""A connection that took longer is given up: TCP asks again after 1 s, then 3 s (RFC 6298), and newer ones are under way."""
LOOK_EVERY_S: Final = 0.01
_NS_PER_MS: Final = 1_000_000
_SO_TIMESTAMPNS: Final = 35  # asm-generic/socket.h; the socket module does not name it
_STAMP: Final = struct.Struct("@qq")
_ECHO: Final = {socket.AF_INET: (8, 0), socket.AF_INET6: (128, 129)}  # ICMP's types of a request and a reply (RFC 792, RFC 4443)
_ICMP: Final = struct.Struct("!BBHHH")


class _Way(Protocol):
    """One way to ask."""

    every_ns: int

    def register(self, poll: select.poll) -> None:
        """Have the poll wait for answers."""

    def ask(self, number: int, now_ns: int) -> None:
        """Ask once; what cannot be sent is a probe without an answer, like any other."""

    def answers(self, fd: int) -> list[int]:
        """The times (CLOCK_MONOTONIC, ns) of answers that came on that descriptor."""

    def close(self) -> None:
        """Close everything."""


class _Datagrams:
    """UDP and ping: one socket.

    Args:
        sock: connected.
        raw: it is a raw socket: answers to others come in too.
    """

    every_ns = EVERY_NS

    def __init__(self, sock: socket.socket, *, icmp: bool, raw: bool = False) -> None:
        self._sock = sock
        self._icmp = icmp
        self._raw = raw
        self._ident = os.getpid() & 0xFFFF
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)

    def register(self, poll: select.poll) -> None:
        poll.register(self._sock, select.POLLIN)

    def ask(self, number: int, now_ns: int) -> None:  # noqa: ARG002
        payload = struct.pack("!Q", number)
        if self._icmp:
            request, _ = _ECHO[self._sock.family]
            head = _ICMP.pack(request, 0, 0, self._ident, number & 0xFFFF)
            payload = _ICMP.pack(request, 0, _checksum(head + payload), self._ident, number & 0xFFFF) + payload
        with contextlib.suppress(OSError):  # no route, no answer to ARP
            self._sock.send(payload)

    def answers(self, fd: int) -> list[int]:  # noqa: ARG002
        found = []
        with contextlib.suppress(OSError):  # no more; or an ICMP error: the guest's host says that nobody listens
            while True:
                data, ancillary, _, _ = self._sock.recvmsg(2048, socket.CMSG_SPACE(_STAMP.size))
                if not self._icmp or self._is_ours(data):
                    found.append(_arrival_ns(ancillary))
        return found

    def _is_ours(self, data: bytes) -> bool:
        if self._raw and self._sock.family is socket.AF_INET:
            data = data[(data[0] & 0x0F) * 4 :]  # a raw IPv4 socket hands the IP header over too
        if len(data) < _ICMP.size:
            return False
        kind, _, _, ident, _ = _ICMP.unpack(data[: _ICMP.size])
        return kind == _ECHO[self._sock.family][1] and (not self._raw or ident == self._ident)

    def close(self) -> None:
        self._sock.close()


class _Connections:
    """TCP: a connection for each probe, made and closed again at once.

    Args:
        family, address: of the guest, as getaddrinfo has them.
    """

    every_ns = CONNECT_EVERY_NS

    def __init__(self, family: int, address: tuple[object, ...]) -> None:
        self._family = family
        self._address = address
        self._open: dict[int, tuple[socket.socket, int]] = {}
        self._poll: select.poll | None = None

    def register(self, poll: select.poll) -> None:
        self._poll = poll

    def ask(self, number: int, now_ns: int) -> None:  # noqa: ARG002
        for fd in [fd for fd, (_, since_ns) in self._open.items() if now_ns - since_ns > CONNECT_PATIENCE_NS]:
            self._drop(fd)
        with contextlib.suppress(OSError):  # out of descriptors or ports
            sock = socket.socket(self._family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            # Closed with a reset: nothing of it lingers, neither here nor there.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if sock.connect_ex(self._address) in (0, errno.EINPROGRESS) and self._poll is not None:
                self._open[sock.fileno()] = sock, now_ns
                self._poll.register(sock, select.POLLOUT)
            else:
                sock.close()

    def answers(self, fd: int) -> list[int]:
        if fd not in self._open:
            return []
        said = self._open[fd][0].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self._drop(fd)
        return [time.monotonic_ns()] if said in (0, errno.ECONNREFUSED, errno.ECONNRESET) else []

    def _drop(self, fd: int) -> None:
        if self._poll is not None:
            self._poll.unregister(fd)
        self._open.pop(fd)[0].close()

    def close(self) -> None:
        for fd in list(self._open):
            self._drop(fd)


class Prober:
    """Asks one guest, again and again. `start` it, and `stop` it.

    Args:
        target: whom.
    """

    def __init__(self, target: ProbeTarget) -> None:
        self._target = target
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._gaps: list[Gap] = []
        self._waiting_ns: int | None = None
        self._asked = 0
        self._answered = 0
        self._last_answer_ns = 0

    def start(self) -> None:
        """Begin to ask.

        Raises:
            RefusedError: this system does not let us, or there is no such address.
        """
        way = _way(self._target)
        self._thread = threading.Thread(target=self._work, args=(way,), name="probe", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop asking. May be repeated."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def has_answered(self) -> bool:
        """The guest has answered at least once."""
        return self._answered > 0

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """Every time without an answer that is worth keeping, in order."""
        return tuple(self._gaps)

    def seen(self) -> Client:
        """What a client saw up to now."""
        waiting = self._waiting_ns
        return downtime.client(
            self._target,
            self._gaps,
            waiting_since_ms=None if waiting is None else waiting // _NS_PER_MS,
            asked=self._asked,
            answered=self._answered,
            now_ms=time.monotonic_ns() // _NS_PER_MS,
        )

    async def next_answer(self, *, deadline_s: float) -> None:
        """Wait for an answer that comes from now on, at most so long."""
        now_ns = time.monotonic_ns()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                while self._last_answer_ns < now_ns:  # noqa: ASYNC110  # the reader is a thread: there is no event
                    await asyncio.sleep(LOOK_EVERY_S)

    def _work(self, way: _Way) -> None:
        poll = select.poll()
        way.register(poll)
        next_ns = time.monotonic_ns()
        numbers = itertools.count()
        try:
            while not self._ending.is_set():
                wait_ms = max(0, next_ns - time.monotonic_ns()) / _NS_PER_MS
                for fd, _ in poll.poll(wait_ms):
                    for at_ns in way.answers(fd):
                        self._heard(at_ns)
                now_ns = time.monotonic_ns()
                if now_ns >= next_ns:
                    if self._waiting_ns is None:
                        self._waiting_ns = now_ns
                    self._asked += 1
                    way.ask(next(numbers), now_ns)
                    next_ns += way.every_ns * max(1, -(-(time.monotonic_ns() - next_ns) // way.every_ns))
        finally:
            way.close()

    def _heard(self, at_ns: int) -> None:
        """An answer. A silence that was there before the first one is nobody's downtime."""
        began, self._waiting_ns = self._waiting_ns, None
        self._last_answer_ns = at_ns
        self._answered += 1
        if self._answered > 1 and began is not None and len(self._gaps) < MOST_GAPS:
            gap = Gap(began_ms=began // _NS_PER_MS, ended_ms=at_ns // _NS_PER_MS)
            if gap.ms >= WORTH_KEEPING_MS:
                self._gaps.append(gap)


def check(target: ProbeTarget) -> None:
    """See that this system lets us ask.

    Raises:
        RefusedError: it does not, or there is no such address; in words.
    """
    _way(target).close()


def _way(target: ProbeTarget) -> _Way:
    kind = socket.SOCK_STREAM if target.kind is ProbeKind.TCP else socket.SOCK_DGRAM
    try:
        family, _, _, _, address = socket.getaddrinfo(target.address, target.port or None, type=kind)[0]
    except OSError as error:
        raise RefusedError(
            f"The probe {target} cannot be sent: {target.address} has no address ({error.strerror}).",
            guest_at="it is where it was; nothing was touched",
            hint="Give the guest's IP address.",
        ) from error
    if target.kind is ProbeKind.TCP:
        return _Connections(family, address)
    try:
        if target.kind is ProbeKind.PING:
            return _ping(family, address)
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.connect(address)
        return _Datagrams(sock, icmp=False)
    except OSError as error:
        raise RefusedError(
            f"The probe {target} cannot be sent from here: {error.strerror}.",
            guest_at="it is where it was; nothing was touched",
            hint="Is there a route to it?" if target.kind is ProbeKind.UDP else _PING_HINT,
        ) from error


_PING_HINT: Final = (
    "Who may ping without root, 'sysctl net.ipv4.ping_group_range' says; or use tcp:ADDRESS:PORT, which anybody may: "
    "a port that is closed answers too."
)


def _ping(family: int, address: tuple[object, ...]) -> _Datagrams:
    """A socket that may ping: one that needs no rights (ping_group_range) where the system gives it, else a raw one.

    Raises:
        OSError: neither.
    """
    protocol = socket.IPPROTO_ICMP if family == socket.AF_INET else socket.IPPROTO_ICMPV6
    try:
        sock, raw = socket.socket(family, socket.SOCK_DGRAM, protocol), False
    except PermissionError:
        sock, raw = socket.socket(family, socket.SOCK_RAW, protocol), True
    try:
        sock.connect(address)
    except OSError:
        sock.close()
        raise
    return _Datagrams(sock, icmp=True, raw=raw)


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071), of an even number of bytes. ICMPv6's is made by the kernel."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def _arrival_ns(ancillary: list[tuple[int, int, bytes]]) -> int:
    """When a packet arrived, on the monotonic clock: the kernel's stamp is on the wall's, and only its age is taken of it."""
    at_ns = time.monotonic_ns()
    for _, kind, stamp in ancillary:
        if kind == _SO_TIMESTAMPNS:
            seconds, nanoseconds = _STAMP.unpack(stamp[: _STAMP.size])
            at_ns -= max(0, time.time_ns() - int(seconds) * 1_000_000_000 - int(nanoseconds))
    return at_ns
