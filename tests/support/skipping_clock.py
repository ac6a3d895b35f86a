"""An event loop whose time goes on only when nothing else does, so that a deadline of ten seconds is over at once, and exactly.

Where everybody who talks lives in one loop, nothing is on its way once no socket is ready: then the loop skips to the next timer.
A loop with nothing to wait for and no timer would hang for ever, and says so. Nothing that runs in it may use threads.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar

import pytest

T = TypeVar("T")

_TURN_S: Final = 1e-6
"""Each turn of the loop takes so long, so that whoever is always busy does not stop the time."""


class HangsForEver(AssertionError):
    """Nothing will ever happen any more."""


class _Selector(selectors.EpollSelector):
    """Skips what it would have waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now_s += _TURN_S
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise HangsForEver
        self.now_s += timeout
        return ready


class SkippingLoop(asyncio.SelectorEventLoop):
    """The loop, and what went wrong in it that nobody awaited."""

    def __init__(self) -> None:
        self._skips = _Selector()
        super().__init__(self._skips)
        self.complaints: list[Mapping[str, Any]] = []
        self.set_exception_handler(lambda _, context: self.complaints.append(context))

    def time(self) -> float:
        return self._skips.now_s


def run(work: Callable[[], Coroutine[Any, Any, T]]) -> tuple[T, float, list[Mapping[str, Any]]]:
    """Run it in such a loop; what it returned, how many seconds it took, and what nobody awaited."""
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner(loop_factory=SkippingLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, SkippingLoop)
        patch.setattr(time, "monotonic", loop.time)
        patch.setattr(time, "monotonic_ns", lambda: int(loop.time() * 1e9))
        began_s = loop.time()
        result = runner.run(work())
        return result, loop.time() - began_s, loop.complaints
