"""The guest as it is to be on the destination, where that was asked to be another: what of it is looked for there.

What may live here: what was asked for → changed `Parts`.
"""

from __future__ import annotations

from dataclasses import replace

from segue.core.model import MigrationSpec
from segue.core.preflight import domain
from segue.core.preflight.facts import DiskPart, Kind, Part, Parts

_DISK = "disk."


def as_asked(spec: MigrationSpec, parts: Parts) -> Parts:
    """What the guest is made of, with its files and displays as they are to be on the destination.

    Args:
        spec: ``overrides`` of a bare QEMU, or the definition that a libvirt guest is to have there.
        parts: as the guest is.
    """
    if spec.libvirt.xml:
        try:
            there = domain.read(spec.libvirt.xml)
        except ValueError:  # libvirt will say what is wrong with it
            return parts
        return replace(parts, devices=there.devices, disks=there.disks, files=there.files)
    asked = dict(spec.overrides)
    disks = tuple(_disk(disk, asked) for disk in parts.disks)
    devices = tuple(part for part in parts.devices if not _is_another(part, asked))
    return replace(parts, disks=disks, devices=devices)


def _disk(disk: DiskPart, asked: dict[str, str]) -> DiskPart:
    path = asked.get(f"{_DISK}{disk.name}") or asked.get(f"{_DISK}{disk.path}")
    return replace(disk, path=path) if path else disk


def _is_another(part: Part, asked: dict[str, str]) -> bool:
    return part.kind is Kind.VNC and "vnc" in asked
