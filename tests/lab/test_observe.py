"""The auditor on the real lab: it must say what was done to a guest, and nothing of one that was left alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from qemu.qmp import QMPClient

from segue.lab import Lab, guests
from segue.lab.guests import GuestSpec, LabGuest
from segue.lab.layout import GUEST_LOGS, GUEST_RUN
from segue.lab.observe import Report, Watch, observe

pytestmark = pytest.mark.lab

Start = Callable[[GuestSpec], LabGuest]
SECTOR = 512


def qmp_path(lab: Lab, guest: str, host: str) -> str:
    """A monitor of the lab, reached through the file system: no network is involved."""
    return str(lab.host_path(host, f"{GUEST_RUN}/{guest}.qmp"))


async def qmp(path: str, command: tuple[str, dict[str, object]]) -> dict[str, object]:
    client = QMPClient("test")
    async with asyncio.timeout(20):
        await client.connect(path)
        try:
            return await client.execute(*command)  # type: ignore[return-value]
        finally:
            await client.disconnect()


async def stopped_after_migrating(path: str) -> None:
    """Wait until this source has sent everything."""
    async with asyncio.timeout(20):
        while (look := await qmp(path, ("query-migrate", {})))["status"] != "completed":
            assert look["status"] in ("setup", "active", "device"), look
            await asyncio.sleep(0.05)


async def ticks_more(watch: Watch, count: int) -> None:
    """Wait until the guest has ticked so many times more."""
    wanted = len(watch.ticks) + count
    async with asyncio.timeout(20):
        while len(watch.ticks) < wanted:  # noqa: ASYNC110  # the reader is a thread
            await asyncio.sleep(0.01)


def watching(lab: Lab, guest: str, *, ticks: int = 50) -> Report:
    async def watch() -> Report:
        async with observe(lab, guest) as eye:
            await ticks_more(eye, ticks)
            return await eye.report()

    return asyncio.run(watch())


def test_a_guest_that_is_left_alone_is_clean(lab: Lab, start_guest: Start) -> None:
    guest = start_guest(GuestSpec(name="calm", host="alpha", kind="qemu", disk=True))
    report = watching(lab, guest.name)
    assert report.clean, report
    assert (report.copies, report.hosts, report.running_on) == (1, ("alpha",), "alpha")
    assert report.disk is not None
    assert report.disk.written > 0


def test_a_stop_of_500_ms_is_seen_by_clients_and_in_the_ticks(lab: Lab, start_guest: Start) -> None:
    guest = start_guest(GuestSpec(name="stopped", host="alpha", kind="qemu", disk=True))

    async def stop_and_go() -> Report:
        async with observe(lab, guest.name) as eye:
            await ticks_more(eye, 20)
            path = qmp_path(lab, guest.name, "alpha")
            await qmp(path, ("stop", {}))
            await asyncio.sleep(0.5)  # the stop itself: this is what is measured
            await qmp(path, ("cont", {}))
            return await eye.report()

    report = asyncio.run(stop_and_go())
    assert 480 <= report.tick_gap_ms <= 700, report
    assert 480 <= report.client_gap_ms <= 700, report
    assert report.guest_gap_ms < 200  # the guest's own clock stood still with it
    assert report.clean  # nothing was lost


def start_again(lab: Lab, guest: LabGuest, *extra: str) -> None:
    """The guest's own command line once more, on beta; the image has no lock on NFS."""
    [(_, pid)] = guests.where(lab, guest.name)
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]
    asyncio.run(lab.run("beta", ["sh", "-c", 'setsid "$@" >/dev/null 2>&1 </dev/null &', "sh", *words, *extra]))


def wait_for(path: Path) -> None:
    async def until_there() -> None:
        async with asyncio.timeout(20):
            while not path.exists():  # noqa: ASYNC110  # another process makes it
                await asyncio.sleep(0.02)

    asyncio.run(until_there())


def test_a_guest_that_was_started_twice_is_two_copies(lab: Lab, start_guest: Start) -> None:
    guest = start_guest(GuestSpec(name="twice", host="alpha", kind="qemu", disk=True))
    start_again(lab, guest)
    wait_for(lab.host_path("beta", f"{GUEST_LOGS}/{guest.name}.serial"))

    async def watch() -> Report:
        async with observe(lab, guest.name) as eye:
            async with asyncio.timeout(30):
                while "beta" not in {tick.host for tick in eye.ticks}:  # noqa: ASYNC110  # it boots
                    await asyncio.sleep(0.05)
            await ticks_more(eye, 100)
            return await eye.report()

    report = asyncio.run(watch())
    assert report.copies == 2
    assert report.copies_at_ms
    assert not report.clean
    assert report.disk is not None
    assert report.disk.lost > 0  # what one was told is safe, the other wrote over


def test_a_forked_guest_lives_through_the_same_ticks_twice(lab: Lab, start_guest: Start) -> None:
    guest = start_guest(GuestSpec(name="forked", host="alpha", kind="qemu", disk=True))
    start_again(lab, guest, "-incoming", "defer", "-S")
    alpha, beta = qmp_path(lab, guest.name, "alpha"), qmp_path(lab, guest.name, "beta")
    wait_for(Path(beta))

    async def fork() -> Report:
        data = "tcp:10.77.0.12:4444"
        async with observe(lab, guest.name) as eye:
            await qmp(beta, ("migrate-incoming", {"uri": data}))
            await qmp(alpha, ("migrate", {"uri": data}))
            await stopped_after_migrating(alpha)
            await qmp(beta, ("cont", {}))
            await qmp(alpha, ("cont", {}))  # what nobody may ever do: the source goes on as well
            await ticks_more(eye, 100)
            return await eye.report()

    report = asyncio.run(fork())
    assert report.copies == 2
    assert report.ticks_repeated > 0
    assert report.disk is not None
    assert not report.disk.clean


@pytest.mark.parametrize("change", ["zeroed", "doubled", "swapped"])
def test_a_disk_that_was_tampered_with_is_told(lab: Lab, start_guest: Start, change: str) -> None:
    guest = start_guest(GuestSpec(name="disk", host="alpha", kind="qemu", disk=True))
    assert watching(lab, guest.name).clean
    assert guest.disk is not None
    with Path(guest.disk).open("r+b") as image:
        records = image.read(20 * SECTOR)
        third, fourth = records[3 * SECTOR : 4 * SECTOR], records[4 * SECTOR : 5 * SECTOR]
        image.seek(3 * SECTOR)
        image.write({"zeroed": bytes(SECTOR) + fourth, "doubled": fourth + fourth, "swapped": fourth + third}[change])
    report = watching(lab, guest.name, ticks=5).disk
    assert report is not None
    assert not report.clean
    seen = {"zeroed": report.lost, "doubled": report.doubled, "swapped": report.out_of_order}[change]
    assert seen > 0, report
