"""Leading a migration: who may act, what is on disk before anything is done, and that a database holds up nothing."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from segue import units
from segue.core.evidence import Sighting
from segue.core.model import (
    Control,
    DriverKind,
    HostAddress,
    JobStatus,
    Limits,
    MigrationSpec,
    OnMiss,
    Outcome,
    OutcomeKind,
    Progress,
)
from segue.core.phases import PHASES, State
from segue.core.ports import Store
from segue.core.record import Action, Holder, Record, Sample, Step, Transition, Wishes
from segue.drivers.simulated import SimGuest, SimulatedDriver, World
from segue.drivers.simulated.world import Stream
from segue.engine import failpoints, holder, journal, outlook, outside, recovery, runner
from segue.engine.journal import PATIENCE_S, POLL_S
from segue.engine.leader import Leader
from segue.engine.listeners import Listener
from segue.engine.runner import Event, Told
from segue.errors import HostUnreachable, LeaseHeld, LeaseLost, RefusedError, SegueError, StoreError, Unsupported
from segue.store import open_store

OTHER = Holder(machine="elsewhere", pid=1, started=1, name="another controller")


class Scene:
    """A world with a guest on alpha, and a migration of it to beta that is written down."""

    def __init__(self, store: Store, *, control: Control = Control.DIRECT, **limits: object) -> None:
        self.store = store
        self.world = World()
        self.guest = self.world.add(SimGuest(name="web", working_set_bytes=8 * units.MIB, write_bps=4 * units.MIB), "alpha")
        self.driver = SimulatedDriver(self.world)
        here, there = (HostAddress(name=host, uri=f"sim://{host}", driver=DriverKind.SIMULATED) for host in ("alpha", "beta"))
        spec = MigrationSpec(
            id=secrets.token_hex(6),
            guest="web",
            source="alpha",
            destination="beta",
            driver=DriverKind.SIMULATED,
            control=control,
            limits=Limits(**limits),  # type: ignore[arg-type]
        )
        self.record = Record(spec=spec, source=here, destination=there, created_at_ms=1)
        self.events: list[Event] = []
        self.pause_s = 0.0
        """After each sample: of simulated time there are ten thousand a second, and who writes them lets nobody else write."""
        store.create(self.record)

    @property
    def written(self) -> Record:
        return self.store.load(self.record.id)

    def leader(self) -> Leader:
        return Leader(self.store, self.written, driver=lambda _: self.driver, report=self._report)

    def _report(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Progress):
            time.sleep(self.pause_s)

    async def run(self, leader: Leader | None = None) -> Outcome:
        hosts = [await self.driver.connect(one, deadline_s=1) for one in (self.record.source, self.record.destination)]
        return await (leader or self.leader()).run(*hosts)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    found = open_store(str(tmp_path))
    yield found
    found.close()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PROOF_DEADLINE_MS", "LEFTOVERS_DEADLINE_MS", "PROOF_PAUSE_S"):
        monkeypatch.setattr(runner, name, 0)


async def test_each_action_is_on_disk_before_it_is_done_and_how_it_ended_after(store: Store) -> None:
    scene = Scene(store)
    seen: dict[str, Sighting] = {}
    show = World.show

    def shown(world: World, guest: str, host: str, sighting: Sighting) -> None:
        if sighting is Sighting.RUNNING:
            assert scene.written.told_to_run  # read from the disk, by another connection
        seen[host] = sighting
        show(world, guest, host, sighting)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(World, "show", shown)
        patch.setattr(journal, "PATIENCE_S", 60)  # the disk of a busy machine may be slower than the leader's patience
        outcome = await scene.run()
    assert outcome.outcome is OutcomeKind.MOVED
    entries = store.story(scene.record.id).entries
    for action in {entry.action for entry in entries}:
        assert [entry.step for entry in entries if entry.action is action] == [Step.INTENT, Step.DONE]
    assert [entry.action for entry in entries if entry.step is Step.INTENT] == [
        Action.LAUNCH_DESTINATION,
        Action.START,
        Action.TUNE,  # the right downtime limit, once it is known
        Action.RESUME_DESTINATION,
        Action.END_SOURCE,
    ]
    states = [transition.state for transition in store.story(scene.record.id).transitions]
    assert states == [State.PREPARE, State.PERFORM, State.FINISH, State.CONFIRM, State.VERIFY, State.MOVED]
    now = scene.written
    assert (now.outcome, now.settled, now.state, now.led) == (outcome, True, State.MOVED, False)


async def test_of_two_leaders_one_leads_and_the_other_is_told_who(store: Store) -> None:
    scene = Scene(store)
    lease = store.lead(scene.record.id, OTHER, ttl_ms=60_000)
    for attempt in (scene.run, scene.leader().take_up):
        with pytest.raises(LeaseHeld, match="another controller"):
            await attempt()
    assert scene.guest.copies == {"alpha": Sighting.RUNNING}
    store.release(lease)


async def test_what_was_begun_is_never_begun_again(store: Store) -> None:
    scene = Scene(store)
    await scene.run()
    before = dict(scene.guest.copies)
    with pytest.raises(RefusedError, match="has been moved already"):
        await scene.run()
    assert scene.guest.copies == before


@pytest.mark.parametrize("moment", ["start.wanted", "resume-destination.wanted", "end-source.wanted"])
async def test_a_leader_that_wakes_after_a_takeover_acts_no_more(
    store: Store, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(store)
    reached, wake = asyncio.Event(), asyncio.Event()

    async def reach(name: str) -> None:
        if name == moment:
            reached.set()
            await wake.wait()

    monkeypatch.setattr("segue.engine.failpoints.reach", reach)
    sleeper = asyncio.create_task(scene.run())
    await reached.wait()
    store.lead(scene.record.id, OTHER, ttl_ms=60_000, dead=holder.me())
    now_ms = journal.lease_clock_ms
    monkeypatch.setattr(journal, "lease_clock_ms", lambda: now_ms() + 2 * journal.LEASE_MS)  # it stood still for so long
    before = dict(scene.guest.copies)
    wake.set()
    with pytest.raises(LeaseLost):
        await sleeper
    assert scene.guest.copies == before


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Another process holds the database for longer than anybody waits."""
    with contextlib.closing(sqlite3.connect(directory / "segue.db", isolation_level=None, timeout=5)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


async def test_what_is_handed_over_while_the_lease_is_found_to_be_lost_is_told_so_too(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(store)
    writing, lost = threading.Event(), threading.Event()

    def write(*_: object) -> None:
        writing.set()
        assert lost.wait(10)
        raise LeaseLost("another process leads")

    monkeypatch.setattr(store, "write", write)
    lease = store.lead(scene.record.id, OTHER, ttl_ms=60_000)
    written = journal.Journal(store, lease, on_wishes=lambda _: None, told_to_run=False)
    waiting = [asyncio.create_task(_intend(written))]
    assert await asyncio.to_thread(writing.wait, 10)
    waiting.append(asyncio.create_task(_intend(written)))
    await asyncio.sleep(0)  # it is in the queue now, behind what the thread has taken
    lost.set()
    done, pending = await asyncio.wait(waiting, timeout=10)
    assert not pending
    assert all(isinstance(task.exception(), LeaseLost) for task in done)
    await written.aclose()


async def _intend(written: journal.Journal) -> None:
    async with written.acting(Action.CANCEL):
        pytest.fail("acted without a lease")


async def test_a_database_that_stalls_in_mid_flight_delays_one_action_a_little_and_no_decision(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(store)
    lock = contextlib.ExitStack()
    began = 0.0

    async def reach(name: str) -> None:
        nonlocal began
        if name == "start.acted":
            lock.enter_context(locked(tmp_path))
            began = time.monotonic()

    monkeypatch.setattr("segue.engine.failpoints.reach", reach)
    monkeypatch.setattr("segue.engine.journal.CLOSE_S", 0.2)
    leader = scene.leader()
    with lock:
        outcome = await scene.run(leader)
        took = time.monotonic() - began
    assert outcome.outcome is OutcomeKind.MOVED  # told, though it could not be written
    assert took < PATIENCE_S + 1.0
    assert "did not answer" in leader.trouble or "locked by another process" in leader.trouble
    assert scene.world.most_copies == 1


async def test_what_cannot_be_written_down_is_not_begun(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(store)
    monkeypatch.setattr(journal, "FIRST_S", 0.5)
    monkeypatch.setattr(journal, "POLL_S", 0.01)
    monkeypatch.setattr(journal, "CLOSE_S", 0.2)

    def full(*_: object) -> None:
        raise StoreError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(store, "write", full)
        outcome = await scene.run()
    assert (outcome.outcome, outcome.owner, outcome.phase) == (OutcomeKind.FAILED, "alpha", State.PREPARE)
    assert "nothing was begun. The disk is full." in outcome.error
    assert scene.guest.copies == {"alpha": Sighting.RUNNING}
    assert scene.written.state is State.BEGIN
    assert (await scene.leader().take_up()).outcome is OutcomeKind.CANCELLED  # when there is room again


async def test_what_is_written_of_a_beginning_is_proven_on_both_hosts_and_not_believed(store: Store) -> None:
    scene = Scene(store)
    await scene.run()
    late = replace(scene.record, spec=replace(scene.record.spec, id=secrets.token_hex(6)))  # nothing of it was written
    store.create(late)
    store.release(store.lead(late.spec.id, OTHER, ttl_ms=-1))
    leader = Leader(store, store.load(late.spec.id), driver=lambda _: scene.driver, report=scene.events.append)
    outcome = await leader.take_up()
    assert (outcome.outcome, outcome.owner) == (OutcomeKind.MOVED, "beta")
    assert scene.guest.copies == {"beta": Sighting.RUNNING}


async def test_a_wish_is_granted_on_the_way_and_read_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(store, bandwidth_bps=units.MIB)  # 256 s of simulated time
    monkeypatch.setattr("segue.engine.journal.POLL_S", 0.05)
    leading = asyncio.create_task(scene.run())
    while not outside.is_led(scene.written):  # noqa: ASYNC110  # gives way
        await asyncio.sleep(0)
    monkeypatch.setattr(outside, "is_led", lambda _: True)
    settings = await outside.tune(store, scene.record.id, Wishes(bandwidth_bps=3 * units.GIB, max_downtime_ms=77))
    assert (settings.bandwidth_bps, settings.max_downtime_ms, settings.revision) == (3 * units.GIB, 77, 1)
    assert (await leading).outcome is OutcomeKind.MOVED


@pytest.mark.parametrize("wishes", [Wishes(postcopy_now=True), Wishes(within_ms=5_000, on_miss=OnMiss.POSTCOPY)])
async def test_post_copy_is_not_promised_where_it_was_not_allowed_from_the_beginning(
    store: Store, monkeypatch: pytest.MonkeyPatch, wishes: Wishes
) -> None:
    scene = Scene(store)
    monkeypatch.setattr(outside, "is_led", lambda _: True)
    with pytest.raises(RefusedError, match="Post-copy was not allowed when migration"):
        await outside.tune(store, scene.record.id, wishes)
    assert scene.written.wishes == Wishes()


async def test_what_to_do_on_a_miss_is_what_was_asked_for_last(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The forecast had said that it cannot converge, and so it was to be given up."""
    scene = Scene(store, auto_converge=False)
    scene.guest.working_set_bytes, scene.guest.write_bps = 200 * units.MIB, 150 * units.MIB
    tell = runner.Runner._tell

    def told(leads: runner.Runner, text: str) -> None:
        tell(leads, text)
        if "does not converge" in text:
            leads.wish(Wishes(on_miss=OnMiss.SUSPEND, revision=1))

    monkeypatch.setattr(runner.Runner, "_tell", told)
    outcome = await scene.run()
    assert (outcome.outcome, outcome.owner) == (OutcomeKind.MOVED, "beta")
    assert "suspend" in {one.partition(":")[0] for one in outcome.decisions}


async def test_who_is_given_more_time_is_steered_on_as_before(store: Store) -> None:
    scene = Scene(store, postcopy=True, bandwidth_bps=2 * units.MIB, within_ms=1, on_miss=OnMiss.EXTEND)
    outcome = await scene.run()
    assert outcome.outcome is OutcomeKind.MOVED
    assert [one.partition(":")[0] for one in outcome.decisions] == ["extend", "start-post-copy"]


async def test_a_cancel_from_outside_turns_back_and_twice_is_as_good_as_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(store, bandwidth_bps=1024, on_miss=OnMiss.EXTEND)  # it would take for ever
    scene.pause_s = 0.002
    monkeypatch.setattr("segue.engine.journal.POLL_S", 0.05)
    leading = asyncio.create_task(scene.run())
    while scene.written.state is not State.PERFORM:  # noqa: ASYNC110  # gives way
        await asyncio.sleep(0)
    for _ in range(2):
        with contextlib.suppress(RefusedError):  # the second may come too late
            await outside.cancel(store, scene.record.id)
    assert (await leading).outcome is OutcomeKind.CANCELLED
    assert scene.guest.copies == {"alpha": Sighting.RUNNING}
    with pytest.raises(RefusedError, match="has ended"):
        await outside.cancel(store, scene.record.id)


async def test_what_nobody_leads_is_said_to_be_and_recovered(store: Store) -> None:
    scene = Scene(store)
    scene.world.show("web", "beta", Sighting.INCOMING)
    lease = store.lead(scene.record.id, OTHER, ttl_ms=-1)
    store.write(lease, [entered(State.PREPARE)])
    with pytest.raises(RefusedError, match="nobody leads it"):
        await outside.cancel(store, scene.record.id)
    with pytest.raises(RefusedError, match="nobody leads it"):
        [seen async for seen in outside.watch(store, scene.record.id)]
    looked = await recovery.look(scene.written, lambda _: scene.driver)
    assert (looked.verdict.owner, looked.verdict.remedy) == ("source", "roll back")
    assert scene.guest.copies["beta"] is Sighting.INCOMING  # a look does nothing
    outcome = await recovery.recover(store, scene.written, lambda _: scene.driver, report=scene.events.append)
    assert (outcome.outcome, outcome.owner) == (OutcomeKind.FAILED, "alpha")
    assert scene.guest.copies == {"alpha": Sighting.RUNNING}
    assert any(isinstance(event, Told) for event in scene.events)
    again = await recovery.recover(store, scene.written, lambda _: scene.driver, report=scene.events.append)
    assert again == outcome


async def test_what_its_driver_cannot_do_is_an_end_and_leaves_nothing_to_recover(store: Store) -> None:
    scene = Scene(store, control=Control.P2P)
    with pytest.raises(Unsupported):
        await scene.run()
    now = scene.written
    assert now.outcome is not None
    assert (now.state, now.outcome.outcome, now.settled, now.led) == (State.REFUSED, OutcomeKind.REFUSED, True, False)


async def test_a_cancel_before_the_leader_leads_is_not_lost(store: Store) -> None:
    scene = Scene(store)
    leader = scene.leader()
    assert leader.cancel()
    assert (await scene.run(leader)).outcome is OutcomeKind.CANCELLED
    assert scene.guest.copies == {"alpha": Sighting.RUNNING}


async def test_a_cancel_while_nobody_has_begun_it_ends_it_and_nobody_begins_it_then(store: Store) -> None:
    scene = Scene(store)
    await outside.cancel(store, scene.record.id)
    now = scene.written
    assert now.outcome is not None
    assert (now.state, now.outcome.outcome, now.settled, now.led) == (State.CANCELLED, OutcomeKind.CANCELLED, True, False)
    with pytest.raises(RefusedError, match="has ended: cancelled"):
        await outside.cancel(store, scene.record.id)
    with pytest.raises(RefusedError, match="has been cancelled already"):
        await scene.run()  # whoever was about to begin it
    assert scene.guest.copies == {"alpha": Sighting.RUNNING}
    assert list(store.story(scene.record.id).entries) == []


@pytest.mark.parametrize("state", [state for state in PHASES if state is not State.BEGIN])
async def test_a_cancel_from_outside_in_each_phase_turns_back_or_is_refused(store: Store, state: State) -> None:
    slow = 512 * units.KIB if state is State.POSTCOPY else None
    scene = Scene(store, postcopy=True, bandwidth_bps=slow)
    refused: list[str] = []

    async def reach(name: str) -> None:
        if name == "perform.entered" and state is State.POSTCOPY:
            store.wish(scene.record.id, Wishes(postcopy_now=True))
            await asyncio.sleep(3 * POLL_S)
        if name == f"{state}.entered":
            await until_written(scene, state)
            for _ in range(2):  # twice is as good as once
                try:
                    await outside.cancel(store, scene.record.id)
                except RefusedError as error:
                    refused.append(error.message)
            await asyncio.sleep(3 * POLL_S)  # the leader has read it by then

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(failpoints, "reach", reach)
        outcome = await scene.run()
    if state.may_cancel:
        assert (outcome.outcome, refused) == (OutcomeKind.CANCELLED, [])
        assert scene.guest.copies == {"alpha": Sighting.RUNNING}
    else:
        assert outcome.outcome is OutcomeKind.MOVED
        assert ["no way back" in one for one in refused] == [True, True]
        assert scene.guest.copies == {"beta": Sighting.RUNNING}


async def until_written(scene: Scene, state: State) -> None:
    async with asyncio.timeout(5):
        while scene.written.state is not state:  # noqa: ASYNC110  # another thread writes it
            await asyncio.sleep(0.01)


async def test_what_arrived_by_another_way_than_confirm_is_confirmed_too(store: Store) -> None:
    scene = Scene(store)
    scene.world.show("web", "alpha", Sighting.ABSENT)
    scene.world.show("web", "beta", Sighting.RUNNING)
    store.write(store.lead(scene.record.id, OTHER, ttl_ms=-1), [entered(State.FAILING)])
    scene.world.broken.add("confirm")
    outcome = await recovery.recover(store, scene.written, lambda _: scene.driver, report=scene.events.append)
    assert (outcome.outcome, outcome.owner, scene.written.settled) == (OutcomeKind.MOVED, "beta", False)
    assert "may still have a definition" in outcome.error
    scene.world.broken.clear()
    again = await recovery.recover(store, scene.written, lambda _: scene.driver, report=scene.events.append)
    assert (again.outcome, again.error, scene.written.settled) == (OutcomeKind.MOVED, "", True)


async def test_a_person_may_give_up_a_post_copy_that_cannot_be_connected_again(store: Store) -> None:
    scene = Scene(store, postcopy=True, bandwidth_bps=512 * units.KIB)
    halted = asyncio.Event()

    async def reach(name: str) -> None:
        if name == "perform.entered":
            store.wish(scene.record.id, Wishes(postcopy_now=True))
            await asyncio.sleep(3 * POLL_S)
        if name == "postcopy.entered" and not halted.is_set():
            scene.world.cut = True
            halted.set()
            await asyncio.Event().wait()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(failpoints, "reach", reach)
        leading = asyncio.create_task(scene.run())
        async with asyncio.timeout(10):
            await halted.wait()
            await until_written(scene, State.POSTCOPY)
        leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)
        assert scene.guest.job
        scene.guest.job.status = JobStatus.POSTCOPY_PAUSED
        scene.world.show("web", "alpha", Sighting.POSTCOPY_PAUSED)
        async with asyncio.timeout(10):
            outcome = await scene.leader().take_up(discard=True)
    assert (outcome.outcome, outcome.owner) == (OutcomeKind.FAILED, "")
    assert scene.guest.copies == {}


async def test_what_the_hypervisors_still_work_on_is_ended_before_it_is_said_to_have_failed(store: Store) -> None:
    scene = Scene(store)
    store.write(store.lead(scene.record.id, OTHER, ttl_ms=-1), [entered(State.VERIFY)])
    scene.guest.job = Stream(
        world=scene.world,
        guest=scene.guest,
        max_downtime_ms=300,
        bandwidth_bps=None,
        left_bytes=scene.guest.memory_bytes,
        began_ms=scene.world.now_ms,
    )
    outcome = await scene.leader().take_up()
    assert (outcome.outcome, outcome.owner, scene.written.settled) == (OutcomeKind.FAILED, "alpha", True)
    assert scene.guest.job.status is JobStatus.CANCELLED


async def test_a_post_copy_of_which_one_half_is_gone_says_which_and_what_may_be_why(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(store, postcopy=True, bandwidth_bps=512 * units.KIB)

    async def reach(name: str) -> None:
        if name == "perform.entered":
            store.wish(scene.record.id, Wishes(postcopy_now=True))
            await asyncio.sleep(3 * POLL_S)
        if name == "postcopy.entered":
            while scene.guest.copies.get("beta") is not Sighting.POSTCOPY:  # noqa: ASYNC110  # of a task of the engine
                await asyncio.sleep(0)
            assert scene.guest.job
            scene.world.cut, scene.guest.job.status = True, JobStatus.POSTCOPY_PAUSED
            scene.world.show("web", "alpha", Sighting.POSTCOPY_PAUSED)
            scene.world.show("web", "beta", Sighting.CRASHED)

    monkeypatch.setattr(failpoints, "reach", reach)
    async with asyncio.timeout(20):
        outcome = await scene.run()
    assert (outcome.outcome, outcome.owner, outcome.cause) == (OutcomeKind.FAILED, "", "postcopy-lost")
    assert "beta has nothing of web any more" in outcome.error
    assert "When nothing is left of it, it can be started" in outcome.error
    assert "--discard" in outcome.hint


async def test_who_comes_second_to_recover_finds_it_done(store: Store) -> None:
    scene = Scene(store)
    store.write(store.lead(scene.record.id, OTHER, ttl_ms=-1), [entered(State.PERFORM)])
    late = scene.leader()  # with what it read before the other one was done
    outcome = await scene.leader().take_up()
    assert await late.take_up() == outcome


async def test_what_lay_between_two_leaders_is_time_that_it_took_and_nobodys_work(store: Store) -> None:
    scene = Scene(store)  # as if asked for in 1970
    sending = Sample(at_ms=1, progress=Progress(elapsed_ms=1, status=JobStatus.ACTIVE))
    store.write(store.lead(scene.record.id, OTHER, ttl_ms=-1), [entered(State.CONFIRM), sending])
    scene.world.show("web", "alpha", Sighting.ABSENT)
    scene.world.show("web", "beta", Sighting.RUNNING)
    outcome = await scene.leader().take_up()
    assert outcome.outcome is OutcomeKind.MOVED
    assert outcome.total_ms > 50 * 365 * 24 * 3_600_000
    assert outlook.own_of(store, scene.record) is None
    again = Scene(store)
    await again.run()
    own = outlook.own_of(store, again.record)
    assert own is not None
    assert own.high < 60_000


async def test_without_both_hosts_nothing_is_concluded_and_nothing_done(store: Store) -> None:
    scene = Scene(store)
    lease = store.lead(scene.record.id, OTHER, ttl_ms=-1)
    store.write(lease, [entered(State.PERFORM)])
    scene.world.unreachable.add("beta")
    with pytest.raises(HostUnreachable, match="Without both hosts") as silent:
        await recovery.recover(store, scene.written, lambda _: scene.driver, report=scene.events.append)
    assert "alpha shows it running" in silent.value.guest_at
    assert scene.written.state is State.PERFORM


async def test_a_sweep_finds_what_nobody_remembers_and_repairs_what_is_safe(store: Store) -> None:
    scene = Scene(store)
    store.write(store.lead(scene.record.id, OTHER, ttl_ms=-1), [])
    scene.world.add(SimGuest(name="half"), "alpha")
    scene.world.show("half", "beta", Sighting.INCOMING)
    twin = scene.world.add(SimGuest(name="twin"), "alpha")
    twin.copies["beta"] = Sighting.RUNNING
    addresses = [scene.record.source, scene.record.destination]
    swept = await recovery.sweep(store, addresses, lambda _: scene.driver)
    findings = swept.findings
    assert swept.silent == []
    assert [finding.text.split()[0] for finding in findings] == ["web:", "half", "twin"]
    assert [finding.repair is not None for finding in findings] == [True, True, False]
    for finding in findings[:2]:
        await recovery.repair(store, finding, lambda _: scene.driver, report=scene.events.append)
    assert scene.world.guests["half"].copies == {"alpha": Sighting.RUNNING}
    assert set(twin.copies) == {"alpha", "beta"}  # only a person may say which of the two is wanted
    left = await recovery.sweep(store, addresses, lambda _: scene.driver)
    assert [finding.text.split()[0] for finding in left.findings] == ["twin"]


async def test_a_sweep_tells_ports_that_were_left_open_and_not_those_of_a_migration_under_way(store: Store) -> None:
    scene = Scene(store)
    scene.world.add(SimGuest(name="other"), "beta")

    async def listening(_: object) -> tuple[list[Listener], list[tuple[str, SegueError]]]:
        words = [("qemu-system-x86_64", "-name", f"guest={name}") for name in ("web", "other")]
        return [Listener(host="beta", pid=7, port=49152, words=one) for one in words], [
            ("gamma", HostUnreachable("silent", host="gamma"))
        ]

    addresses = [scene.record.source, scene.record.destination]
    swept = await recovery.sweep(store, addresses, lambda _: scene.driver, listening=listening)
    assert [finding.text.partition(" (")[0] for finding in swept.findings if "listens" in finding.text] == ["other on beta"]
    assert [host for host, _ in swept.unseen] == ["gamma"]


def entered(state: State) -> Transition:
    return Transition(at_ms=2, epoch=1, state=state)


def test_this_process_lives_and_another_of_its_number_does_not() -> None:
    from dataclasses import replace

    me = holder.me()
    assert not holder.is_dead(me)
    assert holder.is_dead(replace(me, started=me.started + 1))
    assert not holder.is_dead(replace(me, machine="elsewhere", started=1))  # nobody can see that from here
    assert not holder.end(replace(me, machine="elsewhere"))
    assert holder.end(replace(me, started=me.started + 1))  # gone; this process, which has its number now, is left alone


def test_a_leader_that_stands_still_is_ended() -> None:
    import subprocess
    import sys

    process = subprocess.Popen(
        [sys.executable, "-c", "import os, signal; print(os.getpid(), flush=True); os.kill(os.getpid(), signal.SIGSTOP)"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        assert int(process.stdout.readline()) == process.pid
        started = holder._started(process.pid)
        assert started
        from dataclasses import replace

        assert holder.end(replace(holder.me(), pid=process.pid, started=started))
        assert process.wait(5) == -9
    finally:
        process.kill()
        process.communicate()
