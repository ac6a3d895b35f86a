"""A migration as a caller holds it, over the simulated world: every end is proven, told, and leaves one copy."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segue import config, units
from segue.cli import render
from segue.core.evidence import Sighting
from segue.core.model import DriverKind, HostAddress, JobStatus, Limits, OutcomeKind, Progress
from segue.core.phases import State
from segue.core.policy import Decision, Policy, Rung
from segue.drivers.simulated import SimGuest, SimulatedDriver, World
from segue.drivers.simulated.driver import SimulatedAttempt, SimulatedHypervisor
from segue.engine import runner, telling
from segue.engine.migration import Migration, Request
from segue.engine.runner import Event, Steered, Told
from segue.errors import (
    DestinationTaken,
    GuestAmbiguous,
    GuestBusy,
    GuestNotFound,
    GuestNotRunning,
    HostUnreachable,
    HypervisorError,
    MigrationCancelled,
    MigrationFailed,
    OutcomeAmbiguous,
    RefusedError,
    SameHost,
    SegueError,
    Unsupported,
    UsageError,
)
from segue.store import open_store

IDLE = SimGuest(name="web")
FLAT_OUT = SimGuest(name="web", working_set_bytes=200 * units.MIB, write_bps=150 * units.MIB)


class Rehearsal:
    """A world of three hosts with one guest `web` on alpha, and migrations in it."""

    state = ""
    """The directory in which migrations are written down."""

    def __init__(self, guest: SimGuest = IDLE) -> None:
        self.world = World(hosts=("alpha", "beta", "gamma"))
        self.guest = self.world.add(replace(guest, copies={}), "alpha")
        self.driver = SimulatedDriver(self.world)
        self.settings = config.Settings(
            path=None,
            hosts={
                host: (HostAddress(name=host, uri=f"sim://{host}", driver=DriverKind.SIMULATED),) for host in self.world.hosts
            },
        )

    def migration(
        self,
        guest: str = "web",
        destination: str = "beta",
        source: str = "",
        limits: Limits | None = None,
        policy: str = "",
        *,
        observe_only: bool = False,
    ) -> Migration:
        request = Request(
            guest=guest,
            destination=destination,
            source=source,
            limits=limits or Limits(),
            policy=policy,
            observe_only=observe_only,
        )
        return Migration(request, self.settings, driver=lambda _: self.driver, store=lambda: open_store(self.state))

    @property
    def shown(self) -> dict[str, Sighting]:
        return self.guest.copies


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Evidence of the simulated world does not change by waiting: do not wait for it."""
    monkeypatch.setattr(Rehearsal, "state", str(tmp_path))
    monkeypatch.setattr(runner, "PROOF_DEADLINE_MS", 0)
    monkeypatch.setattr(runner, "LEFTOVERS_DEADLINE_MS", 0)
    monkeypatch.setattr(runner, "PROOF_PAUSE_S", 0)


async def follow(migration: Migration, react: Callable[[Event], None] = lambda _: None) -> list[Event]:
    events: list[Event] = []
    async with asyncio.timeout(10):
        async for event in migration:
            events.append(event)
            react(event)
    return events


async def test_awaiting_it_moves_the_guest() -> None:
    rehearsal = Rehearsal()
    outcome = await rehearsal.migration()
    assert (outcome.outcome, outcome.owner, outcome.error) == (OutcomeKind.MOVED, "beta", "")
    assert rehearsal.shown == {"beta": Sighting.RUNNING}
    assert rehearsal.world.most_copies == 1


async def test_iterating_it_tells_the_phases_in_order() -> None:
    events = await follow(Rehearsal().migration())
    states = [event for event in events if isinstance(event, State)]
    assert states == [State.PREPARE, State.PERFORM, State.FINISH, State.CONFIRM, State.VERIFY, State.MOVED]
    assert [event for event in events if isinstance(event, Progress)][-1].status is JobStatus.COMPLETED


async def test_a_guest_that_outruns_the_link_goes_over_to_post_copy_when_allowed() -> None:
    rehearsal = Rehearsal(FLAT_OUT)
    events = await follow(rehearsal.migration(limits=Limits(postcopy=True)))
    assert len([event for event in events if isinstance(event, Steered)]) == 1
    assert State.POSTCOPY in events
    assert rehearsal.shown == {"beta": Sighting.RUNNING}


