"""The guest as it is to be on the destination, where that was asked to be another: what of it is looked for there.

What may live here: what was asked for → changed `Parts`.
"""

from __future__ import annotations

from dataclasses import replace

from segue.core import domxml
from segue.core.model import DriverKind, MigrationSpec
from segue.core.preflight import domain, nics
from segue.core.preflight.facts import DiskPart, Kind, Nic, Part, Parts

_DISK = "disk."
_NIC = "nic."
_GRAPHICS = "graphics."


def as_asked(spec: MigrationSpec, parts: Parts) -> Parts:
    """What the guest is made of, with its files, NICs and displays as they are to be on the destination.

    Args:
        spec: ``overrides`` of a bare QEMU, or the definition that a libvirt guest is to have there.
        parts: as the guest is.
    """
    if spec.libvirt.xml:
        try:
            there = domain.read(spec.libvirt.xml)
        except ValueError:  # libvirt will say what is wrong with it
            return parts
        return replace(parts, devices=there.devices, disks=there.disks, nics=there.nics, files=there.files)
    asked = dict(spec.overrides)
    disks = tuple(_disk(disk, asked) for disk in parts.disks)
    devices = tuple(_display(part, asked) for part in parts.devices if not _is_another(part, asked))
    bare = spec.driver is DriverKind.QEMU
    return replace(
        parts,
        disks=disks,
        devices=devices,
        nics=tuple(_nic(nic, number, asked, bare=bare) for number, nic in enumerate(parts.nics)),
    )


def _disk(disk: DiskPart, asked: dict[str, str]) -> DiskPart:
    path = asked.get(f"{_DISK}{disk.name}") or asked.get(f"{_DISK}{disk.path}")
    return replace(disk, path=path) if path else disk


def _nic(nic: Nic, number: int, asked: dict[str, str], *, bare: bool) -> Nic:
    """A NIC of a bare QEMU is called by its id, and has another backend; one of libvirt's by more, and has another place."""
    names = (nic.name,) if bare else (str(number), nic.target, nic.mac)
    value = next((asked[f"{_NIC}{name}"] for name in names if name and f"{_NIC}{name}" in asked), "")
    if not value:
        return nic
    return nics.elsewhere(nic, value) if bare else replace(nic, into=value)


def _display(part: Part, asked: dict[str, str]) -> Part:
    value = asked.get(f"{_GRAPHICS}{part.name}", "")
    if part.kind not in (Kind.VNC, Kind.SPICE) or not value:
        return part
    address, port = domxml.listens_at(value)
    return replace(part, listens=address, ports=(int(port),) if port else part.ports)


def _is_another(part: Part, asked: dict[str, str]) -> bool:
    return part.kind is Kind.VNC and "vnc" in asked
