"""Labs of tests and plays: names that let two checkouts run on one machine at once, and an end that is always reached."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

_TAG = os.environ.get("SEGUE_TEST_LAB", "")
_ENDS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def lab_name(name: str) -> str:
    """The lab of that name for this run: its own where ``$SEGUE_TEST_LAB`` (up to six letters) tells runs apart."""
    return f"{name}{_TAG}"


def to_its_end(play: Coroutine[Any, Any, T]) -> T:
    """Run a play to its end.

    Ctrl-C, a plain kill and a lost terminal break it off once: what it takes down at its end, it takes down then, too.

    Raises:
        SystemExit: it was broken off.
    """

    async def whole() -> T:
        task = asyncio.create_task(play)

        def break_off() -> None:
            if not task.cancelling():
                task.cancel()

        for number in _ENDS:
            asyncio.get_running_loop().add_signal_handler(number, break_off)
        return await task

    try:
        return asyncio.run(whole())
    except asyncio.CancelledError:
        raise SystemExit("broken off; what was up is down") from None
