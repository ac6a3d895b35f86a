"""Two hosts on which only fake QEMUs run: what a shell would see and do there, and a real socket to each of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final

from segue.drivers.qemu import files, processes
from segue.hosts.local import LocalShell
from segue.hosts.shell import Completed, Target
from tests.support.fake_qmp import DESTINATION, SOURCE, FakeQemu, Faults, Guest

MONITOR: Final = "/run/web.qmp"
WORDS: Final = ("qemu-system-x86_64", "-name", "guest=web", "-M", "pc", "-m", "16", "-qmp", f"unix:{MONITOR},server=on,wait=off")
STARTED: Final = 77
DONE: Final = Completed(status=0, stdout=b"", stderr=b"")

Handler = Callable[[Sequence[str]], Coroutine[Any, Any, Completed]]


class FakeShell:
    """A way to a host on which at most one QEMU runs: it does what Segue's scripts do, by what they are.

    Args:
        name: of the host.
        guest: whose QEMUs may run there.
        directory: where the host's sockets really are.
        qemu: what runs there at first.
        faults: of what will be started there.
    """

    def __init__(self, name: str, guest: Guest, directory: Path, qemu: FakeQemu | None, faults: Faults) -> None:
        self._name = name
        self._guest = guest
        self._directory = directory
        self._qemu = qemu
        self._faults = faults
        self._words: Sequence[str] = WORDS
        self._pid = 100
        self.log = b""
        self._scripts: dict[str, Handler] = {
            processes._LIST: self._list,
            processes._START: self._start,
            processes._SEE_GONE: self._see_gone,
            processes._LAST_WORDS: self._last_words,
            files._LOOK: self._look,
        }

    @property
    def name(self) -> str:
        return self._name

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", deadline_s: float) -> Completed:  # noqa: ARG002
        handler = self._scripts.get(argv[2]) if argv[:2] == ["sh", "-c"] else None
        return await handler(argv[4:]) if handler is not None else DONE

    def _stat(self) -> str:
        return f"{self._pid} (qemu) S {'0 ' * 18}{STARTED}"

    async def _list(self, _: Sequence[str]) -> Completed:
        if self._qemu is None or not self._qemu.alive:
            return DONE
        words = "\0".join(self._words)
        fields = ("0", "root", "0", "root", self._stat(), "/usr/bin/qemu-system-x86_64", "/.", words)
        record = os.fsencode("\0".join(fields) + "\0")
        return Completed(status=0, stdout=record.hex().encode() + b"\n,\n.\n", stderr=b"")

    async def _look(self, _: Sequence[str]) -> Completed:
        """No file that anybody looks for is here, and nobody listens on a port."""
        return Completed(status=0, stdout=f".\n.\n.\nboot of {self._name}\n".encode(), stderr=b"")

    async def _start(self, words: Sequence[str]) -> Completed:
        _, monitor, _, _, *self._words = words
        self._pid += 1
        self._qemu = self._guest.make_destination()
        self._qemu.faults = self._faults
        await self.serve(monitor)
        return Completed(status=0, stdout=f"{self._pid}\n{self._stat()}".encode(), stderr=b"")

    async def _last_words(self, _: Sequence[str]) -> Completed:
        return Completed(status=0, stdout=self.log, stderr=b"")

    async def _see_gone(self, words: Sequence[str]) -> Completed:
        """Waits, and kills what stays."""
        qemu = self._qemu
        if qemu is None or words[0] != str(self._pid) or not qemu.alive:
            return DONE
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(processes.END_PATIENCE_S):
                await qemu.gone.wait()
        if qemu.alive:
            self._guest.judge_end(qemu, "kill")
            qemu.end()
        return DONE

    async def serve(self, monitor: str) -> None:
        """Let the QEMU of this host listen."""
        if self._qemu is not None:
            self._directory.mkdir(exist_ok=True)
            path = self._real(monitor)
            Path(path).unlink(missing_ok=True)
            await self._qemu.serve(path)

    def _real(self, path: str) -> str:
        return str(self._directory / path.replace("/", "_"))

    async def open_unix(self, path: str, *, deadline_s: float) -> socket.socket:
        return await LocalShell(self._name).open_unix(self._real(path), deadline_s=deadline_s)

    def lines(self, argv: Sequence[str]) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        raise NotImplementedError

    async def read_file(self, path: str, *, deadline_s: float) -> bytes:
        raise NotImplementedError

    async def write_file(self, path: str, content: bytes, *, mode: int, deadline_s: float) -> None:
        raise NotImplementedError

    def serve_unix(self, path: str, target: Target, *, deadline_s: float) -> AbstractAsyncContextManager[None]:
        raise NotImplementedError

    async def address(self) -> str:
        return "192.0.2.1"

    async def aclose(self) -> None:
        """Nothing is held: its QEMUs go on."""

    async def end(self) -> None:
        """The host is switched off."""
        if self._qemu is not None:
            await self._qemu.aclose()


@contextlib.asynccontextmanager
async def two_hosts(guest: Guest, directory: Path, faults: dict[str, Faults]) -> AsyncIterator[tuple[FakeShell, FakeShell]]:
    """The guest runs on alpha, and nothing on beta."""
    guest.source.faults = faults[SOURCE]
    alpha = FakeShell("alpha", guest, directory / "alpha", guest.source, Faults())
    beta = FakeShell("beta", guest, directory / "beta", None, faults[DESTINATION])
    try:
        await alpha.serve(MONITOR)
        yield alpha, beta
    finally:
        for shell in (alpha, beta):
            await shell.end()
