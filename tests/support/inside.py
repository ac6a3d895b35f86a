"""An event loop that lives inside a host of the lab: what runs on it sees that host's network and names.

A thread may enter namespaces by itself; the rest of the process stays where it is. So drivers can be tested in this process from
the lab's admin host, and nothing of the lab is ever contacted from the user's own network.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

CLONE_FS = 0x200  # linux/sched.h: a thread that shares its root with others may not change its mount namespace
NAMESPACES = ("net", "uts", "mnt")


class Inside:
    """A loop in the namespaces of a process. Use as a context manager.

    Args:
        pid: a process there, as this machine sees it.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._loop = asyncio.new_event_loop()
        self._entered: Future[None] = Future()
        self._thread = threading.Thread(target=self._live, name=f"inside-{pid}", daemon=True)

    def __enter__(self) -> Inside:
        self._thread.start()
        self._entered.result(timeout=10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    def _live(self) -> None:
        try:
            _enter(self._pid)
        except OSError as error:
            self._entered.set_exception(error)
            return
        self._entered.set_result(None)
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def run(self, work: Coroutine[Any, Any, T], *, deadline_s: float) -> T:
        """Run a coroutine there to its end."""

        async def bounded() -> T:
            async with asyncio.timeout(deadline_s):
                return await work

        return asyncio.run_coroutine_threadsafe(bounded(), self._loop).result(timeout=deadline_s + 10)


def _enter(pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    files = [os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY) for name in NAMESPACES]
    _check(libc.unshare(CLONE_FS))
    for fd in files:
        _check(libc.setns(fd, 0))
        os.close(fd)


def _check(status: int) -> None:
    if status:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
