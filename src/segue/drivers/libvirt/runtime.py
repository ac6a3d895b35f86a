"""libvirt's blocking calls under asyncio: a thread for each call, a deadline for each wait, one event loop of libvirt's own.

A thread cannot be killed. So every call gets a daemon thread of its own: one that hangs is left behind with its answer unseen,
holds nothing up, and does not keep the process from ending. What may live here: `call`, and the event loop that libvirt's
keepalive needs.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from typing import TypeVar

import libvirt

from segue.errors import AnswerNotSeen, HypervisorError

T = TypeVar("T")


@functools.cache
def start_event_loop() -> None:
    """Start libvirt's event loop, once a process and before the first connection: virConnectSetKeepAlive needs it."""
    libvirt.registerErrorHandler(lambda *_: None, None)  # errors are raised; they need not be printed too
    libvirt.virEventRegisterDefaultImpl()

    def turn() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=turn, name="libvirt-events", daemon=True).start()


def start(function: Callable[[], T]) -> asyncio.Future[T]:
    """Run a blocking call in a thread of its own; the future has its result. Cancelling the future does not stop the call."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # the result of `function`

    def work() -> None:
        result: T | None = None
        error: BaseException | None = None
        try:
            result = function()
        except Exception as raised:  # whatever it is belongs to the one who awaits
            error = raised
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    threading.Thread(target=work, name="libvirt-call", daemon=True).start()
    return future


async def call(host: str, function: Callable[[], T], *, deadline_s: float) -> T:
    """Run a blocking call of libvirt and wait for its answer.

    Args:
        host: whose libvirt it is, for errors.
        function: the call.
        deadline_s: how long to wait for the answer.

    Raises:
        AnswerNotSeen: no answer by the deadline: it may or may not have been done, and may still be.
        HypervisorError: libvirt's own error.
    """
    try:
        async with asyncio.timeout(deadline_s):
            return await start(function)
    except TimeoutError:
        raise AnswerNotSeen(f"libvirt on {host} did not answer within {deadline_s:g} s.", host=host) from None
    except libvirt.libvirtError as error:
        raise wrapped(host, error) from error


def wrapped(host: str, error: libvirt.libvirtError) -> HypervisorError:
    """An error of libvirt as one of ours: its words unchanged, its number for tables."""
    raw = error.get_error_message() or str(error)
    return HypervisorError(
        f"libvirt on {host}: {raw}.", host=host, raw=raw, number=error.get_error_code() or 0, area=error.get_error_domain() or 0
    )
