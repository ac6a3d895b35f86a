"""What the store promises, on both databases."""

from __future__ import annotations

import itertools
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.core.model import (
    Control,
    DriverKind,
    HostAddress,
    JobStatus,
    Limits,
    MigrationSpec,
    Outcome,
    OutcomeKind,
    Progress,
    Transport,
)
from segue.core.phases import State
from segue.core.ports import Store
from segue.core.record import Action, Ended, Entry, Holder, Lease, Note, Record, Sample, Settings, Step, Transition, Wishes
from segue.errors import LeaseHeld, LeaseLost, MigrationNotFound
from segue.store import open_store

ONE = Holder(machine="m", pid=1, started=10, name="one")
TWO = Holder(machine="m", pid=2, started=20, name="two")
TTL_MS = 60_000
_moments = itertools.count(1_700_000_000_000, 1000)


def record(guest: str = "web", source: str = "alpha", destination: str = "beta", **spec: object) -> Record:
    addresses = [HostAddress(name=host, uri=f"sim://{host}", driver=DriverKind.SIMULATED) for host in (source, destination)]
    return Record(
        spec=MigrationSpec(
            **{  # type: ignore[arg-type]
                "id": secrets.token_hex(6),
                "guest": guest,
                "source": source,
                "destination": destination,
                "driver": DriverKind.SIMULATED,
                **spec,
            }
        ),
        source=addresses[0],
        destination=addresses[1],
        created_at_ms=next(_moments),
    )


def outcome(of: Record, kind: OutcomeKind = OutcomeKind.MOVED) -> Outcome:
    return Outcome(
        id=of.id,
        guest=of.spec.guest,
        source=of.spec.source,
        destination=of.spec.destination,
        driver=of.spec.driver,
        control=Control.DIRECT,
        transport=Transport.NATIVE,
        outcome=kind,
        owner=of.spec.destination,
        phase=State.VERIFY,
        total_ms=1234,
        downtime_ms=None,
        bytes_sent=5,
        iterations=3,
        decisions=("start-post-copy: it stalled",),
    )


def begun(store: Store, **words: str) -> tuple[Record, Lease]:
    it = record(**words)
    store.create(it)
    return it, store.lead(it.id, ONE, ttl_ms=TTL_MS)


def entered(state: State, epoch: int = 1) -> Transition:
    return Transition(at_ms=next(_moments), epoch=epoch, state=state)


def entry(action: Action, step: Step = Step.INTENT) -> Entry:
    return Entry(at_ms=next(_moments), epoch=1, action=action, step=step, detail="on alpha, 'quoted' — ünï")


# --- what was asked for


def test_a_migration_is_read_as_it_was_written(store: Store) -> None:
    it = record(limits=Limits(max_downtime_ms=7, bandwidth_bps=1 << 40, postcopy=True, within_ms=9), control=Control.P2P)
    store.create(it)
    assert store.load(it.id) == it


def test_it_is_found_by_the_beginning_of_its_id_where_only_one_begins_so(store: Store) -> None:
    one, two = record(id="aa11%_"), record(id="aa22")
    for it in (one, two):
        store.create(it)
    assert store.load("aa1") == one
    assert store.load("aa22") == two
    for unknown in ("aa", "b", "", "%", "_"):
        with pytest.raises(MigrationNotFound):
            store.load(unknown)


def test_an_id_that_is_the_beginning_of_another_is_still_itself(store: Store) -> None:
    for name in ("abc", "abcd"):
        store.create(record(id=name))
    assert store.load("abc").id == "abc"


def test_the_newest_come_first_and_filters_hold(store: Store) -> None:
    made = [record("web"), record("db", "beta", "gamma"), record("web", "gamma", "alpha")]
    for it in made:
        store.create(it)
    ids = [it.id for it in made]
    assert [it.id for it in store.find()] == ids[::-1]
    assert [it.id for it in store.find(limit=1)] == ids[2:]
    assert [it.id for it in store.find(guest="web")] == [ids[2], ids[0]]
    assert [it.id for it in store.find(host="beta")] == [ids[1], ids[0]]
    assert [it.id for it in store.find(guest="web", host="beta")] == [ids[0]]
    lease = store.lead(ids[0], ONE, ttl_ms=TTL_MS)
    store.write(lease, [Ended(at_ms=1, outcome=outcome(made[0]), settled=True)])
    assert [it.id for it in store.find(unsettled=True)] == [ids[2], ids[1]]


# --- what happened