async def test_a_guest_that_outruns_the_link_is_given_up_at_the_deadline() -> None:
    rehearsal = Rehearsal(FLAT_OUT)
    rehearsal.settings = replace(rehearsal.settings, policies={"idle": Policy(name="idle")})
    with pytest.raises(MigrationFailed, match="not done within 30") as caught:
        await rehearsal.migration(limits=Limits(within_ms=30_000), policy="idle")
    assert caught.value.exit_code == 1
    assert rehearsal.shown == {"alpha": Sighting.RUNNING}


async def test_a_promise_that_nothing_allowed_can_keep_is_declined_while_the_guest_is_hardly_on_its_way() -> None:
    rehearsal = Rehearsal(replace(FLAT_OUT, write_bps=400 * units.MIB, memory_bytes=2 * units.GIB))
    migration = rehearsal.migration(limits=Limits(auto_converge=False))
    with pytest.raises(MigrationFailed, match=r"pre-copy does not converge: it needs .* what would move it: --max-downtime"):
        await migration
    assert rehearsal.world.now_ms < 2_000
    assert rehearsal.shown == {"alpha": Sighting.RUNNING}


@pytest.mark.parametrize(("mib", "covers", "moves"), [(150, 8, True), (400, 8, False), (150, 1, False)])
async def test_a_guest_that_changes_little_of_each_page_moves_where_no_other_would(mib, covers, moves) -> None:
    rehearsal = Rehearsal(replace(FLAT_OUT, write_bps=mib * units.MIB, deltas_cover=covers))
    migration = rehearsal.migration(limits=Limits(auto_converge=False))
    with contextlib.nullcontext() if moves else pytest.raises(MigrationFailed, match="pre-copy does not converge"):
        outcome = await migration
        assert not any(decision.startswith("give-up") for decision in outcome.decisions)
    assert rehearsal.world.now_ms < 10_000
    assert rehearsal.shown == {"beta" if moves else "alpha": Sighting.RUNNING}


@pytest.mark.parametrize(("mib", "covers", "over"), [(150, 8, False), (400, 8, True), (150, 1, True)])
async def test_where_post_copy_is_allowed_it_is_for_a_guest_that_deltas_do_not_help(mib, covers, over) -> None:
    rehearsal = Rehearsal(replace(FLAT_OUT, write_bps=mib * units.MIB, deltas_cover=covers))
    events = await follow(rehearsal.migration(limits=Limits(postcopy=True)))
    assert (State.POSTCOPY in events) is over
    assert rehearsal.shown == {"beta": Sighting.RUNNING}


@pytest.mark.parametrize(
    ("limits", "share"), [(Limits(postcopy=True), 0.9), (Limits(postcopy=True, bandwidth_bps=50_000_000), 1)]
)
async def test_post_copy_leaves_room_for_what_the_guest_waits_for_where_nobody_set_a_limit(limits, share) -> None:
    rehearsal = Rehearsal(FLAT_OUT)
    await rehearsal.migration(limits=limits)
    assert rehearsal.guest.job is not None
    assert rehearsal.guest.job.rate_bps == share * rehearsal.world.link_bps


async def test_what_deltas_saved_before_is_not_counted_when_the_same_guest_is_to_be_moved_again() -> None:
    """QEMU counts on. Taken for deltas of now, that hid what the path carries from the next migration: no forecast."""
    rehearsal = Rehearsal(replace(FLAT_OUT, write_bps=400 * units.MIB, deltas_cover=8))
    for _ in range(2):
        migration = rehearsal.migration(limits=Limits(auto_converge=False))
        events: list[Event] = []
        with pytest.raises(MigrationFailed, match="pre-copy does not converge"):
            await follow(migration, events.append)
        looks = [event for event in events if isinstance(event, Progress)]
        assert not any(look.saved_bytes for look in looks if look.iteration < 3)
        assert any(look.saved_bytes for look in looks)


async def test_only_observing_tells_what_would_be_done_and_does_none_of_it() -> None:
    rehearsal = Rehearsal(FLAT_OUT)
    migration = rehearsal.migration(limits=Limits(postcopy=True), observe_only=True)

    def react(event: Event) -> None:
        if isinstance(event, Steered):
            migration.cancel()

    with pytest.raises(MigrationCancelled):
        await follow(migration, react)
    assert migration.outcome is not None
    assert "start-post-copy: would (only observing)" in migration.outcome.decisions[0]
    assert rehearsal.shown == {"alpha": Sighting.RUNNING}


