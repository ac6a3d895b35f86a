"""Disks that only the source can reach, on real hosts: copied while the guest appends to them, and nothing is lost or left."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from segue import config, units
from segue.core.evidence import Sighting
from segue.core.model import DriverKind, JobStatus, Limits, MigrationSpec
from segue.core.record import Action, Step
from segue.core.storage import CopyStorage, CopyWish
from segue.drivers.qemu import QemuDriver, disks
from segue.drivers.qemu.attempt import QemuAttempt
from segue.drivers.qemu.hypervisor import QemuHypervisor
from segue.errors import HypervisorError, PrepareFailed
from segue.lab import Lab
from segue.lab.guests import GuestSpec, LabGuest, local_disk
from segue.lab.observe import disk as reader
from segue.lab.observe import observe
from segue.lab.observe.judge import DiskReport, judge_disk
from tests.support.inside import Inside
from tests.support.ledger import Ledger

pytestmark = pytest.mark.lab

Start = Callable[[GuestSpec], LabGuest]
DEADLINE_S = 60.0
NAME = "local"
FILLED_BYTES = 16 * units.MIB


@dataclass(kw_only=True)
class Scene:
    """A guest on alpha, and what wants to move it to beta."""

    lab: Lab
    source: QemuHypervisor
    destination: QemuHypervisor
    spec: MigrationSpec
    ledger: Ledger

    @asynccontextmanager
    async def attempt(self) -> AsyncIterator[QemuAttempt]:
        """One process's attempt; leaving it is as good as that process's death."""
        async with aclosing(QemuDriver().attempt(self.spec, self.source, self.destination, self.ledger)) as made:
            yield made

    async def tell_source(self, command: str, arguments: dict[str, object] | None = None) -> object:
        process = await self.source.process(NAME)
        assert process is not None
        async with self.source.sessions.use(process) as session:
            return await session.execute(command, arguments)

    async def fill(self) -> None:
        """Write something to the disk that takes a while to copy, behind the records."""
        line = f'qemu-io virtio0 "write -P 170 32M {FILLED_BYTES}"'
        await self.tell_source("human-monitor-command", {"command-line": line})

    async def shown(self) -> tuple[Sighting, Sighting]:
        here, there = await asyncio.gather(self.source.evidence(NAME), self.destination.evidence(NAME))
        return here.sighting, there.sighting

    async def check_as_before(self) -> None:
        """The guest runs on alpha, its QEMU holds nothing of ours, and beta has no file of it."""
        assert await self.shown() == (Sighting.RUNNING, Sighting.ABSENT)
        assert disks.read_jobs(await self.tell_source("query-jobs")) == []
        assert disks.own_nodes(await self.tell_source("query-named-block-nodes", {"flat": True})) == []
        assert files(self.lab, "beta") == []
        assert files(self.lab, "alpha") == [path(self.lab, "alpha").name]


Play = Callable[[Callable[[Scene], Awaitable[None]], CopyWish, Limits], None]


@pytest.fixture
def play(lab: Lab, inside: Inside) -> Play:
    """Act in a scene, from the admin host."""

    def run(act: Callable[[Scene], Awaitable[None]], wish: CopyWish, limits: Limits) -> None:
        async def whole() -> None:
            async with AsyncExitStack() as stack:
                hosts = []
                for name in ("alpha", "beta"):
                    [address] = [one for one in config.load(lab.layout.config).hosts[name] if one.driver is DriverKind.QEMU]
                    hosts.append(await QemuDriver().connect(address, deadline_s=10))
                    stack.push_async_callback(hosts[-1].aclose)
                spec = MigrationSpec(
                    id=secrets.token_hex(4),
                    guest=NAME,
                    source="alpha",
                    destination="beta",
                    driver=DriverKind.QEMU,
                    limits=limits,
                    disks=wish,
                )
                await act(Scene(lab=lab, source=hosts[0], destination=hosts[1], spec=spec, ledger=Ledger()))

        inside.run(whole(), deadline_s=DEADLINE_S)

    return run


async def move(scene: Scene) -> None:
    async with scene.attempt() as attempt:
        await attempt.prepare()
        await hand_over(attempt)


async def hand_over(attempt: QemuAttempt) -> None:
    async for sample in attempt.perform():
        assert sample.status not in (JobStatus.FAILED, JobStatus.CANCELLED)
    await attempt.finish()
    await attempt.confirm()


def path(lab: Lab, host: str) -> Path:
    return lab.host_path(host, local_disk(NAME))


def files(lab: Lab, host: str) -> list[str]:
    return sorted(one.name for one in path(lab, host).parent.iterdir() if one.name.startswith((NAME, ".segue")))


def records(lab: Lab, act: Callable[[], None]) -> DiskReport:
    """What the guest's disk on beta holds, and what the guest was told is safe, some records after it was moved."""

    async def whole() -> DiskReport:
        async with observe(lab, NAME) as eye:
            await asyncio.to_thread(act)
            report = await eye.report()
            assert (report.copies, report.ticks_lost) == (1, 0), report
            acks = list(eye._serial.acks)
            copy = "/var/log/disk.raw"  # beta's own, where the base has the name that the disk knows it by
            await lab.run("beta", ["qemu-img", "convert", "-U", "-O", "raw", local_disk(NAME), copy])
            return judge_disk(reader.read(lab.host_path("beta", copy)), acks)

    return asyncio.run(whole())


