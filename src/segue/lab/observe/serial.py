"""Follows what the guest says on the serial lines of all hosts, each line stamped when it arrived.

A thread looks every two milliseconds: files that QEMU appends to offer no better event, and the stamp must not wait for
whatever else this process does. What may live here: reading those files. What the lines mean together is `judge`'s.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from segue import units
from segue.lab.observe.judge import Ack, Memory, Tick

LOOK_EVERY_S: Final = 0.002


class SerialLines:
    """The serial logs of one guest. `start` and `stop` it.

    Args:
        logs: host to path; a file that is not there yet may come.
    """

    def __init__(self, logs: Mapping[str, Path]) -> None:
        self.ticks: Final[list[Tick]] = []
        self.acks: Final[list[Ack]] = []
        self.memory: Final[list[Memory]] = []
        self._logs = logs
        self._offsets = dict.fromkeys(logs, 0)
        self._torn = dict.fromkeys(logs, b"")
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="serial-lines", daemon=True)

    def start(self) -> None:
        """Take what is there already as said before any window, and follow from here."""
        for host in self._logs:
            self._look(host, at_ns=0)
        speaking = max(self._logs, key=self._last_spoke_ns)
        for host in self._logs:
            if host != speaking:  # torn by a move long ago
                self._torn[host] = b""
        self._thread.start()

    def stop(self) -> None:
        """Stop following."""
        self._ending.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._ending.wait(LOOK_EVERY_S):
            for host in self._logs:
                self._look(host, at_ns=None)

    def _look(self, host: str, *, at_ns: int | None) -> None:
        try:
            with self._logs[host].open("rb", buffering=0) as file:
                file.seek(self._offsets[host])
                more = file.read()
        except FileNotFoundError:
            return
        if not more:
            return
        stamp = time.monotonic_ns() if at_ns is None else at_ns
        self._offsets[host] += len(more)
        *lines, self._torn[host] = (self._begun(host) + more).split(b"\n")
        for line in lines:
            self._take(host, line.decode(errors="replace").split(), stamp)

    def _begun(self, host: str) -> bytes:
        """What a host's next bytes go on with: a line that it began itself, or one that the guest began where it was before.

        The guest hands its serial line over byte by byte, so a move may tear a line in two.
        """
        for one in (host, *(other for other in self._torn if other != host)):
            if begun := self._torn[one]:
                self._torn[one] = b""
                return begun
        return b""

    def _last_spoke_ns(self, host: str) -> int:
        try:
            return self._logs[host].stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def _take(self, host: str, words: list[str], at_ns: int) -> None:
        """One line; whatever is not the workload's (the kernel, a BIOS) is passed over."""
        try:
            match words:
                case ["T", boot, seq, mono]:
                    self.ticks.append(Tick(host=host, boot=boot, seq=int(seq), mono_ms=int(mono), at_ns=at_ns))
                case ["D", boot, seq, crc]:
                    self.acks.append(Ack(boot=boot, seq=int(seq), crc=int(crc, 16)))
                case ["M", boot, _, errors, written_kib, *_]:
                    said = Memory(boot=boot, errors=int(errors), at_ns=at_ns, written_bytes=int(written_kib) * units.KIB)
                    self.memory.append(said)
        except ValueError:
            return
