"""Theme disks: facts → findings."""

from __future__ import annotations

from dataclasses import replace

import pytest

from segue.core.files import Seen
from segue.core.model import DriverKind
from segue.core.preflight import judge
from segue.core.preflight.facts import Facts, Files, Unseen
from segue.core.preflight.findings import Severity
from segue.core.storage import CopyStorage, CopyWish
from tests.unit.preflight.facts import CLEAN, DISK, FILES, OFFER, ON_NFS, PARTS, said

B, W, U = Severity.BLOCKER, Severity.WARNING, Severity.UNCHECKED
PATH = DISK.path
LOCAL = replace(ON_NFS, filesystem="ext2/ext3")
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
        (unproven(replace(ON_NFS, filesystem="fuseblk"), replace(ON_NFS, filesystem="fuseblk")), [("disk-unproven", W)]),
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
