"""libvirt's blocking calls under asyncio: a thread for each call, a deadline for each wait, one event loop of libvirt's own.

A thread cannot be killed. So every call gets a daemon thread of its own: one that hangs is left behind with its answer unseen,
holds nothing up, and does not keep the process from ending. What may live here: `call`, connections, and the event loop that
their keepalive needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Callable
from typing import Final, TypedDict, TypeVar

import libvirt

from segue.errors import AnswerNotSeen, HypervisorError

T = TypeVar("T")

KEEPALIVE_S: Final = 5
KEEPALIVE_COUNT: Final = 5
"""libvirt's own defaults (libvirtd.conf, keepalive_interval and keepalive_count): a dead peer is noticed after 30 s."""
DEAD_PEER_S: Final = KEEPALIVE_S * (KEEPALIVE_COUNT + 1)
_SASL_ASKS: Final = (libvirt.VIR_CRED_AUTHNAME, libvirt.VIR_CRED_PASSPHRASE)


class Said(TypedDict):
    """An error of libvirt: its words unchanged, its number and who it came from, for tables."""

    raw: str
    number: int
    area: int


@functools.cache
def start_event_loop() -> None:
    """Start libvirt's event loop, once a process and before the first connection: virConnectSetKeepAlive needs it."""
    libvirt.registerErrorHandler(lambda *_: None, None)  # errors are raised; they need not be printed too
    libvirt.virEventRegisterDefaultImpl()

    def turn() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=turn, name="libvirt-events", daemon=True).start()


def opened(uri: str) -> libvirt.virConnect:
    """Open a connection that notices when its peer is gone. Blocks."""
    start_event_loop()
    # As virsh does: without this libvirt does not even look into auth.conf for what SASL asks. Nobody is there to be asked.
    connection = libvirt.openAuth(uri, [list(_SASL_ASKS), lambda *_: -1, None], 0)
    with contextlib.suppress(libvirt.libvirtError):  # a local connection has no keepalive
        connection.setKeepAlive(KEEPALIVE_S, KEEPALIVE_COUNT)
    return connection


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
    """An error of libvirt as one of ours."""
    return told(host, said(error))


def said(error: libvirt.libvirtError) -> Said:
    """What an error of libvirt says."""
    raw = error.get_error_message() or str(error)
    return {"raw": raw, "number": error.get_error_code() or 0, "area": error.get_error_domain() or 0}


def told(host: str, said: Said) -> HypervisorError:
    """That, as an error of ours."""
    return HypervisorError(f"libvirt on {host}: {said['raw']}.", host=host, **said)
