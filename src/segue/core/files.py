"""The files that a guest needs: which they are, and whether two hosts have the same ones. What may live here: pure judgement.

A file that the guest writes has to be one file that both hosts reach. One that is only read may be a copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from segue.core.argv import CommandLine, disk_paths
from segue.core.live import Live

# Options whose whole value is a file, and keys of lists that hold one.
_WHOLE: Final = ("kernel", "initrd", "dtb", "bios", "shim")
_KEYS: Final = {"device": ("romfile",), "smbios": ("file", "path"), "fw_cfg": ("file",), "acpitable": ("file", "data")}
# File systems that one machine has for itself (names of coreutils' stat -f); others may be shared.
_LOCAL: Final = frozenset(
    [
        "ext2/ext3",
        "xfs",
        "btrfs",
        "zfs",
        "tmpfs",
        "ramfs",
        "overlayfs",
        "f2fs",
        "jfs",
        "reiserfs",
        "bcachefs",
        "squashfs",
        "isofs",
    ]
)
# Shared ones that number their files alike on every client.
_NUMBERED: Final = frozenset(["nfs", "gfs/gfs2", "ocfs2", "ceph", "lustre", "gpfs"])
# Those that each libvirt counts as shared (src/util/virfile.c, virFileIsSharedFS): through FUSE these two alone. Of what is
# neither here nor local, some versions count some.
_LIBVIRT_SHARES: Final = frozenset(
    ["nfs", "gfs/gfs2", "ocfs2", "k-afs", "smb", "cifs", "ceph", "gpfs", "acfs", "fuse.glusterfs", "fuse.quobyte"]
)
_FUSE: Final = "fuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """A file that a guest needs.

    Attributes:
        path: as its QEMU names it.
        what: the part of the guest that needs it, for people.
        written: the guest writes to it.
    """

    path: str
    what: str
    written: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A file as one host shows it; all ``None`` and empty for one that is not there.

    Attributes:
        identity: device and inode.
        inode: the latter alone.
        size_bytes: of a plain file.
        filesystem: as coreutils' ``stat -f`` calls it; one that is mounted through FUSE as the kernel's list of mounts does.
        is_device: a block device.
        may_write: so may the user that QEMU runs as.
        may_read: the same.
        owner: user and group, by number, and the permission bits, for people.
    """

    identity: str = ""
    inode: str = ""
    size_bytes: int | None = None
    filesystem: str = ""
    is_device: bool = False
    may_write: bool = True
    may_read: bool = True
    owner: str = ""


def uses(line: CommandLine, live: Live) -> tuple[Use, ...]:
    """Every file that the guest needs to be there before it starts; what QEMU reaches by network is not a file of the host."""
    found = {use.path: use for use in (*_of_options(line), *_of_disks(live))}
    return tuple(use for use in found.values() if _is_file(use.path))


def named(line: CommandLine) -> tuple[str, ...]:
    """The files that a command line names; `uses` may know of more, and of other ones."""
    return tuple(dict.fromkeys((*(use.path for use in _of_options(line) if _is_file(use.path)), *disk_paths(line))))


def _is_file(path: str) -> bool:
    """Not a URI."""
    return ":" not in path.partition("/")[0]


def _of_options(line: CommandLine) -> Iterator[Use]:
    for name in _WHOLE:
        for value in line.all(name):
            for path in value.split(",") if name == "initrd" else [value]:
                yield Use(path=path.partition(" ")[0] if name == "initrd" else path, what=name)
    for name, keys in _KEYS.items():
        for found in line.each(name):
            yield from (Use(path=found[key], what=f"{key} of -{name}") for key in keys if found.get(key))


def _of_disks(live: Live) -> Iterator[Use]:
    for drive in live.drives:
        if drive.medium is not None:
            what = f"disk {drive.name or drive.device or drive.medium.node}"
            yield from (Use(path=path, what=f"a base of {what}") for path in drive.medium.backing)
            yield Use(path=drive.medium.file, what=what, written=not drive.medium.read_only)


def judged(
    wanted: Sequence[Use], here: Mapping[str, Seen], there: Mapping[str, Seen], *, one_machine: bool, names: tuple[str, str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is wrong, each as a clause, and the paths whose contents have to be compared.

    What the source does not find under that name QEMU finds among its own files, or has open since before it was removed.

    Args:
        wanted: what the guest needs.
        here: what the source shows, by path.
        there: what the destination shows.
        one_machine: both run under one kernel, so that device and inode mean the same.
        names: of both hosts.
    """
    wrong: list[str] = []
    compare: list[str] = []
    for use in wanted:
        mine, theirs = here.get(use.path, Seen()), there.get(use.path, Seen())
        if not mine.identity:
            continue
        if not theirs.identity:
            wrong.append(f"{names[1]} has no {use.path} ({use.what})")
        elif (
            use.written and not theirs.may_write
        ):  # it would be noticed when the guest is to run there, and the source has let go
            wrong.append(f"{use.path} on {names[1]} may not be written to by the user that the guest runs as ({use.what})")
        elif is_one(mine, theirs, one_machine=one_machine):
            continue
        elif not use.written:
            compare.append(use.path)
        elif is_other(mine, theirs, one_machine=one_machine):
            wrong.append(f"{use.path} on {names[1]} is another file than the one that the guest writes to ({use.what})")
    return tuple(wrong), tuple(compare)


def is_one(mine: Seen, theirs: Seen, *, one_machine: bool) -> bool:
    """It is known to be one file."""
    if one_machine:
        return mine.identity == theirs.identity
    shared = mine.filesystem == theirs.filesystem and mine.filesystem in _NUMBERED
    return shared and (mine.inode, mine.size_bytes) == (theirs.inode, theirs.size_bytes)


def is_other(mine: Seen, theirs: Seen, *, one_machine: bool) -> bool:
    """It is known to be two files. A block device may be one of a storage network, and a size may lag behind on a client."""
    if one_machine or mine.is_device != theirs.is_device:
        return True
    if mine.is_device:
        return False
    if mine.filesystem in _LOCAL or theirs.filesystem in _LOCAL:
        return True
    return mine.filesystem == theirs.filesystem and mine.filesystem in _NUMBERED and mine.inode != theirs.inode


def libvirt_shares(filesystem: str) -> bool | None:
    """Whether libvirt takes a file there for one that both hosts reach; ``None``: that depends on its version."""
    if filesystem in _LIBVIRT_SHARES:
        return True
    return False if filesystem in _LOCAL or filesystem.startswith(_FUSE) else None
