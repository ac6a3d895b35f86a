"""Disks that only the source can reach: found, made empty on the destination, and taken away again. libvirt itself copies them.

libvirt copies what it is told to into files that are there already (NBD, docs/migration.rst); it makes them only where they
lie in a pool that it knows. And a disk that both hosts see it would copy onto itself. So all is done here through the storage
driver of both daemons, over the same connections: a pool for the directory of a disk, for as long as it is needed. Whether both
hosts see the same directory tells a mark that is put there by the source. A file that was made here has a mark beside it with the
migration's id: so what a process that died had made is found by looking, and nothing else is ever taken away.

What may live here: `DiskCopy`, and what it does in the threads of `runtime`.
"""

from __future__ import annotations

import contextlib
import functools
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final
from xml.sax.saxutils import escape, quoteattr

import libvirt
from lxml import etree

from segue.core.model import MigrationSpec
from segue.core.ports import ActionLog
from segue.core.record import Action
from segue.core.storage import COPIED_FORMATS, PREFIX, CopyStorage
from segue.drivers.libvirt import definitions
from segue.drivers.libvirt.hypervisor import LibvirtHypervisor
from segue.errors import HypervisorError, PrepareFailed

MARK: Final = f".{PREFIX}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDisk:
    """A disk in a file of its host that the guest may write to.

    Attributes:
        target: libvirt's name for it (``vda``).
        path: its file.
        format: of that file.
        virtual_bytes: what the guest sees.
        backing, backing_format: the file right below it; empty without one.
    """

    target: str
    path: str
    format: str
    virtual_bytes: int
    backing: str = ""
    backing_format: str = ""


def of_domain(domain: libvirt.virDomain) -> tuple[FileDisk, ...]:
    """Its disks that could be copied; shared, read-only and network disks are not among them."""
    root = etree.fromstring(definitions.own(domain).encode())
    live = etree.fromstring(domain.XMLDesc(0).encode())
    found = []
    for disk in root.iterfind("devices/disk[@type='file'][@device='disk']"):
        source, target, driver = disk.find("source"), disk.find("target"), disk.find("driver")
        if source is None or target is None or disk.find("readonly") is not None or disk.find("shareable") is not None:
            continue
        name = target.get("dev", "")
        below = live.find(f"devices/disk/target[@dev='{name}']/../backingStore")
        below_source = below.find("source") if below is not None else None
        below_format = below.find("format") if below is not None else None
        found.append(
            FileDisk(
                target=name,
                path=source.get("file", ""),
                format="raw" if driver is None else driver.get("type", "raw"),
                virtual_bytes=domain.blockInfo(name)[0],
                backing="" if below_source is None else below_source.get("file", ""),
                backing_format="" if below_format is None else below_format.get("type", ""),
            )
        )
    return tuple(found)


@contextlib.contextmanager
def pool(connection: libvirt.virConnect, directory: str, migration: str) -> Iterator[libvirt.virStoragePool]:
    """The pool of a directory: the one that is there, or one for as long as it is needed."""
    with contextlib.suppress(libvirt.libvirtError):
        there = connection.storagePoolLookupByTargetPath(directory)
        there.refresh()
        yield there
        return
    name = f"{PREFIX}{migration}-{zlib.crc32(directory.encode()):x}"
    made = connection.storagePoolCreateXML(
        f"<pool type='dir'><name>{name}</name><target><path>{escape(directory)}</path></target></pool>"
    )
    try:
        made.refresh()
        yield made
    finally:
        made.destroy()


def _volumes(there: libvirt.virStoragePool) -> set[str]:
    return set(there.listVolumes())


def _make(
    there: libvirt.virStoragePool, name: str, capacity: int = 0, format_: str = "raw", backing: FileDisk | None = None
) -> None:
    below = ""
    if backing is not None:
        kind = quoteattr(backing.backing_format)
        below = f"<backingStore><path>{escape(backing.backing)}</path><format type={kind}/></backingStore>"
    there.createXML(
        f"<volume><name>{escape(name)}</name><capacity unit='bytes'>{capacity}</capacity><allocation>0</allocation>"
        f"<target><format type={quoteattr(format_)}/></target>{below}</volume>"
    )


def _split(path: str) -> tuple[str, str]:
    pure = PurePosixPath(path)
    return str(pure.parent), pure.name


def _mark(path: str, migration: str) -> tuple[str, str]:
    directory, name = _split(path)
    return directory, f"{name}{MARK}{migration}"