def test_all_that_was_written_is_told_in_order(store: Store) -> None:
    it, lease = begun(store)
    transitions = [entered(state) for state in (State.PREPARE, State.PERFORM)]
    entries = [entry(Action.START), entry(Action.START, Step.DONE), entry(Action.TUNE, Step.FAILED)]
    note = Note(at_ms=next(_moments), epoch=1, text="alpha shows it running")
    store.write(lease, [transitions[0], *entries, note, transitions[1]])
    story = store.story(it.id)
    assert (list(story.transitions), list(story.entries), list(story.notes)) == (transitions, entries, [note])
    assert store.story(record().id) == type(story)(transitions=(), entries=(), notes=())


def test_the_state_is_the_last_one_entered_and_the_phase_how_far_it_ever_got(store: Store) -> None:
    it, lease = begun(store)
    store.write(lease, [entered(State.PREPARE), entered(State.PERFORM), entered(State.FAILING)])
    now = store.load(it.id)
    assert (now.state, now.phase, now.told_to_run, now.outcome, now.settled) == (State.FAILING, State.PERFORM, False, None, False)


def test_to_look_at_an_end_once_more_is_no_progress(store: Store) -> None:
    it, lease = begun(store)
    store.write(lease, [entered(State.PREPARE), entered(State.FAILING), entered(State.AMBIGUOUS)])
    store.write(lease, [entered(State.VERIFY), entered(State.FAILED)])
    assert store.load(it.id).phase is State.PREPARE


def test_an_intent_to_let_the_destination_run_is_never_forgotten(store: Store) -> None:
    it, lease = begun(store)
    store.write(lease, [entry(Action.RESUME_DESTINATION)])
    store.write(lease, [entry(Action.RESUME_DESTINATION, Step.FAILED), entered(State.VERIFY)])
    assert store.load(it.id).told_to_run


def test_an_end_that_is_looked_at_again_is_no_end(store: Store) -> None:
    it, lease = begun(store)
    end = outcome(it, OutcomeKind.AMBIGUOUS)
    store.write(lease, [entered(State.AMBIGUOUS), Ended(at_ms=1, outcome=end, settled=False)])
    assert (store.load(it.id).outcome, store.load(it.id).settled) == (end, False)
    store.write(lease, [entered(State.VERIFY)])
    assert store.load(it.id).outcome is None
    store.write(lease, [entered(State.MOVED), Ended(at_ms=2, outcome=outcome(it), settled=True)])
    assert (store.load(it.id).outcome, store.load(it.id).settled) == (outcome(it), True)


progresses = st.builds(
    Progress,
    elapsed_ms=st.integers(0, 1 << 40),
    status=st.sampled_from(JobStatus),
    raw_status=st.text(max_size=8).filter(lambda text: "\0" not in text),
    ram_remaining_bytes=st.integers(0, 1 << 50),
    downtime_ms=st.none() | st.integers(0, 1 << 30),
)


def test_samples_come_back_as_they_were_and_from_where_one_asks(store: Store) -> None:
    it, lease = begun(store)

    @settings(max_examples=20)
    @given(st.lists(progresses, max_size=4))
    def check(looks: list[Progress]) -> None:
        last = max((sample.at_ms for sample in store.samples(it.id)), default=0)
        written = [Sample(at_ms=last + number, progress=look) for number, look in enumerate(looks, start=1)]
        store.write(lease, written)
        assert list(store.samples(it.id, after_ms=last)) == written

    check()


def test_settings_are_the_last_ones(store: Store) -> None:
    it, lease = begun(store)
    assert store.load(it.id).settings is None
    for settings_ in (Settings(max_downtime_ms=5), Settings(bandwidth_bps=1 << 41, postcopy=True, revision=2, error="no")):
        store.write(lease, [settings_])
        assert store.load(it.id).settings == settings_


def test_a_write_is_all_or_nothing(store: Store) -> None:
    it, lease = begun(store)
    with pytest.raises(TypeError):
        store.write(lease, [entered(State.PERFORM), "nonsense"])  # type: ignore[list-item]
    assert store.load(it.id).state is State.BEGIN
    assert store.story(it.id).transitions == ()


# --- who leads


def test_who_leads_is_told_and_others_are_refused(store: Store) -> None:
    it, lease = begun(store)
    now = store.load(it.id)
    assert (now.lease, now.led, lease.epoch) == (lease, True, 1)
    with pytest.raises(LeaseHeld, match="one") as refused:
        store.lead(it.id, TWO, ttl_ms=TTL_MS)
    assert refused.value.holder == "one"
    assert store.load(it.id).lease == lease


