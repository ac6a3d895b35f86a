"""A long bench that is told to stop takes its lab down first. What may live here: that."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine


async def until_told(work: Coroutine[None, None, None]) -> None:
    """Do it, or stop when told to; the lab is taken down either way, and what is in the results stays there."""
    task = asyncio.ensure_future(work)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        print("stopped; what was played is in the results", file=sys.stderr)
