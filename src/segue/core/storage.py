"""Disks that only the source can reach: which of them are copied, to what, and how far the copying is.

A disk that both hosts see is never copied, and one that cannot be copied faithfully is refused before anything is touched.
What may live here: the nouns of that, and decisions about them. What a QEMU or a host says is read in `drivers.qemu.disks`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from segue.errors import RefusedError, Unsupported
from segue.units import format_bytes

PREFIX: Final = "segue-"
"""Begins the name of every job, node and export that Segue makes in a QEMU, so that they are found without any memory of them."""
COPIED_FORMATS: Final = ("raw", "qcow2")
METADATA_BYTES: Final = 1 << 20
"""What a new qcow2 takes before anything is in it: 196 KiB were seen with clusters of 64 KiB; tables grow with the disk."""
METADATA_SHARE: Final = 1000
"""A cluster of 64 KiB has 8 bytes of mapping and 2 of reference count (QEMU, docs/interop/qcow2.txt): below a thousandth."""


class CopyStorage(StrEnum):
    """How disks are copied, in the words of ``virsh migrate --copy-storage-…``."""

    ALL = "all"
    """All that the guest sees of a disk; what lay in a chain of files is one file afterwards."""
    INC = "inc"
    """The topmost file only; the files below it have to be on the destination already."""


PORTS: Final = range(49152, 49216)
"""Those of libvirt (qemu.conf, migration_port_min and _max): a firewall that lets its migrations through lets these, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyWish:
    """How disks are to be copied.

    Attributes:
        how: all of them, or the topmost files only.
        limit_bps: at most this many bytes per second for all disks together; ``None``: no limit.
        synchronous: a write of the guest is done when it is on both sides, from the beginning. A guest that writes faster than
            the link carries then waits, and always converges; but it also waits when the link is broken.
        port: of the destination, where its disks are exported; 0: the first free one of `PORTS`.
        paths: source path → destination path, for disks that get another; all others keep theirs.
    """

    how: CopyStorage
    limit_bps: int | None = None
    synchronous: bool = False
    port: int = 0
    paths: dict[str, str] = field(default_factory=dict)

    @property
    def ports(self) -> Sequence[int]:
        """Those that may be used, in the order in which they are tried."""
        return (self.port,) if self.port else PORTS


class Seen(StrEnum):
    """What the destination has where a disk should lie."""

    SHARED = "shared"
    """The same file, proven: what was put beside it on the source is beside it there, and it has the same inode."""
    TAKEN = "taken"
    """A file that is not proven to be the same."""
    FREE = "free"
    NO_PLACE = "no-place"
    """Not even the directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A file below a disk's own."""

    format: str
    virtual_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A disk that the guest may write to, in a file of its host.

    Attributes:
        key: what both QEMUs call it: the drive's name, or the device's path.
        node: the source's name for it in commands.
        path: its file on the source, absolute.
        file: the same as its QEMU says it.
        below: the files below it, as its QEMU says them, from the top.
        format: of that file.
        virtual_bytes: what the guest sees.
        used_bytes: what it takes on the source, with all files below it.
        top_bytes: what its own file takes.
        backing: the name of the file below as it is written in its own; empty without one.
        backing_format: of that file.
        layers: the files below, from the top.
        options: what its format was created with, as ``qemu-img create -o`` takes it.
        obstacle: why it cannot be copied; empty when it can.
    """

    key: str
    node: str
    path: str
    format: str
    virtual_bytes: int
    file: str = ""
    below: tuple[str, ...] = ()
    used_bytes: int = 0
    top_bytes: int = 0
    backing: str = ""
    backing_format: str = ""
    layers: tuple[Layer, ...] = ()
    options: tuple[str, ...] = ()
    obstacle: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a disk shall lie on the destination, as that host shows it.

    Attributes:
        path: absolute.
        seen: what is there.
        mode: the permission bits of the source's file, octal.
        owner: user and group of the source's file, by number; empty where they are not known.
        filesystem: tells one file system of that host from another.
        free_bytes: what may still be written there.
    """

    path: str
    seen: Seen
    mode: str = "600"
    owner: str = ""
    filesystem: str = ""
    free_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A file that is to be created on the destination.

    Attributes:
        name: of its job, node and export.
        disk: what it shall hold.
        place: where.
        keeps_backing: it stands on the same files as the source's.
    """

    name: str
    disk: Disk
    place: Place
    keeps_backing: bool

    @property
    def files(self) -> frozenset[str]:
        """What the destination need not have, in the words of the source's QEMU."""
        return frozenset((self.disk.file, *(() if self.keeps_backing else self.disk.below)))

    @property
    def sync(self) -> str:
        """What is copied, as QEMU calls it (qapi/block-core.json, MirrorSyncMode).

        ``top`` is all there is of a disk that stands on nothing. With ``full`` QEMU writes zeroes over the whole target first
        (block/mirror.c, zero_target), and a new file holds nothing else.
        """
        return "full" if self.disk.layers and not self.keeps_backing else "top"

    @property
    def needed_bytes(self) -> int:
        """The most that it takes when it is there.

        A raw file may take all of it: where the source has holes QEMU writes zeroes, which a file system may or may not keep as
        holes (ext4: 64 MiB of 64 with QEMU 10.0 as the destination, 8 with 7.2).
        """
        if self.disk.format == "raw":
            return self.disk.virtual_bytes
        data = self.disk.top_bytes if self.keeps_backing else self.disk.used_bytes
        return min(data, self.disk.virtual_bytes) + METADATA_BYTES + self.disk.virtual_bytes // METADATA_SHARE


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """One look at the copying.

    Attributes:
        copied_bytes: so many of them are on the destination; what the guest changes meanwhile is counted again.
        total_bytes: so many there are to copy, as far as is known.
        running: names of jobs that are still busy with what was there when they began.
        level: names of jobs that only follow what the guest writes.
        broken: why a job ended before its time; empty when none did.
    """

    copied_bytes: int = 0
    total_bytes: int = 0
    running: tuple[str, ...] = ()
    level: tuple[str, ...] = ()
    broken: str = ""

    @property
    def ready(self) -> bool:
        """Every disk is the same on both sides but for what the guest writes now."""
        return not self.running and not self.broken


