"""Asks the guest over the network, again and again, from the lab's admin host: what a client would see.

The thread enters the admin host's network namespace for good, so nothing is ever sent from the user's own network. Arrival is
the kernel's own time stamp of the packet, not the moment at which this process got round to reading it. What may live here: the
prober.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Final

from segue.errors import LabError
from segue.lab.observe.judge import Probe

PORT: Final = 7007
EVERY_NS: Final = 5_000_000
_SO_TIMESTAMPNS: Final = 35  # asm-generic/socket.h; the socket module does not name it
_STAMP: Final = struct.Struct("@qq")


class Prober:
    """Probes one guest. `start` and `stop` it.

    Args:
        namespace: path of the network namespace to ask from.
        address: of the guest.
    """

    def __init__(self, namespace: Path, address: str) -> None:
        self._namespace = namespace
        self._address = address
        self._sent: list[int] = []
        self._answered: dict[int, int] = {}
        self._ending = threading.Event()
        self._ready = threading.Event()
        self._failure: OSError | None = None
        self._thread = threading.Thread(target=self._ask, name="prober", daemon=True)

    def start(self) -> None:
        """Begin to ask.

        Raises:
            LabError: the namespace cannot be entered.
        """
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise LabError(f"The guest cannot be probed from {self._namespace.name}: {self._failure}.") from self._failure

    def stop(self) -> None:
        """Stop asking."""
        self._ending.set()
        self._thread.join()

    @property
    def probes(self) -> list[Probe]:
        """Everything sent so far, in order."""
        return [Probe(sent_ns=at, answered_ns=self._answered.get(number, 0)) for number, at in enumerate(list(self._sent))]

    def _ask(self) -> None:
        try:
            _enter(self._namespace)
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        except OSError as error:
            self._failure = error
            return
        finally:
            self._ready.set()
        with sock:
            sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            sock.setblocking(False)
            next_ns = time.monotonic_ns()
            while not self._ending.is_set():
                wait_s = max(0, next_ns - time.monotonic_ns()) / 1e9
                if select.select([sock], [], [], wait_s)[0]:
                    self._receive(sock)
                if time.monotonic_ns() >= next_ns:
                    self._send(sock)
                    next_ns += EVERY_NS * max(1, -(-(time.monotonic_ns() - next_ns) // EVERY_NS))

    def _send(self, sock: socket.socket) -> None:
        number = len(self._sent)
        self._sent.append(time.monotonic_ns())
        with contextlib.suppress(OSError):  # no route, no ARP answer: a probe without an answer, like any other
            sock.sendto(struct.pack("!Q", number), (self._address, PORT))

    def _receive(self, sock: socket.socket) -> None:
        try:
            data, ancillary, _, _ = sock.recvmsg(512, socket.CMSG_SPACE(_STAMP.size))
        except OSError:  # an ICMP error: the guest's host says that nobody listens
            return
        at_ns = time.monotonic_ns()
        for _, kind, stamp in ancillary:
            if kind == _SO_TIMESTAMPNS:
                seconds, nanoseconds = _STAMP.unpack(stamp[: _STAMP.size])
                at_ns -= max(0, time.time_ns() - seconds * 1_000_000_000 - nanoseconds)
        if len(data) >= 8:
            self._answered.setdefault(struct.unpack("!Q", data[:8])[0], at_ns)


def _enter(namespace: Path) -> None:
    """Move this thread into a network namespace (os.setns is not in Python 3.11)."""
    fd = os.open(namespace, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(fd, 0):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(fd)
