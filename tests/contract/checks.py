"""The contract that every driver keeps, as checks: simulated, bare QEMU and libvirt are held to the same ones.

A check is an async function of a `Bench`: one driver, two hosts, one running guest that may be on either. It drives an attempt
as the engine would, and judges by what the driver shows. What the guest itself noticed is judged elsewhere, by the auditor.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest

from segue import units
from segue.core import ownership
from segue.core.evidence import Sighting
from segue.core.model import DriverKind, GuestState, HostAddress, JobStatus, Limits, MigrationSpec, Owner, Progress
from segue.core.ports import Attempt, Driver, Hypervisor
from segue.errors import HostUnreachable, HypervisorError
from tests.support.ledger import Ledger

DEADLINE_S = 60.0
SLOW_BPS = 8 * units.MIB
"""Slow enough that the guest of a bench is surely still on its way when the second sample comes."""


@dataclass(kw_only=True)
class Bench:
    """Where a contract is checked.

    Attributes:
        driver: the driver under test.
        addresses: two hosts.
        dead: an address at which nothing answers.
        guest: the name of a running guest on one of them, with enough memory in use to be seen moving.
    """

    driver: Driver
    addresses: tuple[HostAddress, HostAddress]
    dead: HostAddress
    guest: str
    ledger: Ledger = field(default_factory=Ledger)

    @contextlib.asynccontextmanager
    async def hosts(self) -> AsyncIterator[tuple[Hypervisor, Hypervisor]]:
        """Both hosts connected: the one that runs the guest first."""
        async with contextlib.AsyncExitStack() as stack:
            pair: list[Hypervisor] = []
            for address in self.addresses:
                host = await self.driver.connect(address, deadline_s=10)
                stack.push_async_callback(host.aclose)
                pair.append(host)
            first = await pair[0].evidence(self.guest)
            yield (pair[0], pair[1]) if first.sighting is Sighting.RUNNING else (pair[1], pair[0])

    @contextlib.asynccontextmanager
    async def attempt(self, source: Hypervisor, destination: Hypervisor, limits: Limits) -> AsyncIterator[Attempt]:
        """An attempt that is closed whatever happens."""
        kind = self.addresses[0].driver
        spec = MigrationSpec(
            id=secrets.token_hex(4),
            guest=self.guest,
            source=source.host,
            destination=destination.host,
            driver=kind,
            limits=limits,
        )
        async with contextlib.aclosing(self.driver.attempt(spec, source, destination, self.ledger)) as attempt:
            yield attempt


async def verdict(bench: Bench, source: Hypervisor, destination: Hypervisor) -> ownership.Verdict:
    return ownership.judge(await source.evidence(bench.guest), await destination.evidence(bench.guest), may_have_run=False)


async def sightings(bench: Bench, source: Hypervisor, destination: Hypervisor) -> tuple[Sighting, Sighting]:
    return (await source.evidence(bench.guest)).sighting, (await destination.evidence(bench.guest)).sighting


async def complete(attempt: Attempt) -> list[Progress]:
    await attempt.prepare()
    samples = [sample async for sample in attempt.perform()]
    await attempt.finish()
    await attempt.confirm()
    return samples


async def settle(bench: Bench, source: Hypervisor, destination: Hypervisor, wanted: tuple[Sighting, Sighting]) -> None:
    """Wait until both hosts show what is wanted; a host may need a moment to forget a process."""
    async with asyncio.timeout(10):
        while await sightings(bench, source, destination) != wanted:  # noqa: ASYNC110  # two hosts: there is no event
            await asyncio.sleep(0.05)


async def lists_the_running_guest_once(bench: Bench) -> None:
    async with bench.hosts() as (source, destination):
        here = [guest for guest in await source.guests() if guest.name == bench.guest]
        there = [guest for guest in await destination.guests() if guest.name == bench.guest]
        assert [guest.state for guest in here] == [GuestState.RUNNING]
        assert here[0].host == source.host
        assert here[0].driver is bench.addresses[0].driver
        assert here[0].obstacle == ""
        assert there == []


async def tells_two_hosts_apart(bench: Bench) -> None:
    async with bench.hosts() as (source, destination):
        assert await source.identity() != await destination.identity()
        assert await source.identity() == (await source.facts()).identity


async def shows_what_it_never_heard_of_as_absent(bench: Bench) -> None:
    async with bench.hosts() as (source, destination):
        for host in (source, destination):
            assert (await host.evidence("no-such-guest")).sighting is Sighting.ABSENT


async def says_that_nobody_answers(bench: Bench) -> None:
    async with asyncio.timeout(10):
        with pytest.raises(HostUnreachable):
            await bench.driver.connect(bench.dead, deadline_s=3)


async def moves(bench: Bench) -> None:
    async with bench.hosts() as (source, destination), bench.attempt(source, destination, Limits()) as attempt:
        samples = await complete(attempt)
        await settle(bench, source, destination, (Sighting.ABSENT, Sighting.RUNNING))
        result = await attempt.result()
    assert samples[-1].status is JobStatus.COMPLETED
    assert all(not sample.status.is_final for sample in samples[:-1])
    assert all(early.sent_bytes <= late.sent_bytes for early, late in pairwise(samples))
    assert all(early.elapsed_ms <= late.elapsed_ms for early, late in pairwise(samples))
    assert result.downtime_ms is not None
    assert result.iteration >= 1
    assert result.sent_bytes > 0


async def shows_a_source_owner_until_the_hand_over(bench: Bench) -> None:
    async with (
        bench.hosts() as (source, destination),
        bench.attempt(source, destination, Limits(bandwidth_bps=SLOW_BPS)) as attempt,
    ):
        await attempt.prepare()
        assert (await verdict(bench, source, destination)).owner is Owner.SOURCE
        samples = attempt.perform()
        async for sample in samples:
            if sample.status is JobStatus.ACTIVE and sample.sent_bytes:
                break
        seen = await verdict(bench, source, destination)
        assert seen.owner is Owner.SOURCE, seen.reason
        assert seen.runs, seen.reason
        await attempt.set_bandwidth(1024 * units.MIB)
        async for _ in samples:
            pass
        await attempt.finish()
        await attempt.confirm()
        await settle(bench, source, destination, (Sighting.ABSENT, Sighting.RUNNING))


async def cancels_under_way_and_leaves_nothing(bench: Bench) -> None:
    async with (
        bench.hosts() as (source, destination),
        bench.attempt(source, destination, Limits(bandwidth_bps=SLOW_BPS)) as attempt,
    ):
        await attempt.prepare()
        samples = attempt.perform()
        async for sample in samples:
            if sample.status is JobStatus.ACTIVE and sample.sent_bytes:
                break
        await attempt.cancel()
        await attempt.cancel()
        await attempt.roll_back()
        await attempt.roll_back()
        await settle(bench, source, destination, (Sighting.RUNNING, Sighting.ABSENT))


async def rolls_back_a_preparation(bench: Bench) -> None:
    async with bench.hosts() as (source, destination), bench.attempt(source, destination, Limits()) as attempt:
        await attempt.prepare()
        await attempt.roll_back()
        await settle(bench, source, destination, (Sighting.RUNNING, Sighting.ABSENT))


async def moves_again_after_a_cancel(bench: Bench) -> None:
    await cancels_under_way_and_leaves_nothing(bench)
    await moves(bench)


async def may_be_repeated_after_the_end(bench: Bench) -> None:
    async with bench.hosts() as (source, destination), bench.attempt(source, destination, Limits()) as attempt:
        await complete(attempt)
        for again in (attempt.finish, attempt.confirm, attempt.cancel, attempt.roll_back):
            await again()
        await settle(bench, source, destination, (Sighting.ABSENT, Sighting.RUNNING))


async def goes_over_to_post_copy(bench: Bench) -> None:
    limits = Limits(bandwidth_bps=SLOW_BPS, postcopy=True)
    async with bench.hosts() as (source, destination), bench.attempt(source, destination, limits) as attempt:
        await attempt.prepare()
        statuses: list[JobStatus] = []
        asked = False
        async for sample in attempt.perform():
            statuses.append(sample.status)
            if not asked and sample.status is JobStatus.ACTIVE and sample.sent_bytes:
                asked = True
                await attempt.start_postcopy(background_bps=20 * SLOW_BPS)
        await attempt.finish()
        await attempt.confirm()
        await settle(bench, source, destination, (Sighting.ABSENT, Sighting.RUNNING))
    assert JobStatus.POSTCOPY in statuses
    assert statuses[-1] is JobStatus.COMPLETED


async def is_steered_on_the_way(bench: Bench) -> None:
    """All limits can be changed while it is being sent, and are read back; slowing the guest may be refused, in words."""
    limits = Limits(bandwidth_bps=SLOW_BPS)
    async with bench.hosts() as (source, destination), bench.attempt(source, destination, limits) as attempt:
        await attempt.prepare()
        async for sample in attempt.perform():
            if sample.status is JobStatus.ACTIVE and sample.sent_bytes:
                break
        await attempt.set_max_downtime(700)
        await attempt.set_bandwidth(2 * SLOW_BPS)
        steerable = bench.addresses[0].driver is not DriverKind.LIBVIRT
        with contextlib.nullcontext() if steerable else pytest.raises(HypervisorError, match="cannot be told on the way"):
            await attempt.set_throttle(40)
        now = await attempt.settings()
        assert (now.max_downtime_ms, now.bandwidth_bps) == (700, 2 * SLOW_BPS)
        await attempt.cancel()
        await attempt.roll_back()
        await settle(bench, source, destination, (Sighting.RUNNING, Sighting.ABSENT))


async def says_what_a_guest_uses_and_dirties(bench: Bench) -> None:
    async with bench.hosts() as (source, _):
        [guest] = [guest for guest in await source.guests() if guest.name == bench.guest]
        touched = (await source.touched(bench.guest)).bytes
        assert 0 < touched.low <= touched.likely <= touched.high <= (guest.memory_bytes or 0)
        window = await source.dirtied(bench.guest, seconds=1)
        assert window.ms == 1000
        assert 0 <= window.dirtied_bytes <= (guest.memory_bytes or 0)
        busy = (await source.standing(bench.guest)).busy_percent
        assert busy is None if bench.addresses[0].driver is DriverKind.SIMULATED else busy is not None and 0 <= busy < 200
        for ask in (source.touched, lambda name: source.dirtied(name, seconds=1)):
            with pytest.raises(HypervisorError):
                await ask("no-such-guest")


async def leaves_no_task_behind(bench: Bench) -> None:
    before = asyncio.all_tasks()
    await moves(bench)
    left = {task for task in asyncio.all_tasks() - before if not task.done()}
    assert not left, left


Check = Callable[[Bench], Coroutine[Any, Any, None]]

CHECKS: tuple[Check, ...] = (
    lists_the_running_guest_once,
    tells_two_hosts_apart,
    shows_what_it_never_heard_of_as_absent,
    says_that_nobody_answers,
    moves,
    shows_a_source_owner_until_the_hand_over,
    cancels_under_way_and_leaves_nothing,
    rolls_back_a_preparation,
    moves_again_after_a_cancel,
    may_be_repeated_after_the_end,
    goes_over_to_post_copy,
    is_steered_on_the_way,
    says_what_a_guest_uses_and_dirties,
    leaves_no_task_behind,
)