def targets(how: CopyStorage, disks: Sequence[Disk], places: Mapping[str, Place], *, destination: str) -> tuple[Target, ...]:
    """What is to be created: one target for each disk that is not shared.

    Args:
        how: what was asked for.
        disks: all that the guest may write to.
        places: for the key of each of them.
        destination: the host, for people.

    Raises:
        Unsupported: a disk cannot be copied faithfully.
        RefusedError: something is in the way on the destination, or it has too little space.
    """
    wanted = [
        Target(
            name=f"{PREFIX}disk{number}",
            disk=disk,
            place=places[disk.key],
            keeps_backing=how is CopyStorage.INC and bool(disk.layers),
        )
        for number, disk in enumerate(disks)
        if places[disk.key].seen is not Seen.SHARED
    ]
    for target in wanted:
        _check(target, destination)
    _check_space(wanted, destination)
    return tuple(wanted)


def _check(target: Target, destination: str) -> None:
    disk, place = target.disk, target.place
    if disk.obstacle:
        raise Unsupported(f"The disk {disk.path} cannot be copied: {disk.obstacle}.")
    if place.seen is Seen.TAKEN:
        raise RefusedError(
            f"{destination} already has a file {place.path}, and nothing proves that it is the one that the guest uses.",
            hint=f"See what it is; move it away on {destination}, or give the disk another path there.",
        )
    if place.seen is Seen.NO_PLACE:
        raise RefusedError(
            f"{destination} has no directory for {place.path} that may be written to.", hint=f"Make it on {destination}."
        )


def _check_space(wanted: Sequence[Target], destination: str) -> None:
    needed: Counter[str] = Counter()
    for target in wanted:
        needed[target.place.filesystem] += target.needed_bytes
    for target in wanted:
        if (bytes_needed := needed[target.place.filesystem]) > target.place.free_bytes:
            raise RefusedError(
                f"{destination} has {format_bytes(target.place.free_bytes)} free where {target.place.path} should lie, "
                f"and the guest's disks may need {format_bytes(bytes_needed)} there.",
                hint=f"Make room on {destination}, or give the disk a path on another file system.",
            )


def different_base(disk: Disk, there: Sequence[Layer]) -> str:
    """Why the files below a disk are not the ones that the destination has; empty when nothing tells them apart.

    Their contents are compared with all other files that the guest only reads (`core.files`).
    """
    if tuple(there) == disk.layers:
        return ""
    here, found = (
        ", ".join(f"{layer.format} of {format_bytes(layer.virtual_bytes)}" for layer in layers) or "nothing"
        for layers in (disk.layers, there)
    )
    return f"{disk.path} stands on {here}; there it would stand on {found}"


def speeds(limit_bps: int | None, copied: Copied) -> dict[str, int]:
    """What each job may copy per second, so that together they keep the limit; 0 is QEMU's word for no limit.

    One that only follows the guest has none: it would hold up the switchover, when the rest has to be there at once.
    """
    each = max(1, limit_bps // max(1, len(copied.running))) if limit_bps else 0
    return dict.fromkeys(copied.running, each) | dict.fromkeys(copied.level, 0)