@pytest.mark.parametrize(
    ("kind", "how", "synchronous"),
    [
        ("raw", CopyStorage.ALL, False),
        ("raw", CopyStorage.ALL, True),
        ("qcow2", CopyStorage.ALL, False),
        ("overlay", CopyStorage.ALL, False),
        ("overlay", CopyStorage.INC, False),
    ],
)
def test_no_record_is_lost_when_a_disk_moves_with_its_guest(
    lab: Lab, play: Play, start_guest: Start, kind: str, how: CopyStorage, synchronous: bool
):
    start_guest(GuestSpec(name=NAME, host="alpha", kind="qemu", local=kind))
    limit_bps = 20 * units.MIB  # so that there is a while in which records are written

    async def act(scene: Scene) -> None:
        await scene.fill()
        async with scene.attempt() as attempt:
            await attempt.prepare()
            samples = [sample async for sample in attempt.perform()]
            await attempt.finish()
            await attempt.confirm()
        assert await scene.shown() == (Sighting.ABSENT, Sighting.RUNNING)
        seen = [sample for sample in samples if sample.disk_total_bytes]
        assert seen[-1].disk_copied_bytes >= FILLED_BYTES
        assert seen[-1].disk_total_bytes - seen[-1].disk_copied_bytes <= units.MIB  # what the guest has just written
        assert seen[0].disk_copied_bytes < seen[0].disk_total_bytes

    report = records(lab, lambda: play(act, CopyWish(how=how, limit_bps=limit_bps, synchronous=synchronous), Limits()))
    assert report.clean, report
    assert report.acknowledged > 0
    wanted = [path(lab, "beta").name, *([f"{path(lab, 'beta').name}.base"] if kind == "overlay" else [])]
    assert files(lab, "beta") == wanted
    if kind == "overlay" and how is CopyStorage.ALL:
        told = subprocess.run(["qemu-img", "info", "-U", path(lab, "beta")], check=True, capture_output=True).stdout
        assert b"backing file" not in told


def test_a_disk_on_shared_storage_is_not_copied(play: Play, start_guest: Start):
    start_guest(GuestSpec(name=NAME, host="alpha", kind="qemu", disk=True))

    async def act(scene: Scene) -> None:
        await move(scene)
        assert Action.CREATE_DISK not in {action for action, _ in scene.ledger.lines}
        assert await scene.shown() == (Sighting.ABSENT, Sighting.RUNNING)

    play(act, CopyWish(how=CopyStorage.ALL), Limits())


def test_what_lies_where_a_disk_should_go_is_refused_and_kept(lab: Lab, play: Play, start_guest: Start):
    start_guest(GuestSpec(name=NAME, host="alpha", kind="qemu", local="raw"))
    path(lab, "beta").write_bytes(b"precious")

    async def act(scene: Scene) -> None:
        async with scene.attempt() as attempt:
            with pytest.raises(PrepareFailed, match="already has a file"):
                await attempt.prepare()
            await attempt.roll_back()
        assert path(lab, "beta").read_bytes() == b"precious"
        path(lab, "beta").unlink()
        await scene.check_as_before()

    play(act, CopyWish(how=CopyStorage.ALL), Limits())


async def perform(attempt: QemuAttempt, when: JobStatus, do: Callable[[], Awaitable[object]]) -> None:
    """Go on to the end, doing that once when something is copied and the migration is in that state."""
    done = False
    async for sample in attempt.perform():
        if sample.status is when and sample.disk_copied_bytes and not done:
            done = True
            await do()