async def test_only_observing_tells_once_that_it_would_give_up_and_the_migration_goes_on() -> None:
    rehearsal = Rehearsal(replace(IDLE, memory_bytes=2 * units.GIB))
    migration = rehearsal.migration(limits=Limits(within_ms=1_000), observe_only=True)
    await follow(migration)
    assert migration.outcome is not None
    assert migration.outcome.outcome is OutcomeKind.MOVED
    assert [decision.partition(":")[0] for decision in migration.outcome.decisions] == ["give-up"]


async def test_a_guest_that_only_throttling_lets_converge_is_slowed_by_as_much_as_it_takes() -> None:
    rehearsal = Rehearsal(FLAT_OUT)
    outcome = await rehearsal.migration(limits=Limits(max_slowdown_percent=60))
    assert {decision.partition(":")[0] for decision in outcome.decisions} == {"throttle"}
    assert rehearsal.shown == {"beta": Sighting.RUNNING}


async def test_that_clients_wait_for_a_guest_that_hardly_runs_is_told_once_for_each_step() -> None:
    steps = ((0, 60), (200, 90), (400, 99))
    rungs = tuple(Rung(do=Decision.THROTTLE, after_ms=ms, throttle_percent=percent) for ms, percent in steps)
    rehearsal = Rehearsal(FLAT_OUT)
    rehearsal.settings = replace(rehearsal.settings, policies={"harsh": Policy(name="harsh", rungs=rungs)})
    events = await follow(rehearsal.migration(policy="harsh"))
    told = [event.text for event in events if isinstance(event, Told) and "slowed" in event.text]
    assert [text.partition(":")[0] for text in told] == [f"the guest is slowed by {percent} %" for percent in (90, 99)]
    assert "1.98 s" in told[-1]


async def test_what_is_forecast_is_told_before_it_comes_so() -> None:
    rehearsal = Rehearsal(replace(IDLE, memory_bytes=2 * units.GIB))
    events = await follow(rehearsal.migration())
    told = [event.text for event in events if isinstance(event, Told)]
    assert any(text.startswith("forecast: pre-copy: ") for text in told), told


async def test_a_migration_that_does_not_begin_is_told_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the two hypervisors wait for each other's handshake; that is no silence of a link, and may end."""
    real_tick = SimulatedAttempt._tick

    def tick(attempt: SimulatedAttempt) -> Progress:
        sample = real_tick(attempt)
        if sample.elapsed_ms < 65_000 and not sample.status.is_final:
            attempt._job().left_bytes, attempt._job().sent_bytes = attempt._guest.memory_bytes, 0
            return Progress(elapsed_ms=sample.elapsed_ms, status=JobStatus.SETUP)
        return sample

    monkeypatch.setattr(SimulatedAttempt, "_tick", tick)
    rehearsal = Rehearsal(replace(IDLE, memory_bytes=2 * units.GIB))
    events = await follow(rehearsal.migration())
    waits = [event.text for event in events if isinstance(event, Told) and event.text == telling.DOES_NOT_BEGIN]
    assert len(waits) == 2
    assert rehearsal.shown == {"beta": Sighting.RUNNING}


class Asked(SimulatedHypervisor):
    """A host that takes down what it is asked."""

    def __init__(self, world: World, host: str, questions: Counter[str]) -> None:
        super().__init__(world, host)
        self.questions = questions

    def __getattribute__(self, name: str) -> Any:  # whatever the port has
        if not name.startswith("_") and name not in ("world", "host", "questions"):
            self.questions[f"{name} {self.host}"] += 1
        return super().__getattribute__(name)


