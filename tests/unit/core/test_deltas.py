"""When deltas go over, how much is remembered for them, and whether what they bring is waited for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.core import deltas
from segue.core.forecast import forecast
from segue.core.measured import Path, Range, Seen, Touched, Window
from segue.core.model import DriverKind, JobStatus, Limits, MigrationSpec, Progress
from segue.core.policy import Policy
from segue.core.wishes import LibvirtWishes
from segue.units import GIB, MIB

SPEC = MigrationSpec(id="1", guest="web1", source="alpha", destination="beta", driver=DriverKind.LIBVIRT)


@pytest.mark.parametrize(
    ("change", "possible"),
    [
        ({}, True),
        ({"policy": Policy(name="idle")}, False),
        ({"observe_only": True}, False),
        ({"connections": 2}, False),
        ({"limits": Limits(postcopy=True)}, True),
        ({"limits": Limits(postcopy=True, prefer_postcopy=True)}, False),
        ({"libvirt": LibvirtWishes(compression=("mt",))}, False),
        ({"libvirt": LibvirtWishes(compressed=True)}, False),
        ({"libvirt": LibvirtWishes(offline=True)}, False),
        ({"libvirt": LibvirtWishes(migration_uri="rdma://beta")}, False),
        ({"libvirt": LibvirtWishes(migration_uri="tcp://beta")}, True),
    ],
)
def test_they_go_over_where_nothing_else_was_asked_for(change, possible):
    assert deltas.possible(replace(SPEC, **change)) is possible


@pytest.mark.parametrize(
    ("guest", "spare", "remembered"),
    [
        (224 * MIB, 8 * GIB, 256 * MIB),
        (256 * MIB, 8 * GIB, 256 * MIB),
        (64 * GIB, 8 * GIB, 2 * GIB),
        (64 * GIB, 7 * GIB, GIB),
        (GIB, 32 * MIB, 0),
        (GIB, 0, 0),
        (0, GIB, 256 * MIB),
    ],
)
def test_places_for_all_pages_where_the_source_can_spare_them(guest, spare, remembered):
    assert deltas.remembered_bytes(guest, spare) == remembered


@given(guest=st.integers(1, 1 << 45), spare=st.integers(0, 1 << 45))
def test_what_is_remembered_is_a_power_of_two_and_takes_no_more_than_a_part_of_what_there_is(guest, spare):
    remembered = deltas.remembered_bytes(guest, spare)
    assert remembered & (remembered - 1) == 0
    assert min(guest, remembered) <= spare // deltas.SPARE_SHARE


@pytest.mark.parametrize(
    ("memory", "rate", "limits", "soon"),
    [
        (512 * MIB, 200 * MIB, Limits(), True),
        (900 * MIB, 200 * MIB, Limits(), False),  # nobody waits for 9 s to hear that
        (512 * MIB, 5 * MIB, Limits(within_ms=1000), False),  # it converges, and deltas make no first iteration shorter
    ],
)
def test_they_are_waited_for_where_it_does_not_converge_and_all_memory_is_sent_soon(memory, rate, limits, soon):
    what = Seen(
        touched=Touched(bytes=Range(low=memory, likely=memory, high=memory), how="said"),
        windows=tuple(Window(ms=1000 * n, dirtied_bytes=n * rate) for n in (1, 2)),
        path=Path(bps=Range(low=100 * MIB, likely=100 * MIB, high=100 * MIB), how="said"),
    )
    expected = forecast(what, limits)
    assert expected is not None
    assert deltas.soon(expected) is soon
    assert deltas.come_first(replace(SPEC, deltas=True), expected) is soon
    assert not deltas.come_first(SPEC, expected)


def test_what_gets_over_is_what_goes_over_the_wire_and_what_deltas_save():
    before = Progress(elapsed_ms=1000, status=JobStatus.ACTIVE, saved_bytes=4 * MIB)
    now = Progress(elapsed_ms=1200, status=JobStatus.ACTIVE, saved_bytes=14 * MIB, throughput_bps=3 * MIB)
    assert now.memory_bps == 3 * MIB
    assert now.after(before).memory_bps == 53 * MIB
    assert before.after(now) == before
