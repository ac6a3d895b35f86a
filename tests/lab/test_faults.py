"""A slice of the fault matrix: the deaths that hurt most, one of each kind for each driver. `./run faults` plays all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from segue.lab import Lab
from tests.faults.cast import Cast
from tests.faults.cells import Cell, Fault, Moment, Path
from tests.faults.play import play

pytestmark = pytest.mark.lab

SLICE = [
    Cell(path=Path.QEMU, fault=Fault.KILL_SEGUE, failpoint="start.acted"),
    Cell(path=Path.QEMU, fault=Fault.KILL_SEGUE, failpoint="resume-destination.intended"),
    Cell(path=Path.QEMU, fault=Fault.KILL_SEGUE, failpoint="end-destination.intended", turning_back=True),
    Cell(path=Path.QEMU, fault=Fault.KILL_SEGUE, moment=Moment.POSTCOPY),
    Cell(path=Path.QEMU, fault=Fault.KILL_SOURCE, moment=Moment.SWITCHOVER),
    Cell(path=Path.QEMU, fault=Fault.KILL_DESTINATION, moment=Moment.POSTCOPY),
    Cell(path=Path.QEMU, fault=Fault.CUT_2, moment=Moment.FINISH),
    Cell(path=Path.QEMU, fault=Fault.STOP_SEGUE, moment=Moment.FINISH),
    Cell(path=Path.QEMU, fault=Fault.FULL_DISK, moment=Moment.PERFORM),
    Cell(path=Path.DIRECT, fault=Fault.KILL_SEGUE, failpoint="confirm.entered"),
    Cell(path=Path.DIRECT, fault=Fault.KILL_SEGUE, failpoint="start-post-copy.acted"),
    Cell(path=Path.DIRECT, fault=Fault.KILL_DESTINATION, moment=Moment.PERFORM),
    Cell(path=Path.DIRECT, fault=Fault.LIBVIRTD_SOURCE, moment=Moment.POSTCOPY),
    Cell(path=Path.DIRECT, fault=Fault.LIBVIRTD_DESTINATION, moment=Moment.PERFORM),
    Cell(path=Path.P2P, fault=Fault.KILL_SEGUE, moment=Moment.PERFORM),
    Cell(path=Path.P2P, fault=Fault.LIBVIRTD_SOURCE, moment=Moment.PERFORM),
]


@pytest.fixture(scope="module")
def cast(lab: Lab) -> Iterator[Cast]:
    found = Cast(lab)
    yield found
    asyncio.run(found.dismiss())


@pytest.mark.timeout(300)
@pytest.mark.parametrize("cell", SLICE, ids=str)
def test_what_died_left_one_copy_and_segue_knows_where(lab: Lab, cast: Cast, cell: Cell) -> None:
    played = asyncio.run(play(lab, cell, cast))
    assert played.wrong == [], (played.said, played.report)
