"""A database that answers nobody for ten seconds, in the middle of a migration: no sample is late, and no decision."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from segue import units
from segue.core.model import DriverKind, HostAddress, Limits, MigrationSpec, OutcomeKind, Progress
from segue.core.phases import State
from segue.core.policy import Decision, Policy
from segue.core.record import Record
from segue.drivers.simulated import SimGuest, SimulatedDriver, World, driver
from segue.engine.journal import PATIENCE_S
from segue.engine.leader import Leader
from segue.engine.runner import Event, Steered
from segue.store import open_store
from tests.store.conftest import Server

pytestmark = pytest.mark.long

STALL_S = 10.0


@contextlib.contextmanager
def stalled(place: str, server: Server) -> Iterator[None]:
    """The database answers nobody: SQLite is locked, PostgreSQL stopped."""
    if "://" not in place:
        with contextlib.closing(sqlite3.connect(Path(place) / "segue.db", isolation_level=None, timeout=5)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")
        return
    pids = server.pids()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


async def test_nothing_waits_for_it(place: str, postgresql: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    real_tick = driver.SimulatedAttempt._tick

    def tick(attempt: driver.SimulatedAttempt) -> Progress:
        time.sleep(0.02)  # simulated time passes as real time: some seconds of pre-copy
        return real_tick(attempt)

    monkeypatch.setattr(driver.SimulatedAttempt, "_tick", tick)
    store = open_store(place)
    world = World()
    world.add(SimGuest(name="web", working_set_bytes=200 * units.MIB, write_bps=400 * units.MIB), "alpha")
    hosts = [HostAddress(name=host, uri=f"sim://{host}", driver=DriverKind.SIMULATED) for host in ("alpha", "beta")]
    limits = Limits(bandwidth_bps=units.MIB, within_ms=40_000)  # 400 samples, 8 s, then the decision to give up
    spec = MigrationSpec(
        id="stall",
        guest="web",
        source="alpha",
        destination="beta",
        driver=DriverKind.SIMULATED,
        limits=limits,
        policy=Policy(name="none"),  # Segue's own would give up at once: that deadline cannot be kept
    )
    record = Record(spec=spec, source=hosts[0], destination=hosts[1], created_at_ms=1)
    store.create(record)
    seen: list[tuple[float, Event]] = []
    flowing = asyncio.Event()

    def report(event: Event) -> None:
        seen.append((time.monotonic(), event))
        if isinstance(event, Progress):
            flowing.set()

    sim = SimulatedDriver(world)
    leader = Leader(store, record, driver=lambda _: sim, report=report)
    leading = asyncio.create_task(leader.run(*[await sim.connect(host, deadline_s=1) for host in hosts]))
    await flowing.wait()
    with stalled(place, postgresql):
        await asyncio.wait({leading}, timeout=STALL_S)
        at = [moment for moment, event in seen if isinstance(event, Progress)]
        given_up = [moment for moment, event in seen if isinstance(event, Steered) and event.decision is Decision.GIVE_UP]
        cancelling = [moment for moment, event in seen if event is State.FAILING]
    outcome = await leading
    assert max(later - earlier for earlier, later in itertools.pairwise(at)) < 0.2  # no sample was late
    assert given_up
    assert given_up[0] - at[-1] < 0.1  # nor was the decision
    assert cancelling[0] - given_up[0] < PATIENCE_S + 0.2  # its first action waited a little, and went ahead
    assert (outcome.outcome, outcome.owner) == (OutcomeKind.FAILED, "alpha")
    store.close()
