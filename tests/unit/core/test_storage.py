"""Which disks are copied, to what, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.core import storage
from segue.core.storage import Copied, CopyStorage, Disk, Layer, Place, Seen
from segue.errors import RefusedError, Unsupported

MIB = 1 << 20
RAW = Disk(key="disk0", node="#block1", path="/disks/a.img", format="raw", virtual_bytes=64 * MIB, used_bytes=8 * MIB)
OVERLAY = Disk(
    key="disk1",
    node="top",
    path="/disks/b.qcow2",
    format="qcow2",
    virtual_bytes=64 * MIB,
    used_bytes=30 * MIB,
    top_bytes=4 * MIB,
    backing="base.img",
    backing_format="raw",
    layers=(Layer(format="raw", virtual_bytes=32 * MIB),),
)


def place(disk: Disk, seen: Seen = Seen.FREE, free_bytes: int = 1 << 40, filesystem: str = "f0") -> Place:
    return Place(path=disk.path, seen=seen, free_bytes=free_bytes, filesystem=filesystem)


def targets(*pairs: tuple[Disk, Place], how: CopyStorage = CopyStorage.ALL) -> tuple[storage.Target, ...]:
    disks = [disk for disk, _ in pairs]
    return storage.targets(how, disks, {disk.key: found for disk, found in pairs}, destination="beta")


def test_what_both_hosts_see_is_never_copied():
    assert targets((RAW, place(RAW, Seen.SHARED))) == ()
    [one] = targets((RAW, place(RAW, Seen.SHARED)), (OVERLAY, place(OVERLAY)))
    assert (one.disk, one.name) == (OVERLAY, "segue-disk1")


def test_a_shared_disk_that_could_not_be_copied_is_none_of_our_business():
    assert targets((replace(RAW, obstacle="it is odd"), place(RAW, Seen.SHARED))) == ()
    with pytest.raises(Unsupported, match=r"/disks/a.img cannot be copied: it is odd"):
        targets((replace(RAW, obstacle="it is odd"), place(RAW)))


def test_a_file_that_is_not_proven_to_be_the_same_is_never_written_over():
    with pytest.raises(RefusedError, match=r"beta already has a file /disks/a\.img"):
        targets((RAW, place(RAW, Seen.TAKEN)))


def test_no_directory_is_said():
    with pytest.raises(RefusedError, match=r"no directory for /disks/a\.img"):
        targets((RAW, place(RAW, Seen.NO_PLACE)))


@pytest.mark.parametrize(("how", "sync", "keeps"), [(CopyStorage.ALL, "full", False), (CopyStorage.INC, "top", True)])
def test_a_chain_becomes_one_file_or_keeps_what_it_stands_on(how, sync, keeps):
    [one] = targets((OVERLAY, place(OVERLAY)), how=how)
    assert (one.sync, one.keeps_backing) == (sync, keeps)


@pytest.mark.parametrize("how", CopyStorage)
def test_what_stands_on_nothing_is_all_of_it_either_way(how):
    [one] = targets((RAW, place(RAW)), how=how)
    assert (one.sync, one.keeps_backing) == ("top", False)


def test_space_is_counted_for_all_disks_of_a_file_system():
    other = replace(RAW, key="disk9", path="/disks/z.img")
    enough = 128 * MIB
    assert len(targets((RAW, place(RAW, free_bytes=enough)), (other, place(other, free_bytes=enough)))) == 2
    little = enough - 1
    with pytest.raises(RefusedError, match=r"128.0 MiB free .* may need 128.0 MiB"):
        targets((RAW, place(RAW, free_bytes=little)), (other, place(other, free_bytes=little)))
    apart = place(other, free_bytes=little, filesystem="f1")
    assert len(targets((RAW, place(RAW, free_bytes=little)), (other, apart))) == 2


def test_a_raw_file_may_take_all_of_it_and_an_overlay_what_is_in_it():
    [raw] = targets((RAW, place(RAW)))
    [flat] = targets((OVERLAY, place(OVERLAY)))
    [top] = targets((OVERLAY, place(OVERLAY)), how=CopyStorage.INC)
    assert raw.needed_bytes == 64 * MIB
    assert 4 * MIB < top.needed_bytes < 6 * MIB
    assert 30 * MIB < flat.needed_bytes < 32 * MIB


def test_another_base_is_told_from_the_same():
    assert storage.different_base(OVERLAY, OVERLAY.layers) == ""
    assert "raw of 32.0 MiB; there it would stand on raw of 16.0 MiB" in storage.different_base(
        OVERLAY, [Layer(format="raw", virtual_bytes=16 * MIB)]
    )


@given(st.integers(1, 1 << 40), st.integers(1, 9), st.integers(0, 9))
def test_jobs_that_copy_keep_the_limit_together_and_those_that_follow_have_none(limit, running, level):
    copied = Copied(running=tuple(f"r{n}" for n in range(running)), level=tuple(f"l{n}" for n in range(level)))
    speeds = storage.speeds(limit, copied)
    assert all(speeds[name] >= 1 for name in copied.running)
    assert sum(speeds[name] for name in copied.running) <= max(limit, running)
    assert all(speeds[name] == 0 for name in copied.level)
    assert set(storage.speeds(None, copied).values()) == {0}


def test_broken_is_not_ready():
    assert Copied().ready
    assert not Copied(running=("segue-disk0",)).ready
    assert not Copied(broken="segue-disk0: No space left on device").ready
