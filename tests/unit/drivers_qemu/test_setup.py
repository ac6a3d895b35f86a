"""What both QEMUs are told: the capabilities that both know, and none that only one does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.core.capabilities import NEEDED
from segue.core.model import DriverKind, Limits, MigrationSpec
from segue.core.wishes import LibvirtWishes
from segue.drivers.qemu import setup
from segue.errors import Unsupported

ALWAYS = {"events", "return-path", "late-block-activate"}
OLD = dict.fromkeys([*NEEDED, "postcopy-preempt", "xbzrle"], False)
NEW = {**OLD, "switchover-ack": False}


def spec(
    *, postcopy: bool = False, auto_converge: bool = False, connections: int = 1, wishes: LibvirtWishes | None = None
) -> MigrationSpec:
    return MigrationSpec(
        id="1",
        guest="g",
        source="alpha",
        destination="beta",
        driver=DriverKind.QEMU,
        connections=connections,
        limits=Limits(postcopy=postcopy, auto_converge=auto_converge),
        libvirt=wishes or LibvirtWishes(),
    )


def test_needed_and_nothing_else_between_old_ones():
    assert setup.negotiate(OLD, OLD, spec()) == ALWAYS
    assert setup.negotiate(OLD, NEW, spec(postcopy=True)) == {*ALWAYS, "postcopy-ram"}
    assert setup.negotiate(OLD, OLD, spec(connections=2, auto_converge=True)) == {*ALWAYS, "multifd", "auto-converge"}


def test_helpful_ones_only_where_both_are_new_enough():
    assert setup.negotiate(NEW, NEW, spec(postcopy=True)) == {*ALWAYS, "postcopy-ram", "switchover-ack", "postcopy-preempt"}
    assert setup.negotiate(NEW, NEW, spec()) == {*ALWAYS, "switchover-ack"}


def test_empty_pages_are_looked_for_by_many_where_many_send_and_both_know_how():
    old, new = {"multifd-channels": 2}, {"multifd-channels": 2, "zero-page-detection": "legacy"}
    assert setup.agreed(new, new, spec(connections=2)) == {"zero-page-detection": "multifd"}
    assert setup.agreed(new, new, spec()) == {}
    assert setup.agreed(old, new, spec(connections=2)) == setup.agreed(new, old, spec(connections=2)) == {}


def test_what_compresses_is_said_each_time_for_a_qemu_keeps_what_it_was_told():
    assert setup.compression(spec(connections=2)) == {"multifd-compression": "none"}
    zstd = spec(connections=2, wishes=LibvirtWishes(compression=("zstd",), zstd_level=3))
    assert setup.compression(zstd) == {"multifd-compression": "zstd", "multifd-zstd-level": 3}
    differences = spec(wishes=LibvirtWishes(compression=("xbzrle",), xbzrle_cache_bytes=1 << 26))
    assert setup.negotiate(OLD, OLD, differences) == {*ALWAYS, "xbzrle"}
    assert setup.agreed({"xbzrle-cache-size": 1}, {"xbzrle-cache-size": 1}, differences) == {"xbzrle-cache-size": 1 << 26}


def test_deltas_go_over_where_both_were_built_with_them():
    deltas = replace(spec(), deltas=True)
    without = {name: False for name in OLD if name != "xbzrle"}
    assert setup.negotiate(OLD, OLD, deltas) == setup.negotiate(OLD, NEW, deltas) == {*ALWAYS, "xbzrle"}
    assert setup.negotiate(OLD, without, deltas) == setup.negotiate(without, OLD, deltas) == ALWAYS


def test_a_qemu_that_lacks_what_is_needed_is_named():
    ancient = {name: False for name in OLD if name != "multifd"}
    with pytest.raises(Unsupported, match="beta is too old: it does not know multifd"):
        setup.negotiate(OLD, ancient, spec(connections=2))


@given(st.sets(st.sampled_from(sorted(NEW))), st.sets(st.sampled_from(sorted(NEW))), st.booleans())
def test_nothing_is_turned_on_that_one_of_them_does_not_know(here: set[str], there: set[str], postcopy: bool):
    try:
        wanted = setup.negotiate(dict.fromkeys(here, True), dict.fromkeys(there, False), spec(postcopy=postcopy))
    except Unsupported:
        return
    assert wanted <= here & there