@pytest.mark.parametrize("how", ["expired", "released", "dead", "own"])
def test_a_lease_that_is_free_is_taken_with_a_higher_epoch_and_the_old_leader_writes_no_more(store: Store, how: str) -> None:
    it, first = begun(store)
    match how:
        case "expired":
            store.renew(first, ttl_ms=-1)
        case "released":
            store.release(first)
    second = store.lead(it.id, ONE if how == "own" else TWO, ttl_ms=TTL_MS, dead=ONE if how == "dead" else None)
    assert second.epoch == first.epoch + 1
    for act in (lambda: store.write(first, [entered(State.FINISH)]), lambda: store.renew(first, ttl_ms=TTL_MS)):
        with pytest.raises(LeaseLost):
            act()
    store.release(first)  # says nothing, does nothing
    now = store.load(it.id)
    assert (now.state, now.lease, now.led) == (State.BEGIN, second, True)
    store.write(second, [entered(State.PREPARE, epoch=2)])


def test_a_lease_that_only_expired_still_writes_while_nobody_took_it(store: Store) -> None:
    it, lease = begun(store)
    store.renew(lease, ttl_ms=-1)
    assert not store.load(it.id).led
    store.write(lease, [entered(State.PREPARE)])
    assert store.renew(lease, ttl_ms=TTL_MS).until_ms > lease.until_ms - TTL_MS
    assert store.load(it.id).led


def test_someone_else_seen_dead_does_not_open_a_living_ones_lease(store: Store) -> None:
    it, _ = begun(store)
    with pytest.raises(LeaseHeld):
        store.lead(it.id, TWO, ttl_ms=TTL_MS, dead=replace(ONE, started=11))


def test_nobody_leads_what_is_not_there(store: Store) -> None:
    with pytest.raises(MigrationNotFound):
        store.lead("nothing", ONE, ttl_ms=TTL_MS)


_RACER = """
import sys
from segue.core.record import Holder
from segue.errors import LeaseHeld
from segue.store import open_store
store = open_store(sys.argv[1])
me = Holder(machine="m", pid=int(sys.argv[2]), started=1)
print("ready", flush=True)
for line in sys.stdin:
    try:
        store.lead(line.strip(), me, ttl_ms=60000)
        print("leads", flush=True)
    except LeaseHeld:
        print("held", flush=True)
store.close()
"""


def test_of_processes_that_race_for_one_lease_exactly_one_gets_it(store: Store, place: str) -> None:
    pipe = subprocess.PIPE
    racers = [
        subprocess.Popen([sys.executable, "-c", _RACER, place, str(number)], stdin=pipe, stdout=pipe, text=True)
        for number in range(3)
    ]
    try:
        for racer in racers:
            assert racer.stdout
            assert racer.stdout.readline() == "ready\n"
        for _ in range(20):
            it = record()
            store.create(it)
            for racer in racers:
                assert racer.stdin
                racer.stdin.write(f"{it.id}\n")
                racer.stdin.flush()
            said = sorted(racer.stdout.readline().strip() for racer in racers if racer.stdout)
            assert said == ["held", "held", "leads"]
    finally:
        for racer in racers:
            racer.communicate(timeout=20)
    assert [racer.returncode for racer in racers] == [0, 0, 0]


# --- what others want


def test_wishes_add_up_and_are_counted(reach: Callable[[], Store]) -> None:
    leader, other = reach(), reach()
    it, _ = begun(leader)
    assert leader.wishes(it.id) == Wishes()
    assert other.wish(it.id, Wishes(bandwidth_bps=5)) == 1
    assert other.wish(it.id, Wishes(max_downtime_ms=7)) == 2
    assert other.wish(it.id, Wishes(cancel=True, postcopy_now=True)) == 3
    wanted = Wishes(cancel=True, bandwidth_bps=5, max_downtime_ms=7, postcopy_now=True, revision=3)
    assert leader.wishes(it.id) == leader.load(it.id).wishes == wanted
    with pytest.raises(MigrationNotFound):
        other.wish("nothing", Wishes(cancel=True))


# --- the database itself


def test_what_was_written_is_there_for_the_next_process(place: str) -> None:
    first = open_store(place)
    it, lease = begun(first)
    first.write(lease, [entered(State.PREPARE)])
    first.close()
    first.close()
    second = open_store(place)
    assert second.load(it.id).state is State.PREPARE
    second.close()


def test_an_intent_is_on_disk_soon_enough(store: Store) -> None:
    """Each action of a migration waits for one write; a guest stands still during two of them."""
    _, lease = begun(store)
    took = []
    for _ in range(30):
        began = time.perf_counter()
        store.write(lease, [entry(Action.START)])
        took.append(time.perf_counter() - began)
    assert sorted(took)[15] < 0.1
