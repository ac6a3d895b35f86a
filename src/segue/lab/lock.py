"""One at a time brings a lab up or takes it down.

The lock is a file that is locked, never one that merely exists, so it vanishes with its holders however they end. Holders,
because a command that inherits the descriptor holds it as well: after a ``kill -9`` of `up`, `down` gets the lock when whatever
`up` was having made is made, and none of it appears after `down` has looked.
What may live here: the lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from segue.errors import LabError
from segue.lab.layout import BASE, Layout

WAIT_S: Final = 2.0
"""Longer than any single command that `up` lets inherit the lock; an `up` as a whole may well take longer."""
_PAUSE_S: Final = 0.02


@contextlib.asynccontextmanager
async def locked(layout: Layout) -> AsyncIterator[int]:
    """Hold the lab's lock.

    Yields:
        Its descriptor, for commands that must hold it too.

    Raises:
        LabError: somebody else holds it.
    """
    try:
        async with asyncio.timeout(WAIT_S):
            while (lock := _take(layout.lock)) is None:  # noqa: ASYNC110  # another process: there is no event
                await asyncio.sleep(_PAUSE_S)
    except TimeoutError:
        raise LabError(
            f"The lab {layout.name!r} is being brought up or taken down by somebody else.", hint="Wait for it to end."
        ) from None
    try:
        yield lock
    finally:
        layout.lock.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            BASE.rmdir()  # the last lab takes the directory with it
        os.close(lock)


def _take(path: Path) -> int | None:
    """The descriptor of the locked file, or ``None``: held by another, or removed by its last holder just now."""
    with contextlib.suppress(FileNotFoundError):
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), path.stat()):
                return lock
        os.close(lock)
    return None
