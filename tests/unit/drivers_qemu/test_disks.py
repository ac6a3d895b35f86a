"""What a QEMU says of its disks, and real files on this machine that stand for those of two hosts."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from segue.core.storage import Disk, Layer, Seen, Target
from segue.drivers.qemu import disks
from segue.errors import PrepareFailed
from segue.hosts import Completed, LocalShell

MIB = 1 << 20
ALPHA, BETA = LocalShell("alpha"), LocalShell("beta")
ODD_NAMES = ("a.img", "it's a disk", "two\nlines", "ünï", "$(id)", "-rf", "a b\n")

# Answers of query-block from QEMU 7.2.22, cut down to what is read: -drive with and without id, -blockdev, a CD-ROM, nothing.
RAW_IMAGE = {"virtual-size": 64 * MIB, "filename": "/d/a.img", "format": "raw", "actual-size": 8007680, "dirty-flag": False}
QCOW2 = {"compat": "1.1", "compression-type": "zlib", "lazy-refcounts": False, "refcount-bits": 16, "extended-l2": False}
QCOW2_IMAGE = {
    "virtual-size": 64 * MIB,
    "filename": "/d/c.qcow2",
    "cluster-size": 65536,
    "format": "qcow2",
    "actual-size": 200704,
    "format-specific": {"type": "qcow2", "data": QCOW2},
    "backing-filename": "base.img",
    "backing-filename-format": "raw",
    "backing-image": {"virtual-size": 32 * MIB, "filename": "/d/base.img", "format": "raw", "actual-size": 5001216},
}
QDEV = "/machine/peripheral-anon/device[1]/virtio-backend"


def block(image: dict[str, object], *, device: str = "disk0", file: str = "", **inserted: object) -> dict[str, object]:
    told = {
        "node-name": "#block349",
        "ro": False,
        "drv": image["format"],
        "file": file or image["filename"],
        "image": image,
        "encrypted": False,
        "backing_file_depth": int("backing-image" in image),
    }
    return {"device": device, "qdev": QDEV, "inserted": {**told, **inserted}}


def read_one(entry: dict[str, object], cwd: str = "/") -> Disk:
    [disk] = disks.read_disks([entry], cwd)
    return disk


def test_a_raw_drive():
    assert read_one(block(RAW_IMAGE)) == Disk(
        key="disk0",
        node="#block349",
        path="/d/a.img",
        format="raw",
        virtual_bytes=64 * MIB,
        file="/d/a.img",
        used_bytes=8007680,
        top_bytes=8007680,
    )


def test_an_overlay_without_a_name_is_known_by_its_device():
    disk = read_one(block(QCOW2_IMAGE, device=""))
    assert disk.key == QDEV
    assert (disk.backing, disk.backing_format, disk.layers) == ("base.img", "raw", (Layer(format="raw", virtual_bytes=32 * MIB),))
    assert disk.used_bytes == 200704 + 5001216
    assert disk.options == ("cluster_size=65536", "compat=1.1", "refcount_bits=16")


def test_what_the_guest_cannot_write_to_or_has_not_is_left_out():
    assert disks.read_disks([block(RAW_IMAGE, ro=True), {"device": "cd0", "qdev": "x"}], "/") == ()


@pytest.mark.parametrize("name", ["nfs://storage/d/a.img", "nbd:unix:/x", "rbd:pool/a", "nbd+unix:///a?socket=/x"])
def test_what_is_on_the_network_is_the_same_for_every_host(name):
    assert disks.read_disks([block(RAW_IMAGE, file=name)], "/") == ()


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a.img", "/home/me/a.img"),
        ("/d/a:b.img", "/d/a:b.img"),
        ("./a:b.img", "/home/me/./a:b.img"),
        ("file:/d/a.img", "/d/a.img"),
        ("json:" + json.dumps({"driver": "raw", "file": {"driver": "file", "filename": "/d/a.img"}}), "/d/a.img"),
    ],
)
def test_a_file_by_any_of_its_names(name, path):
    assert read_one(block(RAW_IMAGE, file=name), "/home/me").path == path


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (block(RAW_IMAGE, drv="vmdk"), "its format is vmdk"),
        (block(RAW_IMAGE, encrypted=True), "encrypted"),
        (block({**RAW_IMAGE, "snapshots": [{"id": "1"}]}), "snapshots"),
        (block(RAW_IMAGE, file="fat:rw:/tmp"), "does not know"),
        (block({**QCOW2_IMAGE, "format-specific": {"data": {**QCOW2, "data-file": "d.raw"}}}), "in another file"),
    ],
)
def test_what_would_not_come_along_whole_is_an_obstacle(entry, why):
    assert why in read_one(entry).obstacle


def test_jobs_of_others_are_none_of_ours_and_one_that_ended_by_itself_is_broken():
    running = {"id": "segue-disk0", "type": "mirror", "status": "running", "current-progress": 3, "total-progress": 9}
    ready = {"id": "segue-disk1", "type": "mirror", "status": "ready", "current-progress": 5, "total-progress": 5}
    backup = {"id": "nightly", "type": "backup", "status": "concluded", "error": "no"}
    seen = disks.copied([running, ready, backup])
    assert (seen.copied_bytes, seen.total_bytes) == (8, 14)
    assert (seen.running, seen.level, seen.broken, seen.ready) == (("segue-disk0",), ("segue-disk1",), "", False)
    ended = {**running, "status": "concluded", "error": "No space left on device"}
    assert disks.copied([ended, ready]).broken == "segue-disk0: No space left on device"
    assert disks.copied([{**running, "status": "a word of tomorrow"}]).running == ("segue-disk0",)


@pytest.fixture
def two_places(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    for name in ("alpha", "beta"):
        (tmp_path / name).mkdir()
    yield tmp_path / "alpha", tmp_path / "beta"
    assert [path for path in tmp_path.rglob("*segue-*") if path.name.endswith(".token")] == []


def disk(path: Path, **more: object) -> Disk:
    known = {"key": "disk0", "node": "n", "path": str(path), "format": "raw", "virtual_bytes": MIB}
    return Disk(**{**known, **more})  # type: ignore[arg-type]


async def seen_at(here: Path, there: Path) -> Seen:
    places = await disks.shown(ALPHA, BETA, [disk(here)], {"disk0": str(there)}, "m1")
    return places["disk0"].seen


@pytest.mark.parametrize("name", ODD_NAMES)
async def test_the_same_file_is_proven_to_be_and_a_copy_of_it_is_not(two_places, name):
    here, there = (place / name for place in two_places)
    here.write_bytes(b"x")
    assert await seen_at(here, here) is Seen.SHARED
    assert await seen_at(here, there) is Seen.FREE
    there.write_bytes(b"x")
    assert await seen_at(here, there) is Seen.TAKEN


async def test_the_inode_alone_and_the_directory_alone_prove_nothing(two_places):
    here, there = (place / "a.img" for place in two_places)
    here.touch()
    there.hardlink_to(here)  # the same inode, and no token beside it
    assert await seen_at(here, there) is Seen.TAKEN
    beside = here.with_name("b.img")
    beside.touch()  # the token beside it, and another inode
    assert await seen_at(here, beside) is Seen.TAKEN


async def test_a_link_to_a_shared_file_is_followed_on_both_hosts(two_places):
    here, there = two_places
    (here / "real.img").touch()
    (here / "link.img").symlink_to("real.img")
    (there / "other.img").symlink_to(here / "real.img")
    assert await seen_at(here / "link.img", there / "other.img") is Seen.SHARED


async def test_no_directory_and_a_dangling_link_are_told_from_a_free_place(two_places):
    here, there = two_places
    (here / "a.img").touch()
    assert await seen_at(here / "a.img", there / "none" / "a.img") is Seen.NO_PLACE
    (there / "a.img").symlink_to(there / "nowhere")
    assert await seen_at(here / "a.img", there / "a.img") is Seen.TAKEN


async def test_the_file_system_and_its_space_are_told(two_places):
    here, there = (place / "a.img" for place in two_places)
    here.touch(mode=0o640)
    place = (await disks.shown(ALPHA, BETA, [disk(here)], {"disk0": str(there)}, "m1"))["disk0"]
    free = os.statvfs(two_places[1])
    assert abs(place.free_bytes - free.f_bavail * free.f_bsize) < 64 * MIB  # others write here, too
    assert place.filesystem not in ("", "-")
    assert place.mode == f"{here.stat().st_mode & 0o777:o}"


async def target_at(here: Path, there: Path, *, keeps_backing: bool = False, **more: object) -> Target:
    if not here.exists():
        here.touch(mode=0o600)
    source = disk(here, **more)
    place = (await disks.shown(ALPHA, BETA, [source], {"disk0": str(there)}, "m1"))["disk0"]
    return Target(name="segue-disk0", disk=source, place=place, keeps_backing=keeps_backing)


@pytest.mark.parametrize("name", ODD_NAMES)
async def test_a_file_that_we_made_is_removed_and_no_other(two_places, name):
    here, there = (place / name for place in two_places)
    await disks.create(BETA, await target_at(here, there), disks.ours(str(there), "m1"))
    assert there.stat().st_size == MIB
    assert there.stat().st_mode & 0o777 == here.stat().st_mode & 0o777
    await disks.remove(BETA, [str(there)], "another")
    assert there.exists()
    await disks.remove(BETA, [str(there)], "m1")
    await disks.remove(BETA, [str(there)], "m1")
    assert list(two_places[1].iterdir()) == []


async def test_a_file_that_is_kept_is_no_longer_ours_to_remove(two_places):
    here, there = (place / "a.img" for place in two_places)
    await disks.create(BETA, await target_at(here, there), disks.ours(str(there), "m1"))
    await disks.keep(BETA, [str(there)], "m1")
    await disks.remove(BETA, [str(there)], "m1")
    assert [path.name for path in two_places[1].iterdir()] == ["a.img"]


async def test_what_appeared_meanwhile_is_not_written_over(two_places):
    here, there = (place / "a.img" for place in two_places)
    target = await target_at(here, there)
    there.write_bytes(b"precious")
    with pytest.raises(PrepareFailed, match="File exists"):
        await disks.create(BETA, target, disks.ours(str(there), "m1"))
    await disks.remove(BETA, [str(there)], "m1")
    assert there.read_bytes() == b"precious"
    assert [path.name for path in two_places[1].iterdir()] == ["a.img"]


def qemu_img(*words: str | Path) -> bytes:
    return subprocess.run(["qemu-img", *words], check=True, capture_output=True).stdout


async def test_an_overlay_stands_on_the_same_name_as_the_source_s(two_places):
    here, there = (place / "top.qcow2" for place in two_places)
    for place in two_places:
        qemu_img("create", "-q", "-f", "raw", place / "base.img", "512K")
    more = {"backing": "base.img", "backing_format": "raw", "options": ("cluster_size=131072", "compat=1.1")}
    target = await target_at(here, there, keeps_backing=True, **{**more, "format": "qcow2"})
    await disks.create(BETA, target, disks.ours(str(there), "m1"))
    made = json.loads(qemu_img("info", "--output=json", there))
    assert (made["backing-filename"], made["cluster-size"], made["virtual-size"]) == ("base.img", 131072, MIB)
    assert await disks.layers(BETA, str(there)) == (Layer(format="raw", virtual_bytes=MIB // 2),)


async def test_a_base_that_is_not_there_is_quoted_and_nothing_is_left(two_places):
    here, there = (place / "top.qcow2" for place in two_places)
    more = {"backing": "base.img", "backing_format": "raw", "format": "qcow2"}
    target = await target_at(here, there, keeps_backing=True, **more)
    with pytest.raises(PrepareFailed, match=r"base\.img"):
        await disks.create(BETA, target, disks.ours(str(there), "m1"))
    assert list(two_places[1].iterdir()) == []


class Failing(LocalShell):
    """A host that is lost while it is looked at."""

    async def run(self, argv, *, stdin=b"", deadline_s) -> Completed:  # noqa: ARG002
        return Completed(status=255, stdout=b"", stderr=b"lost")


async def test_no_token_stays_when_the_other_host_is_lost(two_places):
    here, there = (place / "a.img" for place in two_places)
    here.touch()
    with pytest.raises(Exception, match="status 255"):
        await disks.shown(ALPHA, Failing("beta"), [disk(here)], {"disk0": str(there)}, "m1")
    assert [path.name for path in two_places[0].iterdir()] == ["a.img"]