SLOW = CopyWish(how=CopyStorage.ALL, limit_bps=4 * units.MIB)


async def copying(attempt: QemuAttempt) -> None:
    """Prepare, and go on until something has been copied but not all."""
    await attempt.prepare()
    samples = attempt.perform()
    while not (await anext(samples)).disk_copied_bytes:
        pass


@pytest.mark.parametrize("dies", [False, True], ids=["by itself", "by another process"])
def test_a_copy_that_is_given_up_leaves_nothing(lab: Lab, play: Play, start_guest: Start, *, dies: bool):
    start_guest(GuestSpec(name=NAME, host="alpha", kind="qemu", local="qcow2"))

    async def act(scene: Scene) -> None:
        await scene.fill()
        async with scene.attempt() as first:
            await copying(first)
            if not dies:
                await first.cancel()
                await first.roll_back()
        if dies:
            assert len(files(lab, "beta")) == 2
            async with scene.attempt() as second:
                await second.reattach(told_to_run=False)
                await second.cancel()
                await second.roll_back()
                await second.roll_back()
        await scene.check_as_before()

    play(act, SLOW, Limits())


def test_another_process_brings_it_to_its_end(lab: Lab, play: Play, start_guest: Start):
    start_guest(GuestSpec(name=NAME, host="alpha", kind="qemu", local="raw", touch_bytes=48 * units.MIB))

    async def act(scene: Scene) -> None:
        async with scene.attempt() as first:
            await first.prepare()
            async for sample in first.perform():
                if sample.status is JobStatus.ACTIVE:
                    break
        async with scene.attempt() as second:
            await second.reattach(told_to_run=False)
            await second.set_bandwidth(units.parse_rate("1gbit"))
            await hand_over(second)
        assert await scene.shown() == (Sighting.ABSENT, Sighting.RUNNING)

    report = records(lab, lambda: play(act, CopyWish(how=CopyStorage.ALL), Limits(bandwidth_bps=10 * units.MIB)))
    assert report.clean, report
    assert files(lab, "beta") == [path(lab, "beta").name]


def test_a_destination_that_dies_in_mid_copy_harms_nobody(play: Play, start_guest: Start):
    start_guest(GuestSpec(name=NAME, host="alpha", kind="qemu", local="raw"))

    async def act(scene: Scene) -> None:
        await scene.fill()
        async with scene.attempt() as attempt:
            await attempt.prepare()
            arriving = await scene.destination.process(NAME)
            assert arriving is not None
            kill = ["kill", "-KILL", str(arriving.pid)]
            with pytest.raises(HypervisorError, match="no longer copied"):
                await perform(attempt, JobStatus.SETUP, lambda: scene.destination.shell.run(kill, deadline_s=5))
            await attempt.roll_back()
        await scene.check_as_before()

    play(act, SLOW, Limits())


def test_a_mirror_that_breaks_while_memory_is_sent_leaves_the_guest_where_it_is(play: Play, start_guest: Start):
    start_guest(GuestSpec(name=NAME, host="alpha", kind="qemu", local="raw", touch_bytes=48 * units.MIB))

    async def act(scene: Scene) -> None:
        async with scene.attempt() as attempt:
            await attempt.prepare()
            end = ("block-job-cancel", {"device": "segue-disk0", "force": True})
            with pytest.raises(HypervisorError, match="no longer copied"):
                await perform(attempt, JobStatus.ACTIVE, lambda: scene.tell_source(*end))
            await attempt.roll_back()
        await scene.check_as_before()
        assert (Action.HAND_DISKS_OVER, Step.INTENT) not in scene.ledger.lines

    play(act, CopyWish(how=CopyStorage.ALL), Limits(bandwidth_bps=5 * units.MIB))


def test_a_port_that_is_closed_is_said_and_the_guest_does_not_stand_still_for_it(play: Play, start_guest: Start):
    start_guest(GuestSpec(name=NAME, host="alpha", kind="qemu", local="raw"))

    async def act(scene: Scene) -> None:
        async with scene.attempt() as attempt:
            await attempt.prepare()
            process = await scene.destination.process(NAME)
            assert process is not None
            async with scene.destination.sessions.use(process) as session:
                await session.execute("nbd-server-stop")
            with pytest.raises(HypervisorError, match=r"alpha cannot reach beta at .* port"):
                await perform(attempt, JobStatus.COMPLETED, scene.shown)
            await attempt.roll_back()
        await scene.check_as_before()

    play(act, CopyWish(how=CopyStorage.ALL), Limits())
