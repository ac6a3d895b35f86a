"""Leads one migration from this process: takes the lease, reaches both hosts, runs it, writes its end down.

What may live here: the way from a record to a running `Runner`, for a migration that begins and for one that is taken up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Protocol

from segue.core.model import Control, DriverKind, Outcome, OutcomeKind, Transport
from segue.core.phases import State
from segue.core.ports import Attempt, Driver, Hypervisor, Store
from segue.core.record import Ended, Lease, Record, Transition, Wishes
from segue.engine import holder
from segue.engine.inventory import Inventory
from segue.engine.journal import LEASE_MS, Journal, wall_ms
from segue.engine.mending import Mender
from segue.engine.outlook import Foresight
from segue.engine.probe import Prober
from segue.engine.runner import Report, Runner, Told
from segue.errors import LeaseHeld, RefusedError

DriverOf = Callable[[DriverKind], Driver]


def monotonic_ms() -> int:
    """Milliseconds that never jump."""
    return time.monotonic_ns() // 1_000_000


class Leader:
    """Leads one migration, once.

    Args:
        store: where it is written down.
        record: the migration.
        driver: gives the driver of a kind.
        report: is told every state, sample, decision and note; must return at once.
    """

    def __init__(self, store: Store, record: Record, *, driver: DriverOf, report: Report) -> None:
        self._store = store
        self._record = record
        self._driver = driver
        self._report = report
        self._runner: Runner | None = None
        self._cancelled = False
        self._wishes: Wishes | None = None
        self.leads = asyncio.Event()
        """Set when this process holds the lease."""
        self.trouble = ""
        """Why not everything could be written down; empty when it could."""

    def cancel(self) -> bool:
        """Ask for the guest to stay; false when there is no way back any more."""
        self._cancelled = True  # for the runner that there may not be yet
        return self._runner is None or self._runner.cancel()

    async def run(self, source: Hypervisor, destination: Hypervisor) -> Outcome:
        """Lead a migration that nobody has begun, between two hosts that are connected.

        Raises:
            LeaseHeld: another process leads it.
            RefusedError: another process has begun it.
            LeaseLost: another process took it over on the way.
            StoreError: it cannot be written down; nothing was touched.
        """
        return await self._lead(source, destination, lambda runner: runner.run(), first=True)

    async def take_up(self, *, discard: bool = False, inventory: Inventory | None = None) -> Outcome:
        """Lead a migration that another process has begun, from what both hosts show.

        Args:
            discard: end what is left of a guest that is lost.
            inventory: with connections that are open already; closed by whoever opened it.

        Raises:
            HostUnreachable: a host cannot be reached, so that nothing can be said; nothing was done.
            LeaseHeld, LeaseLost, StoreError: as for `run`.
        """
        async with AsyncExitStack() as stack:
            if inventory is None:
                inventory = await stack.enter_async_context(Inventory(self._driver))
            source, destination = await asyncio.gather(
                inventory.connect(self._record.source), inventory.connect(self._record.destination)
            )
            return await self._lead(source, destination, lambda runner: runner.take_up(self._record, discard=discard))

    async def _lead(
        self, source: Hypervisor, destination: Hypervisor, go: Callable[[Runner], Awaitable[Outcome]], *, first: bool = False
    ) -> Outcome:
        record = self._record
        lease = await asyncio.to_thread(take_lease, self._store, record)
        if lease.epoch > 1:  # it had a leader before, who left it otherwise
            record = self._record = await asyncio.to_thread(self._store.load, record.id)
            if first:
                self._store.release(lease)
                was = "begun already" if record.outcome is None else f"{record.outcome.outcome} already"
                raise RefusedError(f"Migration {record.id} has been {was}.", hint=f"See 'segue status {record.id}'.")
        if record.settled and record.outcome is not None:
            self._store.release(lease)
            return record.outcome
        journal = Journal(self._store, lease, on_wishes=self._wish, told_to_run=record.told_to_run, begins=first)
        self.leads.set()
        prober: Prober | None = None
        try:
            attempt = await self._attempt(source, destination, journal)
            prober = await self._asking()
            foresight = Foresight(record, source, self._store)
            async with aclosing(attempt), aclosing(foresight):
                runner = self._runner = Runner(
                    record.spec,
                    attempt,
                    source,
                    destination,
                    journal,
                    now_ms=monotonic_ms,
                    report=self._report,
                    probe=prober,
                    foresight=foresight,
                )
                if self._cancelled:
                    runner.cancel()
                if self._wishes is not None:
                    runner.wish(self._wishes)
                mender = Mender(record, source, journal, lambda text: self._tell(journal, text))
                if first and record.spec.mends:
                    await self._mended(mender, journal)
                outcome = await go(runner)
                if record.spec.mends:
                    await mender.end(await asyncio.to_thread(self._store.story, record.id), outcome)
                await journal.ended(Ended(at_ms=wall_ms(), outcome=outcome, settled=runner.settled))
                return outcome
        finally:
            if prober is not None:
                await asyncio.to_thread(prober.stop)
            await journal.aclose()
            self.trouble = journal.trouble

    async def _attempt(self, source: Hypervisor, destination: Hypervisor, journal: Journal) -> Attempt:
        """The driver's attempt; one that cannot be made is an end too.

        Raises:
            Unsupported: as the driver says; nothing was touched.
        """
        spec = self._record.spec
        try:
            return self._driver(spec.driver).attempt(spec, source, destination, journal)
        except RefusedError as error:
            await self._never_began(error, journal)
            raise

    async def _mended(self, mender: Mender, journal: Journal) -> None:
        """Change what stands in the way; where that cannot be done, it has ended before it began.

        Raises:
            RefusedError: all is as it was.
        """
        try:
            await mender.mend()
        except RefusedError as error:
            await self._never_began(error, journal)
            raise

    async def _never_began(self, error: RefusedError, journal: Journal) -> None:
        spec = self._record.spec
        journal.entered(State.REFUSED)
        outcome = never_begun(spec, spec.driver, OutcomeKind.REFUSED, str(error))
        await journal.ended(Ended(at_ms=wall_ms(), outcome=outcome, settled=True))

    def _tell(self, journal: Journal, text: str) -> None:
        journal.note(text)
        self._report(Told(text=text))

    async def _asking(self) -> Prober | None:
        """The probe, at work; where it may not (it was checked, but maybe by another user), the migration goes on without."""
        if (target := self._record.spec.probe) is None:
            return None
        prober = Prober(target)
        try:
            await asyncio.to_thread(prober.start)
        except RefusedError as error:
            self._report(Told(text=error.message))
            return None
        return prober

    def _wish(self, wishes: Wishes) -> None:
        self._wishes = wishes  # for the runner that there may not be yet
        if self._runner is not None:
            self._runner.wish(wishes)


class Asked(Protocol):
    """What was asked for, in whatever shape."""

    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def guest(self) -> str: ...  # noqa: D102
    @property
    def source(self) -> str: ...  # noqa: D102
    @property
    def destination(self) -> str: ...  # noqa: D102
    @property
    def control(self) -> Control: ...  # noqa: D102
    @property
    def transport(self) -> Transport: ...  # noqa: D102


def never_begun(asked: Asked, driver: DriverKind | None, kind: OutcomeKind, error: str) -> Outcome:
    """The outcome of a migration that never began: what is known of it, and why."""
    return Outcome(
        id=asked.id,
        guest=asked.guest,
        source=asked.source,
        destination=asked.destination,
        driver=driver,
        control=asked.control,
        transport=asked.transport,
        outcome=kind,
        owner="",
        phase=State.BEGIN,
        total_ms=0,
        downtime_ms=None,
        bytes_sent=0,
        iterations=0,
        error=error,
    )


def withdraw(store: Store, record: Record) -> bool:
    """End a migration that nobody has begun, before anybody does; false when somebody has: then it is the leader's.

    Nothing is asked of a host: without a leader nothing was ever done to one.
    """
    if record.lease is not None:
        return False
    try:
        lease = store.lead(record.id, holder.me(), ttl_ms=LEASE_MS)
    except LeaseHeld:
        return False
    try:
        if lease.epoch > 1:
            return False
        outcome = never_begun(record.spec, record.spec.driver, OutcomeKind.CANCELLED, "Cancelled before it began.")
        now_ms = wall_ms()
        ended = Ended(at_ms=now_ms, outcome=outcome, settled=True)
        store.write(lease, [Transition(at_ms=now_ms, epoch=lease.epoch, state=State.CANCELLED), ended])
    finally:
        store.release(lease)
    return True


def take_lease(store: Store, record: Record) -> Lease:
    """Become the leader of a migration.

    A leader that died is followed at once; one whose lease ran out while it stood still is ended first, where it can be.

    Raises:
        LeaseHeld: another process leads it.
    """
    last = record.lease
    dead = last.holder if last is not None and holder.is_dead(last.holder) else None
    lease = store.lead(record.id, holder.me(), ttl_ms=LEASE_MS, dead=dead)
    if last is not None and dead is None and last.holder != holder.me():
        holder.end(last.holder)
    return lease
