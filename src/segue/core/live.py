"""What a running QEMU has now, read from its answers. What may live here: QMP answers → frozen values; nobody is asked.

A command line says how a guest began. Since then devices may have come and gone, media changed, disks been snapshotted: these are
the answers that know. The shapes are QEMU 7.2's (qapi/*.json); what newer ones add is not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

Answers = Mapping[str, object]

_DEVICE: Final = re.compile(r"/machine/peripheral(?:-anon)?/([^/]+)")
_NETDEV: Final = re.compile(r"^(?: \\ )?([^\s:][^:]*): index=\d+,type=(\w[\w-]*)(?:,(.*?))?\r?$", re.MULTILINE)
GENERATED: Final = "#"
"""Begins the names that QEMU makes up for what was not given one (block.c, id_generate); no name that was given begins so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device that somebody asked for, at the start or since.

    Attributes:
        key: its id; ``device[N]`` for one without.
        path: where it is in QEMU's object tree.
        driver: its type.
        plugged: it came after the start.
    """

    key: str
    path: str
    driver: str
    plugged: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Medium:
    """An image that is open.

    Attributes:
        node: the name of its node.
        format: its block driver.
        file: its file name, or URI, as QEMU tells it.
        read_only: for the guest.
        size_bytes: as the guest sees it; ``None`` where QEMU does not say.
        backing: the files under it.
        cache: QEMU's three switches.
    """

    node: str
    format: str
    file: str
    read_only: bool
    size_bytes: int | None
    backing: tuple[str, ...]
    cache: Mapping[str, bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drive:
    """A place for a medium, as ``query-block`` lists it.

    Attributes:
        name: of the ``-drive``; empty where there is none.
        device: the key of the device that has it; empty for one that the machine brings, or none.
        removable: the medium can be changed.
        medium: what is in it.
    """

    name: str
    device: str
    removable: bool
    medium: Medium | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What a guest has now.

    Attributes:
        devices: that somebody asked for, by key.
        drives: places for media.
        nodes: open images, by the name of their node.
        chardevs: what each is, by its label.
        netdevs: type and the rest of what is told, by id.
        objects: types, by id.
        cpu_type: of its CPUs; empty where QEMU does not tell.
        cpus: where the CPUs are that came as devices, by key.
        jobs: that work on its disks, in words.
        vnc: it serves VNC.
    """

    devices: Mapping[str, Device]
    drives: tuple[Drive, ...]
    nodes: Mapping[str, Medium]
    chardevs: Mapping[str, str]
    netdevs: Mapping[str, tuple[str, str]]
    objects: Mapping[str, str]
    cpu_type: str
    cpus: Mapping[str, Mapping[str, object]]
    jobs: tuple[str, ...]
    vnc: bool = False

    def drive_of(self, key: str) -> Drive | None:
        """The place for a medium that a device has."""
        return next((drive for drive in self.drives if drive.device == key), None)


def _list(answer: object) -> list[Mapping[str, object]]:
    return [one for one in answer if isinstance(one, Mapping)] if isinstance(answer, Sequence) else []


def _map(answer: object) -> Mapping[str, object]:
    return answer if isinstance(answer, Mapping) else {}


def children(answer: object) -> dict[str, str]:
    """Names and types of the children in an answer of ``qom-list``."""
    found = {str(one.get("name")): str(one.get("type")) for one in _list(answer)}
    return {name: kind[len("child<") : -1] for name, kind in found.items() if kind.startswith("child<")}


def device_paths(answers: Answers) -> dict[str, tuple[str, str]]:
    """Key → path and type of every device that somebody asked for."""
    return {
        key: (f"/machine/{branch}/{key}", kind)
        for branch in ("peripheral", "peripheral-anon")
        for key, kind in children(answers.get(branch)).items()
    }


def medium(answer: Mapping[str, object]) -> Medium:
    """An open image, from ``inserted`` of ``query-block`` or an entry of ``query-named-block-nodes``."""
    image = _map(answer.get("image"))
    backing: list[str] = []
    below = _map(image.get("backing-image"))
    while below:
        backing.append(str(below.get("filename")))
        below = _map(below.get("backing-image"))
    size = image.get("virtual-size")
    return Medium(
        node=str(answer.get("node-name", "")),
        format=str(answer.get("drv", "")),
        file=str(answer.get("file", "")),
        read_only=answer.get("ro") is True,
        size_bytes=size if isinstance(size, int) else None,
        backing=tuple(backing),
        cache={key: value is True for key, value in _map(answer.get("cache")).items()},
    )


def drives(answer: object) -> tuple[Drive, ...]:
    """Every place for a medium, from ``query-block``."""
    return tuple(
        Drive(
            name=str(one.get("device", "")),
            device=_device_key(str(one.get("qdev", ""))),
            removable=one.get("removable") is True,
            medium=medium(_map(one["inserted"])) if "inserted" in one else None,
        )
        for one in _list(answer)
    )


def _device_key(qdev: str) -> str:
    found = _DEVICE.match(qdev)
    return found[1] if found else "" if qdev.startswith("/") else qdev


def read(answers: Answers, plugged: Mapping[str, bool]) -> Live:
    """What a guest has now.

    Args:
        answers: by command; ``peripheral``, ``peripheral-anon`` and ``objects`` are those of ``qom-list``, ``network`` is the
            text of ``info network``.
        plugged: by key of a device: its property ``hotplugged``.
    """
    slots = _list(answers.get("query-hotpluggable-cpus"))
    return Live(
        devices={
            key: Device(key=key, path=path, driver=kind, plugged=plugged.get(key, False))
            for key, (path, kind) in device_paths(answers).items()
        },
        drives=drives(answers.get("query-block")),
        nodes={found.node: found for found in map(medium, _list(answers.get("query-named-block-nodes")))},
        chardevs={str(one.get("label")): str(one.get("filename")) for one in _list(answers.get("query-chardev"))},
        netdevs={name: (kind, rest) for name, kind, rest in _NETDEV.findall(str(answers.get("network", "")))},
        objects=children(answers.get("objects")),
        cpu_type=next((str(slot.get("type")) for slot in slots), ""),
        cpus={key: _map(slot.get("props")) for slot in slots if (key := _device_key(str(slot.get("qom-path", "/"))))},
        jobs=tuple(f"{job.get('type')} of {job.get('device')}" for job in _list(answers.get("query-block-jobs"))),
        vnc=_map(answers.get("query-vnc")).get("enabled") is True,
    )
