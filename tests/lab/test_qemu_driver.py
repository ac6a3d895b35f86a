"""Bare QEMU on the real lab, at the moments at which a guest could be lost, doubled or left lying about."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass

import pytest

from segue import config, units
from segue.core.evidence import Sighting
from segue.core.model import DriverKind, GuestState, HostAddress, JobStatus, Limits, MigrationSpec
from segue.core.record import Action
from segue.drivers.qemu import QemuDriver
from segue.drivers.qemu.attempt import QemuAttempt
from segue.drivers.qemu.hypervisor import QemuHypervisor
from segue.errors import HypervisorError, PrepareFailed
from segue.lab import Lab
from segue.lab.guests import GuestSpec, LabGuest
from segue.lab.layout import GUEST_LOGS, GUEST_RUN
from tests.support.inside import Inside
from tests.support.ledger import Ledger

pytestmark = pytest.mark.lab

DEADLINE_S = 60.0
NAME = "owned"
SLOW_BPS = 4 * units.MIB
BACKGROUND_BPS = 40 * units.MIB


@dataclass(kw_only=True)
class Scene:
    """A guest on alpha, and an attempt to move it to beta."""

    source: QemuHypervisor
    destination: QemuHypervisor
    attempt: QemuAttempt

    async def shown(self) -> tuple[Sighting, Sighting]:
        here, there = await asyncio.gather(self.source.evidence(NAME), self.destination.evidence(NAME))
        return here.sighting, there.sighting

    async def hand_over(self) -> None:
        await self.attempt.prepare()
        async for sample in self.attempt.perform():
            assert sample.status not in (JobStatus.FAILED, JobStatus.CANCELLED)


Play = Callable[[Callable[[Scene], Awaitable[None]], Limits], None]


@pytest.fixture
def play(lab: Lab, inside: Inside, start_guest: Callable[[GuestSpec], LabGuest]) -> Play:
    start_guest(GuestSpec(name=NAME, host="alpha", kind="qemu", touch_bytes=48 * units.MIB, disk=True))
    addresses = [host_address(lab, host) for host in ("alpha", "beta")]

    def run(act: Callable[[Scene], Awaitable[None]], limits: Limits) -> None:
        async def whole() -> None:
            async with scene(addresses, limits) as found:
                await act(found)

        inside.run(whole(), deadline_s=DEADLINE_S)

    return run


def host_address(lab: Lab, host: str) -> HostAddress:
    return next(one for one in config.load(lab.layout.config).hosts[host] if one.driver is DriverKind.QEMU)


@asynccontextmanager
async def scene(addresses: list[HostAddress], limits: Limits) -> AsyncIterator[Scene]:
    driver = QemuDriver()
    async with AsyncExitStack() as stack:
        hosts: list[QemuHypervisor] = []
        for address in addresses:
            hosts.append(await driver.connect(address, deadline_s=10))
            stack.push_async_callback(hosts[-1].aclose)
        spec = MigrationSpec(
            id=secrets.token_hex(4), guest=NAME, source="alpha", destination="beta", driver=DriverKind.QEMU, limits=limits
        )
        attempt = await stack.enter_async_context(aclosing(driver.attempt(spec, hosts[0], hosts[1], Ledger())))
        yield Scene(source=hosts[0], destination=hosts[1], attempt=attempt)


def test_the_only_whole_copy_is_not_ended_when_its_source_died(play: Play):
    async def act(scene: Scene) -> None:
        await scene.hand_over()
        assert await scene.shown() == (Sighting.POSTMIGRATE, Sighting.SWITCHOVER)
        leaving = await scene.source.process(NAME)
        assert leaving is not None
        await scene.source.shell.run(["kill", "-KILL", str(leaving.pid)], deadline_s=5)
        async with asyncio.timeout(5):
            while await scene.source.process(NAME):  # noqa: ASYNC110  # another host's process: there is no event
                await asyncio.sleep(0.05)
        await scene.attempt.roll_back()
        assert await scene.shown() == (Sighting.ABSENT, Sighting.SWITCHOVER)
        await scene.attempt.finish()
        await scene.attempt.confirm()
        assert await scene.shown() == (Sighting.ABSENT, Sighting.RUNNING)

    play(act, Limits())


def test_after_the_hand_over_the_source_goes_on_only_when_the_destination_is_gone(play: Play):
    async def act(scene: Scene) -> None:
        await scene.hand_over()
        await scene.attempt.roll_back()
        assert await scene.shown() == (Sighting.RUNNING, Sighting.ABSENT)

    play(act, Limits())


def test_the_destination_is_not_let_run_before_the_source_let_go(play: Play):
    async def act(scene: Scene) -> None:
        await scene.attempt.prepare()
        with pytest.raises(HypervisorError, match="has not let go"):
            await scene.attempt.finish()
        with pytest.raises(HypervisorError, match="not seen to run"):
            await scene.attempt.confirm()
        assert await scene.shown() == (Sighting.RUNNING, Sighting.INCOMING)
        await scene.attempt.roll_back()

    play(act, Limits())


def test_in_post_copy_the_source_is_neither_ended_nor_cancelled(lab: Lab, play: Play):
    async def act(scene: Scene) -> None:
        await scene.attempt.prepare()
        asked = refused = False
        async for sample in scene.attempt.perform():
            if sample.status is JobStatus.ACTIVE and sample.sent_bytes and not asked:
                asked = True
                await scene.attempt.start_postcopy(background_bps=BACKGROUND_BPS)
                async with scene.source.sessions.use(await scene.source.lately(NAME)) as here:
                    told = await here.query("query-migrate-parameters")
                assert (told["max-bandwidth"], told["max-postcopy-bandwidth"]) == (SLOW_BPS, BACKGROUND_BPS)
                await scene.attempt.cancel()  # too late: it may begin at any moment
            if sample.status is JobStatus.POSTCOPY and not refused:
                await scene.attempt.finish()
                with pytest.raises(HypervisorError, match="still holds a part"):
                    await scene.attempt.confirm()
                await scene.attempt.roll_back()
                refused = True
        assert refused
        await scene.attempt.confirm()
        assert await scene.shown() == (Sighting.ABSENT, Sighting.RUNNING)

    asyncio.run(lab.set_rate("alpha", units.parse_rate("100mbit")))  # so that post-copy takes a few seconds
    try:
        play(act, Limits(postcopy=True, bandwidth_bps=SLOW_BPS))
    finally:
        asyncio.run(lab.set_rate("alpha", units.parse_rate("1gbit")))


def test_a_destination_that_cannot_start_is_quoted_and_leaves_nothing(lab: Lab, play: Play):
    in_the_way = lab.host_path("beta", f"{GUEST_LOGS}/{NAME}.serial")
    in_the_way.mkdir()

    async def act(scene: Scene) -> None:
        with pytest.raises(PrepareFailed, match=f"{NAME}.serial"):
            await scene.attempt.prepare()
        await scene.attempt.roll_back()
        assert await scene.shown() == (Sighting.RUNNING, Sighting.ABSENT)

    try:
        play(act, Limits())
        assert [path.name for path in lab.host_path("beta", GUEST_RUN).glob(f"{NAME}*")] == []
    finally:
        in_the_way.rmdir()


def test_a_monitor_in_use_is_said_to_be_and_freed_when_it_is_not(lab: Lab, play: Play):
    async def act(scene: Scene) -> None:
        other = await QemuDriver().connect(host_address(lab, "alpha"), deadline_s=10)
        try:
            [process] = [process for process in [await other.process(NAME)] if process]
            async with other.sessions.use(process):
                [busy] = [guest for guest in await scene.source.guests() if guest.name == NAME]
                assert "in use by somebody else" in busy.obstacle
                assert (await scene.source.evidence(NAME)).sighting is Sighting.UNKNOWN
            [free] = [guest for guest in await scene.source.guests() if guest.name == NAME]
            assert (free.state, free.obstacle) == (GuestState.RUNNING, "")
            async with other.sessions.use(process) as session:  # a listing does not keep it
                await session.execute("query-status")
        finally:
            await other.aclose()

    play(act, Limits())


def test_a_move_leaves_no_file_on_the_source(lab: Lab, play: Play):
    async def act(scene: Scene) -> None:
        await scene.hand_over()
        await scene.attempt.finish()
        await scene.attempt.confirm()

    play(act, Limits())
    left = [path.name for path in lab.host_path("alpha", GUEST_RUN).glob(f"{NAME}*")]
    assert [name for name in left if name != f"{NAME}.stderr"] == []  # that one is the lab's own


@pytest.mark.parametrize("past", ["undone", "its own arrival"])
def test_a_past_migration_is_not_taken_for_the_one_that_is_taken_up(play: Play, past: str):
    """A QEMU goes on saying "completed" of the last one: to let the destination run on its word would make two of one."""

    async def act(scene: Scene) -> None:
        await scene.hand_over()
        if past == "undone":
            await scene.attempt.roll_back()
            here, there = scene.source, scene.destination
        else:
            await scene.attempt.finish()
            await scene.attempt.confirm()
            here, there = scene.destination, scene.source
        spec = MigrationSpec(id=secrets.token_hex(4), guest=NAME, source="here", destination="there", driver=DriverKind.QEMU)
        async with aclosing(QemuDriver().attempt(spec, here, there, Ledger())) as first:
            await first.prepare()
        ledger = Ledger()
        async with aclosing(QemuDriver().attempt(spec, here, there, ledger)) as second:
            await second.reattach(told_to_run=False)
            assert [sample.status async for sample in second.perform()] == [JobStatus.NONE]
            await second.cancel()
            await second.roll_back()
        assert Action.RESUME_DESTINATION not in {action for action, _ in ledger.lines}
        assert (await here.evidence(NAME)).sighting is Sighting.RUNNING
        assert (await there.evidence(NAME)).sighting is Sighting.ABSENT

    play(act, Limits())
