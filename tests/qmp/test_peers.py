"""A QMP peer that lies, stalls, sends garbage or goes away, at every point: Segue ends in time, in words, and harms nobody.

A whole migration (runner, attempt, sessions) runs between two fake QEMUs on real sockets, one or both of them with faults. Time
skips, so Segue's own deadlines are in force and none of them is waited for.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import itertools
import tempfile
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segue.core.model import DriverKind, HostAddress, Limits, MigrationSpec, Outcome, OutcomeKind
from segue.core.record import Wishes
from segue.drivers.qemu.attempt import QemuAttempt
from segue.drivers.qemu.hypervisor import QemuHypervisor
from segue.engine import runner
from segue.engine.journal import Journal
from segue.engine.leader import monotonic_ms
from segue.engine.runner import Event, Runner
from tests.qmp.test_recorded import recorded
from tests.support import skipping_clock
from tests.support.fake_hosts import FakeShell, two_hosts
from tests.support.fake_qmp import DESTINATION, SOURCE, Faults, Guest
from tests.support.ledger import Unwritten
from tests.support.qmp_faults import CHOOSE, DEEDS, LIES, Fault

BOUND_S: Final = 300.0
"""Longer than all deadlines of one migration in a row, from its first command to the last look for a proof."""
WITHIN_MS: Final = 30_000
POINTS: Final = 40
"""Greetings, answers and events that one side sends in a whole migration, or a few more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One migration.

    Attributes:
        here, there: what is wrong with the source, and with the destination.
        limits: of the migration.
        cancel_at: after so many events somebody asks for it to be cancelled.
        postcopy_at: after so many somebody asks for post-copy.
    """

    here: tuple[Fault, ...] = ()
    there: tuple[Fault, ...] = ()
    limits: Limits = field(default_factory=lambda: Limits(within_ms=WITHIN_MS))
    cancel_at: int | None = None
    postcopy_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """What came of it: Segue's word, and the truth."""

    outcome: Outcome
    guest: Guest
    faults: dict[str, Faults]


def migrate(case: Case) -> End:
    """Run it, and hold it to what no peer may do to Segue."""
    faults = {SOURCE: Faults(planned=case.here), DESTINATION: Faults(planned=case.there)}

    async def whole() -> End:
        guest = Guest(recorded())
        with tempfile.TemporaryDirectory(prefix="sq-") as directory:
            async with two_hosts(guest, Path(directory), faults) as (alpha, beta):
                async with asyncio.timeout(BOUND_S):
                    outcome = await _run(case, alpha, beta)
                check_truth(case, outcome, guest)
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, left
        return End(outcome=outcome, guest=guest, faults=faults)

    end, _, complaints = skipping_clock.run(whole)
    assert complaints == []
    return end


async def _run(case: Case, alpha: FakeShell, beta: FakeShell) -> Outcome:
    """What `Leader` does, without a database."""
    source, destination = (
        QemuHypervisor(HostAddress(name=shell.name, uri="qmp:///", driver=DriverKind.QEMU, migration_address="192.0.2.1"), shell)
        for shell in (alpha, beta)
    )
    spec = MigrationSpec(id="0", guest="web", source="alpha", destination="beta", driver=DriverKind.QEMU, limits=case.limits)
    journal = Unwritten()
    seen = itertools.count()

    def report(_: Event) -> None:
        number = next(seen)
        if number == case.cancel_at:
            running.cancel()
        if number == case.postcopy_at:
            running.wish(Wishes(postcopy_now=True, revision=1))

    async with aclosing(source), aclosing(destination), aclosing(QemuAttempt(spec, source, destination, journal)) as attempt:
        running = Runner(spec, attempt, source, destination, cast(Journal, journal), now_ms=monotonic_ms, report=report)
        outcome = await running.run()
    check_written(journal)
    return outcome


