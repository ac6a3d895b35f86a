"""What is changed so that a guest can be moved is undone when it is not, also by whoever takes the migration up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from segue import config
from segue.core.evidence import Sighting
from segue.core.mends import Mend, Mended, MendKind, outstanding, written
from segue.core.model import DriverKind, HostAddress, MigrationSpec, OutcomeKind
from segue.core.record import Action, Record, Step
from segue.drivers.simulated import SimGuest, SimulatedDriver, World
from segue.engine.leader import Leader
from segue.engine.migration import Migration, Request
from segue.engine.runner import Event, Told
from segue.errors import RefusedError, UsageError
from segue.store import open_store

DISC = Mend(kind=MendKind.EJECT, target="cd0", words="take /x.iso out of cd0", again="put /x.iso into cd0 again")


class Scene:
    """A migration from alpha to beta that takes a disc out first."""

    def __init__(self, state: Path, *broken: str) -> None:
        self.world = World(broken=set(broken))
        self.world.add(SimGuest(name="web"), "alpha")
        self.driver = SimulatedDriver(self.world)
        self.store = open_store(str(state))
        self.told: list[str] = []
        alpha, beta = (HostAddress(name=host, uri=f"sim://{host}", driver=DriverKind.SIMULATED) for host in ("alpha", "beta"))
        spec = MigrationSpec(
            id="abc", guest="web", source="alpha", destination="beta", driver=DriverKind.SIMULATED, mends=(DISC,)
        )
        self.record = Record(spec=spec, source=alpha, destination=beta, created_at_ms=0)
        self.store.create(self.record)

    def hear(self, event: Event) -> None:
        if isinstance(event, Told):
            self.told.append(event.text)

    @property
    def leader(self) -> Leader:
        return Leader(self.store, self.record, driver=lambda _: self.driver, report=self.hear)

    async def run(self) -> OutcomeKind:
        here, there = [await self.driver.connect(one, deadline_s=1) for one in (self.record.source, self.record.destination)]
        return (await self.leader.run(here, there)).outcome

    def steps(self) -> list[tuple[Action, Step]]:
        wanted = (Action.MEND, Action.UNDO_MEND)
        return [(entry.action, entry.step) for entry in self.store.story("abc").entries if entry.action in wanted]


async def test_after_a_move_it_says_what_was_left_off(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    assert await scene.run() is OutcomeKind.MOVED
    assert scene.world.mended == {"web: cd0"}
    assert any("on beta, put /x.iso into cd0 again" in text for text in scene.told)


async def test_a_migration_that_fails_undoes_it(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "perform")
    assert await scene.run() is OutcomeKind.FAILED
    assert not scene.world.mended
    assert [step for step in scene.steps() if step[1] is Step.DONE] == [
        (Action.MEND, Step.DONE),
        (Action.UNDO_MEND, Step.DONE),
    ]
    assert scene.world.guests["web"].copies == {"alpha": Sighting.RUNNING}


async def test_what_cannot_be_mended_is_refused_and_undone(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "mend")
    with pytest.raises(RefusedError, match="could not be mended"):
        await scene.run()
    assert not scene.world.mended
    assert scene.store.load("abc").settled


def test_what_is_undone_is_no_longer_outstanding() -> None:
    first = Mended(mend=DISC, before="web: cd0")
    second = Mended(mend=replace(DISC, target="cd1"), before="web: cd1")
    both = [written(first), written(second)]
    assert outstanding(both, []) == (second, first)
    assert outstanding(both, [written(second)]) == (first,)
    assert outstanding(both, both) == ()


@pytest.mark.parametrize("code", ["nonsense", "destination-taken"])
async def test_a_finding_that_is_unknown_or_protects_the_guest_cannot_be_accepted(code: str, tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    hosts = {one.name: (one,) for one in (scene.record.source, scene.record.destination)}
    settings = config.Settings(path=None, hosts=hosts)
    request = Request(guest="web", destination="beta", accept=(code,))
    with pytest.raises(UsageError, match=code):
        await Migration(request, settings, driver=lambda _: scene.driver, store=lambda: scene.store).check()
