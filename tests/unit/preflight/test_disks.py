"""Theme disks: facts → findings."""

from __future__ import annotations

from dataclasses import replace

import pytest

from segue.core.files import Seen
from segue.core.model import DriverKind
from segue.core.preflight import judge
from segue.core.preflight.facts import Facts, Files, Kind, Part, Unseen
from segue.core.preflight.findings import Severity
from segue.core.storage import CopyStorage, CopyWish
from segue.core.wishes import LibvirtWishes
from tests.unit.preflight.facts import CLEAN, DISK, FILES, OFFER, ON_NFS, PARTS, said

B, W, U = Severity.BLOCKER, Severity.WARNING, Severity.UNCHECKED
PATH = DISK.path
LOCAL = replace(ON_NFS, filesystem="ext2/ext3")
FUSE = replace(ON_NFS, filesystem="fuse.sshfs")
GLUSTER = replace(ON_NFS, filesystem="fuse.glusterfs")
LUSTRE = replace(ON_NFS, filesystem="lustre")
FLOPPY = Part(kind=Kind.FLOPPY, name="fda", what=PATH, path=PATH)
COPY = replace(CLEAN.spec, disks=CopyWish(how=CopyStorage.ALL), driver=DriverKind.QEMU)


def seen(**changes: object) -> Facts:
    return replace(CLEAN, files=replace(FILES, **changes))  # type: ignore[arg-type]


def disk(files: Files = FILES, **changes: object) -> Facts:
    return replace(CLEAN, parts=replace(PARTS, disks=(replace(DISK, **changes),)), files=files)  # type: ignore[arg-type]


def unproven(here: Seen, there: Seen) -> Facts:
    return seen(here={PATH: here}, there={PATH: there}, proven={})


def copied(**changes: object) -> Facts:
    files = replace(FILES, **{"there": {}, "proven": {PATH: False}, **changes})  # type: ignore[arg-type]
    return replace(CLEAN, spec=COPY, parts=replace(PARTS, disks=(replace(DISK, virtual_bytes=100),)), files=files)


OLD = replace(OFFER, qemu=(3, 1, 0))


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        (seen(there={}), [("disk-missing", B)]),
        (seen(proven={PATH: False}), [("disk-other", B)]),
        (unproven(ON_NFS, ON_NFS), []),  # a shared file system that numbers its files alike
        (unproven(ON_NFS, replace(ON_NFS, inode="78")), [("disk-other", B)]),
        (unproven(LOCAL, LOCAL), [("disk-other", B)]),
        (unproven(replace(LOCAL, is_device=True), replace(LOCAL, is_device=True)), [("disk-unproven", W)]),
        (unproven(FUSE, FUSE), [("disk-unshared", B), ("disk-unproven", W)]),
        (unproven(GLUSTER, GLUSTER), [("disk-unproven", W)]),
        (seen(there={PATH: replace(ON_NFS, may_write=False)}), [("disk-rights", B)]),
        (disk(read_only=True, files=replace(FILES, there={PATH: replace(ON_NFS, may_write=False)})), []),
        (disk(read_only=True, files=replace(FILES, there={PATH: replace(ON_NFS, may_read=False)})), [("disk-rights", B)]),
        (seen(used={PATH: 77}), [("disk-used", B)]),
        (disk(shared=True, files=replace(FILES, used={PATH: 77})), []),
        (seen(locked={PATH: 77}), [("disk-locked", B)]),
        (seen(used={PATH: 77}, locked={PATH: 77}), [("disk-used", B)]),  # it is said once
        (disk(shared=True, files=replace(FILES, locked={PATH: 77})), []),
        (disk(backing=("/srv/base.img",)), [("disk-backing", B)]),
        (disk(direct=False), []),  # QEMU 4.0 and newer drop what their page cache holds
        (replace(disk(direct=False), offer=OLD), [("disk-cache", B), ("qemu-older", W)]),
        (
            replace(CLEAN, parts=replace(PARTS, files=("/boot/k",)), files=replace(FILES, here={**FILES.here, "/boot/k": LOCAL})),
            [("file-missing", B)],
        ),
        (disk(path="", url="nfs://storage/web.img"), []),
        (copied(), []),
        (copied(free_bytes={"/srv": 99}), [("disk-space", W)]),
        (copied(free_bytes={"/srv": 100}), []),
        (copied(there={PATH: LOCAL}), [("disk-taken", B)]),
        (copied(there={PATH: ON_NFS}, proven={PATH: True}), []),  # shared after all: it is not copied
    ],
)
def test_what_is_found(facts: Facts, found: list[tuple[str, Severity]]) -> None:
    assert [one for one in said(facts) if one[1] is not U] == found
    assert all(one.fix and one.seen for one in judge(facts) if one.severity is not U)


def on(where: Seen, **more: object) -> Facts:
    return seen(here={PATH: where}, there={PATH: where}, **more)


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        (on(ON_NFS), []),
        (on(LOCAL), [("disk-unshared", B)]),
        (on(FUSE), [("disk-unshared", B)]),
        (on(LUSTRE), [("disk-unshared", U)]),
        (on(LOCAL, declared=True), [("disk-unshared", U)]),
        (on(replace(LOCAL, is_device=True)), []),
        (replace(on(LOCAL), parts=replace(PARTS, disks=(replace(DISK, read_only=True),))), []),
        (replace(on(LOCAL), parts=replace(PARTS, disks=(replace(DISK, direct=True, shared=True),))), [("disk-unshared", B)]),
        (replace(on(LOCAL), spec=replace(CLEAN.spec, libvirt=LibvirtWishes(unsafe=True))), []),
        (replace(on(LOCAL), spec=replace(CLEAN.spec, disks=CopyWish(how=CopyStorage.ALL))), []),
        (replace(on(LOCAL), spec=replace(CLEAN.spec, driver=DriverKind.QEMU)), []),
        (replace(on(LOCAL), parts=replace(PARTS, disks=(), devices=(FLOPPY,))), [("disk-unshared", B)]),
        (replace(on(LOCAL), parts=replace(PARTS, disks=(), devices=(replace(FLOPPY, read_only=True),))), []),
    ],
)
def test_libvirt_moves_no_guest_with_a_file_that_it_takes_for_its_hosts_own(
    facts: Facts, found: list[tuple[str, Severity]]
) -> None:
    assert said(facts) == found


def test_what_both_hosts_were_seen_to_have_may_be_taken_for_granted() -> None:
    [one] = judge(on(LOCAL))
    assert "beta was seen to have the same file: --unsafe" in one.fix
    assert "--copy-storage all" in one.fix


def test_a_disk_of_another_format_is_not_copied() -> None:
    facts = copied()
    facts = replace(facts, parts=replace(PARTS, disks=(replace(DISK, format="vmdk"),)))
    assert said(facts) == [("disk-format", B)]


def test_a_lock_whose_owner_may_not_be_seen_is_unchecked() -> None:
    assert said(seen(locked={PATH: None})) == [("disk-locked", U)]


def test_without_a_shell_nothing_of_files_is_fine() -> None:
    found = said(replace(CLEAN, files=Unseen(host="beta", why="no shell")))
    assert ("disk-other", U) in found
    assert ("disk-missing", U) in found