def check_written(journal: Unwritten) -> None:
    """What goes to a database and to a terminal can be written there."""
    for sample in journal.samples:
        numbers = [value for value in dataclasses.asdict(sample).values() if isinstance(value, int)]
        assert all(0 <= number < 1 << 63 for number in numbers)
        sample.raw_status.encode()


def check_truth(case: Case, outcome: Outcome, guest: Guest) -> None:
    """Segue's word, and the truth."""
    outcome.error.encode()
    assert len(outcome.error) < 4000
    liars = [any(fault.do in LIES for fault in faults) for faults in (case.here, case.there)]
    if all(liars):
        return  # where both lie there is no truth to be had
    assert guest.harm == [], outcome
    assert guest.most_copies <= 1
    there = guest.destination
    assert guest.source.alive or (there is not None and there.alive and there.status == "completed"), (
        f"the guest is lost: {outcome}"
    )
    if any(liars):
        return
    where = {"alpha": [SOURCE], "beta": [DESTINATION], "": []}
    match outcome.outcome:
        case OutcomeKind.MOVED:
            assert guest.runs_on == [DESTINATION], outcome
        case OutcomeKind.FAILED | OutcomeKind.CANCELLED:
            assert guest.runs_on == where[outcome.owner], outcome
        case _:
            assert outcome.outcome is OutcomeKind.AMBIGUOUS


@pytest.fixture(autouse=True)
def fewer_looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As long as ever, but fewer: nothing changes between two looks here. And whatever was left open is found in its own test."""
    monkeypatch.setattr(runner, "PROOF_PAUSE_S", 3.0)
    yield
    gc.collect()


@pytest.mark.parametrize("postcopy", [False, True])
def test_without_faults_it_moves(postcopy: bool) -> None:
    end = migrate(Case(limits=Limits(within_ms=WITHIN_MS, postcopy=postcopy)))
    assert end.outcome.outcome is OutcomeKind.MOVED, end.outcome
    assert not end.guest.source.alive
    assert max(faults.sent for faults in end.faults.values()) <= POINTS, "there are points at which nothing is tried"


def test_asked_to_cancel_at_any_point_it_stays_or_moves_whole() -> None:
    for number in range(2 * POINTS):
        end = migrate(Case(cancel_at=number))
        assert end.outcome.outcome in (OutcomeKind.CANCELLED, OutcomeKind.MOVED), (number, end.outcome)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("do", DEEDS)
def test_one_fault_at_every_possible_point(do: str) -> None:
    for at, side in itertools.product(range(POINTS), (SOURCE, DESTINATION)):
        for which in (at, at * 37 + 11) if do in CHOOSE else (0,):
            migrate(one_sided(side, Fault(at=at, do=do, which=which)))


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("do", sorted(DEEDS.keys() - LIES))
def test_a_peer_that_is_never_right_again(do: str) -> None:
    for at, side in itertools.product(range(0, POINTS, 3), (SOURCE, DESTINATION)):
        migrate(one_sided(side, Fault(at=at, do=do, which=at * 7, again=True)))


def one_sided(side: str, fault: Fault) -> Case:
    return Case(here=(fault,)) if side == SOURCE else Case(there=(fault,))


faults_of_one = st.lists(
    st.builds(
        Fault,
        at=st.integers(0, POINTS),
        do=st.sampled_from(sorted(DEEDS.keys() - LIES)),
        which=st.integers(0, 1000),
        again=st.sampled_from([False, False, False, True]),
    ),
    max_size=3,
).map(tuple)
cases = st.builds(
    Case,
    here=faults_of_one,
    there=faults_of_one,
    limits=st.builds(Limits, within_ms=st.just(WITHIN_MS), postcopy=st.booleans()),
    cancel_at=st.one_of(st.none(), st.integers(0, 30)),
    postcopy_at=st.one_of(st.none(), st.integers(0, 8)),
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(cases)
def test_whatever_both_peers_do_it_ends_in_time_and_harms_nobody(case: Case) -> None:
    migrate(case)
