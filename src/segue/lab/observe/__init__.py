"""The auditor: watches a guest from outside, whoever moves it, and says what it lost, what it did twice, and how often it ran.

    async with observe(lab, "web1") as watch:
        mark = watch.mark()
        ...                                   # whatever is done to the guest
        report = await watch.report(since=mark)

It is independent of what it judges: it speaks to no hypervisor and uses no driver. What may live here: the watch, over `serial`,
`probe` and `disk`, with `judge` concluding.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final

from segue.lab import guests
from segue.lab.lab import Lab
from segue.lab.layout import ADMIN, NETNS_DIR
from segue.lab.observe import disk
from segue.lab.observe.judge import DiskReport, Memory, Report, Tick, judge, judge_disk
from segue.lab.observe.probe import Prober
from segue.lab.observe.serial import SerialLines

__all__ = ["DiskReport", "Report", "Watch", "observe"]

SETTLE_DEADLINE_S: Final = 2.0
"""How long a watch waits for signs of life at its beginning and its end; a guest without any is reported as it is."""
SETTLE_TICKS: Final = 15
"""Ticks that a report waits for, so that its last moment is not taken for a gap, and a second copy had time to show."""
LOOK_EVERY_S: Final = 0.01


class Watch:
    """A running observation of one guest. Made by `observe`."""

    def __init__(self, lab: Lab, guest: guests.LabGuest) -> None:
        self._guest = guest
        self._serial = SerialLines({host: guests.serial_log(lab, guest.name, host) for host in lab.hosts})
        self._prober = Prober(NETNS_DIR / lab.netns(ADMIN), guest.address)
        self._began = time.monotonic_ns()

    def start(self) -> None:
        """Begin to watch."""
        self._serial.start()
        self._prober.start()

    def stop(self) -> None:
        """Stop watching."""
        self._prober.stop()
        self._serial.stop()

    @property
    def ticks(self) -> Sequence[Tick]:
        """Every tick heard so far, in the order of arrival."""
        return self._serial.ticks

    @property
    def memory(self) -> Sequence[Memory]:
        """What the guest said of the memory that it writes, in the order of arrival."""
        return self._serial.memory

    def mark(self) -> int:
        """This moment, for `report`."""
        return time.monotonic_ns()

    async def report(self, *, since: int | None = None) -> Report:
        """What was seen since a mark, or since the beginning. Waits a little for the guest to show that it lives."""
        wanted = len(self._serial.ticks) + SETTLE_TICKS
        await _seen(lambda: len(self._serial.ticks) >= wanted)
        until = time.monotonic_ns()
        return judge(
            list(self._serial.ticks),
            self._prober.probes,
            list(self._serial.memory),
            await asyncio.to_thread(self._disk),
            since_ns=self._began if since is None else since,
            until_ns=until,
        )

    async def first_signs(self) -> None:
        """Begin to count when the guest has ticked and answered once: a silence that was there before us is nobody's gap."""
        await _seen(lambda: bool(self._serial.ticks) and any(probe.answered_ns for probe in self._prober.probes))
        self._began = time.monotonic_ns()

    def _disk(self) -> DiskReport | None:
        if self._guest.disk is None:
            return None
        acks = list(self._serial.acks)  # first: a record is on the disk before it is acknowledged
        return judge_disk(disk.read(Path(self._guest.disk)), acks)


async def _seen(sign: Callable[[], bool]) -> None:
    """Wait until there is that sign of life, or until it is late enough to go on without."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_DEADLINE_S):
            while not sign():  # noqa: ASYNC110  # the readers are threads: there is no event
                await asyncio.sleep(LOOK_EVERY_S)


@contextlib.asynccontextmanager
async def observe(lab: Lab, name: str) -> AsyncIterator[Watch]:
    """Watch a guest of the lab.

    Raises:
        LabError: no such guest, or the lab's network cannot be entered.
    """
    watch = Watch(lab, guests.record(lab, name))
    watch.start()
    try:
        await watch.first_signs()
        yield watch
    finally:
        watch.stop()
