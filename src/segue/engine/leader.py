"""Leads one migration from this process: takes the lease, reaches both hosts, runs it, writes its end down.

What may live here: the way from a record to a running `Runner`, for a migration that begins and for one that is taken up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing

from segue.core.model import DriverKind, Outcome
from segue.core.ports import Driver, Hypervisor, Store
from segue.core.record import Ended, Lease, Record, Wishes
from segue.engine import holder
from segue.engine.inventory import Inventory
from segue.engine.journal import LEASE_MS, Journal, wall_ms
from segue.engine.runner import Report, Runner
from segue.errors import RefusedError

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
        self.leads = asyncio.Event()
        """Set when this process holds the lease."""
        self.trouble = ""
        """Why not everything could be written down; empty when it could."""

    def cancel(self) -> bool:
        """Ask for the guest to stay; false when there is no way back any more."""
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

    async def take_up(self, *, discard: bool = False) -> Outcome:
        """Lead a migration that another process has begun, from what both hosts show.

        Raises:
            HostUnreachable: a host cannot be reached, so that nothing can be said; nothing was done.
            LeaseHeld, LeaseLost, StoreError: as for `run`.
        """
        async with Inventory(self._driver) as inventory:
            source, destination = await asyncio.gather(
                inventory.connect(self._record.source), inventory.connect(self._record.destination)
            )
            return await self._lead(source, destination, lambda runner: runner.take_up(self._record, discard=discard))

    async def _lead(
        self, source: Hypervisor, destination: Hypervisor, go: Callable[[Runner], Awaitable[Outcome]], *, first: bool = False
    ) -> Outcome:
        spec = self._record.spec
        lease = await asyncio.to_thread(take_lease, self._store, self._record)
        if first and lease.epoch > 1:
            self._store.release(lease)
            raise RefusedError(f"Migration {spec.id} has been begun already.", hint=f"'segue status {spec.id}' says how it goes.")
        journal = Journal(self._store, lease, on_wishes=self._wish, told_to_run=self._record.told_to_run)
        self.leads.set()
        try:
            async with aclosing(self._driver(spec.driver).attempt(spec, source, destination, journal)) as attempt:
                runner = self._runner = Runner(
                    spec, attempt, source, destination, journal, now_ms=monotonic_ms, report=self._report
                )
                outcome = await go(runner)
                await journal.ended(Ended(at_ms=wall_ms(), outcome=outcome, settled=runner.settled))
                return outcome
        finally:
            await journal.aclose()
            self.trouble = journal.trouble

    def _wish(self, wishes: Wishes) -> None:
        if self._runner is not None:
            self._runner.wish(wishes)


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