class AskedDriver(SimulatedDriver):
    """A driver whose hosts do."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.questions: Counter[str] = Counter()

    async def connect(self, address: HostAddress, *, deadline_s: float) -> Asked:
        host = (await super().connect(address, deadline_s=deadline_s)).host
        self.questions[f"connect {host}"] += 1
        return Asked(self.world, host, self.questions)


class DiesWhenAsked(Asked):
    """A host whose daemon dies as soon as it is asked that."""

    def __getattribute__(self, name: str) -> Any:
        async def dies(*_: object) -> None:
            raise HypervisorError("libvirt on alpha: client socket is closed.", host="alpha")

        return dies if name in super().__getattribute__("questions") else super().__getattribute__(name)


@pytest.mark.parametrize("question", ["guests", "identity"])
async def test_a_daemon_that_dies_while_it_is_looked_at_is_a_host_that_is_not_reached(question: str) -> None:
    rehearsal = Rehearsal()

    class Dies(SimulatedDriver):
        async def connect(self, address: HostAddress, *, deadline_s: float) -> DiesWhenAsked:
            host = (await super().connect(address, deadline_s=deadline_s)).host
            return DiesWhenAsked(self.world, host, Counter([question] if host == "alpha" else []))

    rehearsal.driver = Dies(rehearsal.world)
    migration = rehearsal.migration(source="alpha")
    with pytest.raises(HostUnreachable, match="client socket is closed") as raised:
        await migration
    assert "nothing was touched" in raised.value.guest_at
    assert migration.outcome is not None
    assert migration.outcome.outcome is OutcomeKind.REFUSED


async def test_what_preflight_has_asked_a_migration_does_not_ask_again() -> None:
    rehearsal = Rehearsal()
    driver = rehearsal.driver = AskedDriver(rehearsal.world)
    migration = rehearsal.migration()
    await migration
    once = {
        name: driver.questions[name]
        for host, names in (("alpha", "connect identity standing parts objections"), ("beta", "connect guests identity offer"))
        for name in (f"{word} {host}" for word in names.split())
    }
    assert set(once.values()) == {1}, once
    assert migration.seen is not None
    assert migration.seen.blockers == ()


@pytest.mark.parametrize("state", [State.PREPARE, State.PERFORM])
async def test_cancel_leaves_the_guest_where_it_was(state: State) -> None:
    rehearsal = Rehearsal(FLAT_OUT)
    migration = rehearsal.migration()
    with pytest.raises(MigrationCancelled) as caught:
        await follow(migration, lambda event: assert_true(migration.cancel()) if event is state else None)
    assert caught.value.exit_code == 4
    assert rehearsal.shown == {"alpha": Sighting.RUNNING}
    assert migration.outcome is not None
    assert migration.outcome.outcome is OutcomeKind.CANCELLED


async def test_cancel_before_it_began() -> None:
    rehearsal = Rehearsal()
    migration = rehearsal.migration()
    assert migration.cancel()
    with pytest.raises(MigrationCancelled):
        await migration
    assert rehearsal.shown == {"alpha": Sighting.RUNNING}


@pytest.mark.parametrize("state", [State.POSTCOPY, State.FINISH, State.CONFIRM, State.VERIFY])
async def test_there_is_no_cancel_after_the_point_of_no_return(state: State) -> None:
    rehearsal = Rehearsal(FLAT_OUT)
    migration = rehearsal.migration(limits=Limits(postcopy=True))
    asked: list[bool] = []
    await follow(migration, lambda event: asked.append(migration.cancel()) if event is state else None)
    assert migration.outcome is not None
    assert migration.outcome.outcome is OutcomeKind.MOVED
    assert rehearsal.world.most_copies == 1


@pytest.mark.parametrize("step", ["prepare", "perform", "finish"])
async def test_a_step_that_breaks_before_the_guest_ran_there_leaves_it_on_the_source(step: str) -> None:
    rehearsal = Rehearsal()
    rehearsal.world.broken = {step}
    with pytest.raises(MigrationFailed, match=f"simulated {step} was told to fail"):
        await rehearsal.migration()
    assert rehearsal.shown == {"alpha": Sighting.RUNNING}
    assert rehearsal.world.most_copies == 1


async def test_leftovers_on_the_source_are_told_of_a_guest_that_moved() -> None:
    rehearsal = Rehearsal()
    rehearsal.world.broken = {"confirm"}
    outcome = await rehearsal.migration()
    assert (outcome.outcome, outcome.owner) == (OutcomeKind.MOVED, "beta")
    assert "alpha shows it postmigrate" in outcome.error


async def test_a_guest_that_stands_still_between_two_hosts_is_ambiguous() -> None:
    rehearsal = Rehearsal()
    rehearsal.world.broken = {"finish", "roll_back"}
    with pytest.raises(OutcomeAmbiguous) as caught:
        await rehearsal.migration()
    assert caught.value.exit_code == 5
    assert rehearsal.world.most_copies == 1


async def test_a_guest_that_was_stopped_as_soon_as_it_was_told_to_run_has_not_moved_until_it_runs() -> None:
    rehearsal = Rehearsal()
    rehearsal.world.broken = {"confirm"}

    def stop(event: Event) -> None:
        if event is State.VERIFY:
            rehearsal.world.show("web", "beta", Sighting.PAUSED)

    with pytest.raises(OutcomeAmbiguous, match="'segue recover' ends what the source still holds") as caught:
        await follow(rehearsal.migration(), stop)
    assert caught.value.exit_code == 5
    assert rehearsal.shown == {"alpha": Sighting.POSTMIGRATE, "beta": Sighting.PAUSED}


async def test_a_guest_that_stands_where_it_arrived_is_not_said_to_run() -> None:
    rehearsal = Rehearsal()

    def stop(event: Event) -> None:
        if event is State.VERIFY:
            rehearsal.world.show("web", "beta", Sighting.PAUSED)

    migration = rehearsal.migration()
    await follow(migration, stop)
    assert migration.outcome is not None
    assert "It stands still on beta, and runs nowhere else." in render.summary(migration.outcome)


async def test_a_guest_that_died_after_it_ran_on_the_destination_is_not_raised_from_its_past() -> None:
    rehearsal = Rehearsal()
    rehearsal.world.broken = {"confirm"}

    def die(event: Event) -> None:
        if event is State.VERIFY:
            rehearsal.world.show("web", "beta", Sighting.ABSENT)

    with pytest.raises(OutcomeAmbiguous, match="beta shows it absent"):
        await follow(rehearsal.migration(), die)
    assert rehearsal.shown == {"alpha": Sighting.POSTMIGRATE}


async def test_a_host_that_falls_silent_makes_it_ambiguous_and_nothing_is_touched_then() -> None:
    rehearsal = Rehearsal()
    migration = rehearsal.migration()

    def silence(event: Event) -> None:
        if event is State.FINISH:
            rehearsal.world.unreachable.add("beta")

    with pytest.raises(OutcomeAmbiguous, match="beta shows it unreachable"):
        await follow(migration, silence)
    assert migration.outcome is not None
    assert migration.outcome.owner == ""


def taken(rehearsal: Rehearsal) -> None:
    rehearsal.world.show("web", "beta", Sighting.PAUSED)


def stopped(rehearsal: Rehearsal) -> None:
    rehearsal.world.show("web", "alpha", Sighting.DEFINED)


def silent(rehearsal: Rehearsal) -> None:
    rehearsal.world.unreachable.add("beta")


def arriving(rehearsal: Rehearsal) -> None:
    rehearsal.world.show("web", "alpha", Sighting.INCOMING)


def untouched(_: Rehearsal) -> None:
    pass


@pytest.mark.parametrize(
    ("change", "words", "error"),
    [
        (untouched, {"guest": "nobody"}, GuestNotFound),
        (untouched, {"destination": "nowhere"}, UsageError),
        (untouched, {"source": "nowhere"}, UsageError),
        (untouched, {"destination": "alpha"}, SameHost),
        (untouched, {"destination": "alpha", "source": "alpha"}, SameHost),
        (untouched, {"destination": "qemu+ssh://beta/system"}, Unsupported),
        (taken, {}, GuestAmbiguous),
        (taken, {"source": "alpha"}, DestinationTaken),
        (stopped, {}, GuestNotRunning),
        (arriving, {}, GuestBusy),
        (silent, {}, HostUnreachable),
        (silent, {"guest": "nobody"}, HostUnreachable),
    ],
)
async def test_bad_input_is_refused_with_its_own_error_and_changes_nothing(
    change: Callable[[Rehearsal], None], words: dict[str, str], error: type[SegueError]
) -> None:
    rehearsal = Rehearsal()
    change(rehearsal)
    before = dict(rehearsal.shown)
    migration = rehearsal.migration(**words)  # type: ignore[arg-type]
    with pytest.raises(error) as caught:
        await migration
    assert type(caught.value) is error
    assert rehearsal.shown == before
    assert migration.outcome is not None
    assert migration.outcome.outcome is OutcomeKind.REFUSED
    assert migration.outcome.error == str(caught.value)


async def test_no_hosts_at_all() -> None:
    rehearsal = Rehearsal()
    rehearsal.settings = replace(rehearsal.settings, hosts={"beta": rehearsal.settings.hosts["beta"]})
    with pytest.raises(GuestNotFound, match="hosts asked: beta"):
        await rehearsal.migration()
    rehearsal.settings = replace(rehearsal.settings, hosts={})
    with pytest.raises(RefusedError, match="No hosts are configured"):
        await rehearsal.migration(destination="qemu:///system")


async def test_the_spec_is_an_attempt_used_once() -> None:
    rehearsal = Rehearsal()
    first = await rehearsal.migration()
    second = await rehearsal.migration(destination="gamma")
    assert first.id != second.id
    assert second.owner == "gamma"


def assert_true(value: bool) -> None:
    assert value