class DiskCopy:
    """The disks of one migration. Every method may be called again, and those of the way back also by who did not begin it.

    Args:
        spec: what was asked for, with disks to be copied.
        source, destination: both hosts.
        log: is told each action before it is done.
    """

    def __init__(self, spec: MigrationSpec, source: LibvirtHypervisor, destination: LibvirtHypervisor, log: ActionLog) -> None:
        self._spec = spec
        self._source = source
        self._destination = destination
        self._log = log

    async def create(self, domain: libvirt.virDomain) -> tuple[FileDisk, ...]:
        """See which disks only the source can reach, and make an empty file for each of them.

        Raises:
            PrepareFailed: one cannot be copied, or its file cannot be made; `remove` takes away the others.
        """
        found = await self._source.ask(lambda _: of_domain(domain))
        chosen = self._spec.libvirt.copied_disks
        if unknown := set(chosen) - {disk.target for disk in found}:
            raise PrepareFailed(
                f"{self._spec.guest} has no disk {', '.join(sorted(unknown))} in a file of its own that could be copied.",
                hint=f"It has {', '.join(disk.target for disk in found) or 'none'}.",
            )
        wanted = [disk for disk in found if not chosen or disk.target in chosen]
        shared = await self._shared({_split(disk.path)[0] for disk in wanted})
        alone = tuple(disk for disk in wanted if _split(disk.path)[0] not in shared)
        if chosen and len(alone) != len(wanted):
            both = ", ".join(disk.target for disk in wanted if disk not in alone)
            raise PrepareFailed(f"Both hosts see the file of {both}: it would be copied onto itself.", hint="Leave it out.")
        for disk in alone:
            await self._create(disk)
        return alone

    async def _shared(self, directories: set[str]) -> set[str]:
        """Those directories in which the destination sees what the source puts there."""
        return {directory for directory in sorted(directories) if await self._is_shared(directory)}

    async def _is_shared(self, directory: str) -> bool:
        mark = f"{PREFIX}{self._spec.id}.seen"

        def put(connection: libvirt.virConnect) -> None:
            with pool(connection, directory, self._spec.id) as there:
                if mark not in _volumes(there):
                    _make(there, mark)

        def see(connection: libvirt.virConnect) -> bool:
            with pool(connection, directory, self._spec.id) as there:
                return mark in _volumes(there)

        def take(connection: libvirt.virConnect) -> None:
            with pool(connection, directory, self._spec.id) as there:
                if mark in _volumes(there):
                    there.storageVolLookupByName(mark).delete()

        await self._source.ask(put)
        try:
            return await self._destination.ask(see)
        except HypervisorError as error:
            raise PrepareFailed(
                f"{directory}, where a disk is to be copied to, cannot be used on {self._destination.host}: {error.raw}.",
                hint="Make that directory there, or give the disk another place with --set before it is copied by other means.",
            ) from error
        finally:
            await self._source.ask(take)

    async def _create(self, disk: FileDisk) -> None:
        if disk.format not in COPIED_FORMATS:
            raise PrepareFailed(f"{disk.target} is a {disk.format}; disks that are {' or '.join(COPIED_FORMATS)} can be copied.")
        increment = self._spec.disks is not None and self._spec.disks.how is CopyStorage.INC
        directory, name = _split(disk.path)
        _, mark = _mark(disk.path, self._spec.id)

        def make(connection: libvirt.virConnect) -> bool:
            with pool(connection, directory, self._spec.id) as there:
                if name in _volumes(there):
                    return mark in _volumes(there)
                if mark not in _volumes(there):
                    _make(there, mark)
                _make(there, name, disk.virtual_bytes, disk.format, disk if increment and disk.backing else None)
                return True

        async with self._log.acting(Action.CREATE_DISK, f"{self._destination.host}: {disk.path}"):
            if not await self._destination.ask(make):
                raise PrepareFailed(
                    f"{self._destination.host} has a file {disk.path} already, and it is not the source's.",
                    hint="Look what it is; moved away, it makes place for the copy.",
                )

    async def remove(self, domain: libvirt.virDomain) -> None:
        """Take away what was made on the destination. Called only while nothing there can run."""
        await self._each(domain, self._source, Action.REMOVE_DISKS, _remove)

    async def keep(self, domain: libvirt.virDomain) -> None:
        """What was made on the destination is the guest's now."""
        await self._each(domain, self._destination, Action.KEEP_DISKS, _forget)

    async def _each(
        self,
        domain: libvirt.virDomain,
        home: LibvirtHypervisor,
        action: Action,
        what: Callable[[libvirt.virStoragePool, str, str], None],
    ) -> None:
        """Do something about each file that was made on the destination; found by its mark."""

        def marked(connection: libvirt.virConnect, path: str) -> bool:
            directory, mark = _mark(path, self._spec.id)
            try:
                with pool(connection, directory, self._spec.id) as there:
                    return mark in _volumes(there)
            except libvirt.libvirtError:  # not even the directory is there
                return False

        def act(connection: libvirt.virConnect, path: str) -> None:
            directory, mark = _mark(path, self._spec.id)
            with pool(connection, directory, self._spec.id) as there:
                what(there, _split(path)[1], mark)

        for disk in await home.ask(lambda _: of_domain(domain)):
            path = disk.path
            if await self._destination.ask(functools.partial(marked, path=path)):
                async with self._log.acting(action, f"{self._destination.host}: {path}"):
                    await self._destination.ask(functools.partial(act, path=path))


def _remove(there: libvirt.virStoragePool, name: str, mark: str) -> None:
    if name in _volumes(there):
        there.storageVolLookupByName(name).delete()
    _forget(there, name, mark)


def _forget(there: libvirt.virStoragePool, _: str, mark: str) -> None:
    there.storageVolLookupByName(mark).delete()
