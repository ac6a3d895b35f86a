"""Theme disks: whether both hosts reach the same disks, with the same rights, or have room for copies of them."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from typing import Final

from segue.core.files import Seen as SeenFile
from segue.core.files import is_one, is_other, libvirt_shares
from segue.core.model import DriverKind
from segue.core.preflight.facts import DiskPart, Facts, Files, Kind, Parts, Unseen
from segue.core.preflight.findings import Finding, Seen, Severity
from segue.core.storage import COPIED_FORMATS
from segue.units import format_bytes

_DROPS_CACHE: Final = (4, 0)
"""Since QEMU 4.0 the destination drops what its page cache holds of a disk when it takes it over (block/file-posix.c,
drop-cache), and any cache mode is safe; before, only those that go around the page cache were."""
_OF_FILES: Final = (
    "disk-missing",
    "disk-other",
    "disk-unproven",
    "disk-unshared",
    "disk-rights",
    "disk-backing",
    "disk-used",
    "disk-locked",
    "file-missing",
)


def find(facts: Facts) -> Iterator[Finding]:
    """Everything about disks and files."""
    parts, files = facts.parts, facts.files
    if isinstance(parts, Unseen):
        for code in (*_OF_FILES, "disk-cache"):
            yield parts.unchecked(code)
        return
    yield from _cache(facts, parts)
    if isinstance(files, Unseen):
        if parts.files or any(disk.path for disk in parts.disks):
            libvirts = facts.spec.driver is DriverKind.LIBVIRT
            yield from (files.unchecked(code) for code in _OF_FILES if libvirts or code != "disk-unshared")
        return
    for disk in parts.disks:
        yield from _disk(facts, disk, files)
    if facts.spec.driver is DriverKind.LIBVIRT and not facts.spec.libvirt.unsafe and not facts.spec.libvirt.offline:
        yield from _unshared(facts, parts, files)
    yield from _room(facts, parts, files)
    for path in parts.files:
        yield from _needed(facts, path, files)


def _seen(host: str, path: str, seen: SeenFile | None) -> Seen:
    if seen is None:
        return Seen(host=host, what=f"{path}: no such file")
    what = "block device" if seen.is_device else f"inode {seen.inode}"
    return Seen(host=host, what=f"{path}: {what} on {seen.filesystem}, owner and mode {seen.owner}")


def _disk(facts: Facts, disk: DiskPart, files: Files) -> Iterator[Finding]:
    if not disk.path:  # QEMU itself reaches it by network, by the same name from everywhere
        return
    there = facts.destination.host
    here_seen, there_seen = files.here.get(disk.path), files.there.get(disk.path)
    evidence = (_seen(facts.source.host, disk.path, here_seen), _seen(there, disk.path, there_seen))
    if _is_copied(facts, disk, files):
        yield from _copy(facts, disk, there_seen, evidence)
        return
    if there_seen is None:
        yield _blocker("disk-missing", f"{there} has no {disk.path}, the disk {disk.name}.", evidence, _share(facts, disk))
        return
    yield from _rights(facts, disk, there_seen, evidence)
    if here_seen is not None:
        yield from _same(facts, disk, files, here_seen, there_seen, evidence)
    if (pid := files.used.get(disk.path)) is not None and not disk.shared:
        yield _blocker(
            "disk-used",
            f"Another QEMU on {there} has {disk.path}, the disk {disk.name}, too: two guests would write to one disk.",
            (Seen(host=there, what=f"pid {pid} has {disk.path} on its command line"),),
            f"See which it is: 'ps -o args= -p {pid}' on {there}; end it, or take the disk from it.",
        )
    elif disk.path in files.locked and not disk.shared:
        yield _locked(facts, disk, files.locked[disk.path])
    for path in disk.backing:
        if path not in files.there:
            yield _blocker(
                "disk-backing",
                f"{there} has no {path}, on which the disk {disk.name} stands.",
                (_seen(facts.source.host, path, files.here.get(path)), _seen(there, path, None)),
                f"Put the same file at {path} on {there}, or pull it into the disk first ('virsh blockpull', 'block-stream').",
            )


def _locked(facts: Facts, disk: DiskPart, pid: int | None) -> Finding:
    there = facts.destination.host
    if pid is None:
        return Finding(
            code="disk-locked",
            severity=Severity.UNCHECKED,
            sentence=f"{there}: somebody holds a lock on {disk.path}, and only root sees who: 'lslocks' there.",
        )
    return _blocker(
        "disk-locked",
        f"A process on {there} holds a lock on {disk.path}, the disk {disk.name}: it is in use there.",
        (Seen(host=there, what=f"pid {pid} has it open and locked (/proc/{pid}/fdinfo)"),),
        f"See what it is: 'ps -o args= -p {pid}' on {there} (a guest, qemu-nbd, qemu-img, a backup); wait for it, or end it.",
    )


def _is_copied(facts: Facts, disk: DiskPart, files: Files) -> bool:
    """A disk that both hosts see is not copied (bare QEMU); of libvirt it can be asked that only some are."""
    chosen = facts.spec.libvirt.copied_disks
    wanted = facts.spec.disks is not None and (not chosen or disk.name in chosen)
    return wanted and (facts.spec.driver is DriverKind.LIBVIRT or not files.proven.get(disk.path, False))


def _blocker(code: str, sentence: str, seen: tuple[Seen, ...], fix: str) -> Finding:
    return Finding(code=code, severity=Severity.BLOCKER, sentence=sentence, seen=seen, fix=fix)


def _share(facts: Facts, disk: DiskPart) -> str:
    directory = posixpath.dirname(disk.path)
    return (
        f"Mount the storage of {directory} on {facts.destination.host} at the same path, or have the disk copied: "
        f"'segue migrate {facts.guest.name} {facts.spec.destination} --copy-storage all'."
    )


def _rights(facts: Facts, disk: DiskPart, seen: SeenFile, evidence: tuple[Seen, ...]) -> Iterator[Finding]:
    if seen.may_read and (disk.read_only or seen.may_write):
        return
    what = "read" if not seen.may_read else "write to"
    yield _blocker(
        "disk-rights",
        f"The user that QEMU runs as on {facts.destination.host} may not {what} {disk.path}, the disk {disk.name}.",
        evidence,
        f"Give QEMU's user the same number on both hosts ('id' shows it), export without squashing it, mount it writable; "
        f"'sudo -u USER test -w {disk.path}' on {facts.destination.host} shows when it is right.",
    )


def _same(
    facts: Facts, disk: DiskPart, files: Files, mine: SeenFile, theirs: SeenFile, evidence: tuple[Seen, ...]
) -> Iterator[Finding]:
    if disk.read_only:
        return
    there, proven = facts.destination.host, files.proven.get(disk.path)
    sentence = f"{disk.path} on {there} is another file than the one that {facts.guest.name} writes to (disk {disk.name})."
    if proven is False:
        said = Seen(host=there, what=f"what was put beside it on {facts.source.host} is not beside it here")
        yield _blocker("disk-other", sentence, (*evidence, said), _share(facts, disk))
    elif _is_another(files, disk.path):
        yield _blocker("disk-other", sentence, evidence, _share(facts, disk))
    elif proven is None and not is_one(mine, theirs, one_machine=False):
        yield Finding(
            code="disk-unproven",
            severity=Severity.WARNING,
            sentence=f"Nothing proves that {disk.path} is the same disk on both hosts: nothing could be put beside it.",
            seen=evidence,
            fix=f"Compare what they are: 'lsblk -o NAME,WWN,SERIAL {disk.path}' or 'stat {disk.path}' on both hosts.",
        )


def _unshared(facts: Facts, parts: Parts, files: Files) -> Iterator[Finding]:
    """Files that libvirt does not move a guest with, though both hosts reach them: those on file systems of one host alone.

    It looks at the source's file system only, whatever the cache mode, and not at what is read only, a block device, reached by
    network or copied (qemu_migration.c, qemuMigrationSrcIsSafe). What is not there, or another file, is told as that.
    """
    disks = [one for one in parts.disks if not one.read_only and not _is_copied(facts, one, files)]
    media = [(one.name, one.path) for one in parts.devices if one.kind is Kind.FLOPPY and not one.read_only]
    here, there = facts.source.host, facts.destination.host
    for name, path in [(one.name, one.path) for one in disks if not _is_another(files, one.path)] + media:
        seen = files.here.get(path)
        if seen is None or seen.is_device or path not in files.there:
            continue
        shares = libvirt_shares(seen.filesystem)
        if shares is None or (files.declared and not shares):
            why = "its version" if shares is None else "shared_filesystems in its qemu.conf"
            sentence = f"Whether libvirt on {here} takes {path} ({seen.filesystem}) for shared storage depends on {why}."
            yield Finding(code="disk-unshared", severity=Severity.UNCHECKED, sentence=sentence)
        elif not shares:
            copied = f"have it copied: 'segue migrate {facts.guest.name} {facts.spec.destination} --copy-storage all'"
            granted = f"{there} was seen to have the same file: --unsafe lets libvirt take that for granted"
            yield _blocker(
                "disk-unshared",
                f"libvirt moves no guest with a disk on {seen.filesystem} ({name}), which it takes for one host's own.",
                (_seen(here, path, seen),),
                f"{granted if files.proven.get(path) else 'Put it on NFS or the like'}. Or {copied}",
            )


def _is_another(files: Files, path: str) -> bool:
    """It was told to be another file there."""
    mine, theirs, proven = files.here.get(path), files.there.get(path), files.proven.get(path)
    if proven is None and mine is not None and theirs is not None:
        return is_other(mine, theirs, one_machine=False) and not mine.is_device
    return proven is False


def _cache(facts: Facts, parts: Parts) -> Iterator[Finding]:
    older = [version for version in (parts.qemu, _offered(facts)) if version and version[:2] < _DROPS_CACHE]
    for disk in parts.disks:
        if older and not facts.spec.libvirt.unsafe and not disk.direct and not disk.read_only and disk.path:
            version = ".".join(map(str, min(older)))
            yield _blocker(
                "disk-cache",
                f"The disk {disk.name} goes through the page cache, and QEMU {version} does not drop what that holds.",
                (Seen(host=facts.source.host, what=f"{disk.path}: not cache=none, not directsync"),),
                "From its next start on: cache='none' (libvirt: <driver cache='none'/>), or QEMU 4.0 and newer on both hosts.",
            )


def _offered(facts: Facts) -> tuple[int, ...]:
    return () if isinstance(facts.offer, Unseen) else facts.offer.qemu


def _copy(facts: Facts, disk: DiskPart, there: SeenFile | None, evidence: tuple[Seen, ...]) -> Iterator[Finding]:
    if facts.spec.driver is not DriverKind.QEMU or disk.read_only:
        return
    if disk.format not in COPIED_FORMATS:
        yield _blocker(
            "disk-format",
            f"The disk {disk.name} is {disk.format}, which is not copied; {' and '.join(COPIED_FORMATS)} are.",
            evidence[:1],
            f"Put {disk.path} on storage that both hosts reach, or convert it while it is off: 'qemu-img convert -O qcow2'.",
        )
    if there is not None and not (facts.spec.disks and facts.spec.disks.paths.get(disk.path)):
        yield _blocker(
            "disk-taken",
            f"{facts.destination.host} already has a file {disk.path}, where the disk {disk.name} would be copied to.",
            evidence,
            f"See what it is, and move it away on {facts.destination.host}.",
        )


def _room(facts: Facts, parts: Parts, files: Files) -> Iterator[Finding]:
    if facts.spec.disks is None:
        return
    needed: dict[str, int] = {}
    for disk in parts.disks:
        if disk.path and not disk.read_only and disk.path not in files.there:
            directory = posixpath.dirname(disk.path)
            needed[directory] = needed.get(directory, 0) + (disk.virtual_bytes or 0)
    for directory, bytes_needed in needed.items():
        free = files.free_bytes.get(directory)
        if free is not None and free < bytes_needed:
            yield Finding(
                code="disk-space",
                # A sparse disk takes less than what the guest sees of it; what is certain is said when its copy begins.
                severity=Severity.WARNING if free else Severity.BLOCKER,
                sentence=f"{facts.destination.host} has {format_bytes(free)} free in {directory}, and the disks that are to be "
                f"copied there may take {format_bytes(bytes_needed)}.",
                seen=(Seen(host=facts.destination.host, what=f"{directory}: {format_bytes(free)} free"),),
                fix=f"Make room in {directory} on {facts.destination.host} ('df -h {directory}').",
            )


def _needed(facts: Facts, path: str, files: Files) -> Iterator[Finding]:
    if path in files.here and path not in files.there:
        there = facts.destination.host
        yield _blocker(
            "file-missing",
            f"{there} has no {path}, which {facts.guest.name} is started with.",
            (_seen(facts.source.host, path, files.here[path]), _seen(there, path, None)),
            f"Copy it to the same path on {there}: 'scp {facts.source.host}:{path} {there}:{path}'.",
        )
