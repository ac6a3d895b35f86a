"""Compare what two QEMUs are made of: devices and where they are, their properties, CPUs, memory, media.

Migration data names devices by where they are, so a destination that differs fails after everything was sent, or worse, does not.
What may live here: QMP answers → a `Shape`, and two shapes → their differences in words. Nobody is asked.

The devices are those of ``info qtree``: one answer with every device on every bus and all its properties. Its lines are for
people, and one that is not understood is not compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from segue.core.live import GENERATED, Answers, Device, Drive, drives

_LINE: Final = re.compile(
    r'^( *)(?:bus: (?P<bus>.*)|dev: (?P<driver>.*), id "(?P<id>.*)"|(?P<name>[\w.-]+) = (?P<value>.*)'
    r"|addr [\d.]+, port (?P<port>[\d.]+), .*)$"
)
_IN_OTHER_WORDS: Final = re.compile(r"^(-?\d+) \(.*\)$")
# What says where a device is on its bus, the first that it has.
_PLACES: Final = ("addr", "nr", "unit", "scsi-id", "port")
# Buses of a machine's own parts, which another release may build in another way (as devices, or not).
_OF_THE_MACHINE: Final = ("main-system-bus", "isa.0", "i2c")
# Properties that tell what the guest has set (hw/pci/pcie_host.c, hw/acpi/piix4.c): that comes with its memory.
_STATE: Final = frozenset({"MCFG", "smb_io_base"})
# What QEMU makes up from a disk's size when it starts (hw/block/block.c, blkconf_geometry); after a resize that is another one.
_MADE_UP: Final = frozenset({"cyls", "heads", "secs"})
_TOO_MANY: Final = 8
"""More differences than anybody reads: then it is another machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A device on a bus.

    Attributes:
        driver, identity: its type and its id.
        bus: the name of the bus.
        where: its place there, in words.
        properties: all that it tells.
    """

    driver: str
    identity: str
    bus: str
    where: str
    properties: Mapping[str, str]

    @property
    def name(self) -> str:
        """For people."""
        named = f"{self.driver} {self.identity}" if self.identity else self.driver
        return f"{named} ({self.bus}{f', {self.where}' if self.where else ''})"

    @property
    def is_of_the_machine(self) -> bool:
        """Part of the machine, which nobody asked for."""
        return not self.identity and self.bus in _OF_THE_MACHINE


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a QEMU is made of.

    Attributes:
        version: major and minor.
        devices: by their way from the root.
        plugged: CPUs and memory modules that are in, in words.
        features: CPUID words of the first CPU, by leaf and register.
    """

    version: tuple[int, int]
    devices: Mapping[tuple[str, ...], Found]
    plugged: frozenset[str]
    features: Mapping[str, int]


def shape(answers: Answers, *, files: Mapping[str, str] | None = None) -> Shape:
    """What a QEMU is made of.

    Args:
        answers: by command; ``qtree`` is the text of ``info qtree``, ``feature-words`` the property of the first CPU.
        files: what a disk's file is called on the other host, where it is not called the same.
    """
    media = {}
    for drive in drives(answers.get("query-block")):
        for name in (drive.name, drive.medium.node if drive.medium else ""):
            media[name] = _contents(drive, files or {})
    version = answers.get("query-version")
    qemu = version.get("qemu", {}) if isinstance(version, Mapping) else {}
    return Shape(
        version=(qemu.get("major", 0), qemu.get("minor", 0)),
        devices=dict(_tree(str(answers.get("qtree", "")), media)),
        plugged=frozenset((*_slots(answers), *_modules(answers))),
        features=dict(_features(answers.get("feature-words"))),
    )


def _contents(drive: Drive, files: Mapping[str, str]) -> str:
    if drive.medium is None:
        return "nothing"
    medium = drive.medium
    access = "read-only" if medium.read_only else "writable"
    return f"{files.get(medium.file, medium.file)} ({medium.format}, {medium.size_bytes} bytes, {access})"


def _slots(answers: Answers) -> Iterator[str]:
    answer = answers.get("query-hotpluggable-cpus")
    for slot in answer if isinstance(answer, list) else []:
        if "qom-path" in slot:
            props = ", ".join(f"{key} {value}" for key, value in sorted(slot["props"].items()) if key != "node-id")
            yield f"CPU ({slot['type']}, {props})"


def _modules(answers: Answers) -> Iterator[str]:
    answer = answers.get("query-memory-devices")
    for one in answer if isinstance(answer, list) else []:
        data = one["data"]
        place = ", ".join(f"{key} {data[key]}" for key in ("slot", "node", "addr", "size") if key in data)
        yield f"memory {one['type']} {data.get('id', '')} ({place})"


def _features(answer: object) -> Iterator[tuple[str, int]]:
    for word in answer if isinstance(answer, list) else []:
        leaf = f"{word['cpuid-input-eax']:#x}"
        inner = f".{word['cpuid-input-ecx']}" if "cpuid-input-ecx" in word else ""
        yield f"{leaf}{inner} {word['cpuid-register']}", word["features"]


@dataclass(slots=True)
class _Open:
    """A device whose lines are still being read."""

    depth: int
    bus: str
    driver: str
    identity: str
    properties: dict[str, str]
    children: list[_Open]


def _tree(text: str, media: Mapping[str, str]) -> Iterator[tuple[tuple[str, ...], Found]]:
    root = _Open(depth=-1, bus="", driver="", identity="", properties={}, children=[])
    above, buses = [root], {-1: ""}
    for line in text.splitlines():
        found = _LINE.match(line)
        if found is None:
            continue
        depth = len(found[1])
        if found["bus"] is not None:
            buses[depth] = found["bus"]
        elif found["driver"] is not None:
            while above[-1].depth >= depth:
                above.pop()
            device = _Open(
                depth=depth,
                bus=buses.get(depth - 2, ""),
                driver=found["driver"],
                identity=found["id"],
                properties={},
                children=[],
            )
            above[-1].children.append(device)
            above.append(device)
        elif found["port"] is not None:  # of USB: the property only says what was asked for
            above[-1].properties["port"] = found["port"]
        else:
            value = _IN_OTHER_WORDS.sub(r"\1", found["value"])
            above[-1].properties[found["name"]] = _settled(found["name"], value, media)
    yield from _placed(root, ())


def _settled(name: str, value: str, media: Mapping[str, str]) -> str:
    """A value without what is different each time: names that QEMU makes up."""
    text = value.strip('"')
    if name == "drive" and text:
        return media.get(text, text)
    return GENERATED if text.startswith(GENERATED) else value


def _placed(parent: _Open, way: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Found]]:
    alike: dict[tuple[str, str], int] = {}
    for device in reversed(parent.children):  # QEMU lists the newest first
        where = next((f"{key} {device.properties[key]}" for key in _PLACES if device.properties.get(key, '""') != '""'), "")
        step = where
        if not where:
            kind = (device.bus, f"{device.driver} {device.identity}")
            alike[kind] = alike.get(kind, 0) + 1
            step = f"{kind[1]} {alike[kind]}"
        here = (*way, device.bus, step)
        yield (
            here,
            Found(
                driver=device.driver,
                identity=device.identity,
                bus=device.bus,
                where=where,
                properties=device.properties,
            ),
        )
        yield from _placed(device, here)


def usb_ports(found: Shape, known: Mapping[str, Device]) -> dict[str, str]:
    """The ports of the USB devices that somebody asked for, by key; those without an id are told apart by their order."""
    usb = [device for device in found.devices.values() if device.where.startswith("port ")]
    ports = {device.identity: device.properties["port"] for device in usb if device.identity}
    for key, device in sorted(known.items(), key=lambda pair: (len(pair[0]), pair[0])):  # device[9] before device[10]
        alike = [one for one in usb if not one.identity and one.driver == device.driver]
        if key.startswith("device[") and alike:
            ports[key] = alike[0].properties["port"]
            usb.remove(alike[0])
    return ports


def differences(source: Shape, destination: Shape, *, names: tuple[str, str]) -> tuple[str, ...]:
    """What would make the destination another machine than the source, each as a clause; nothing when it is the same.

    Between two releases of QEMU the parts of the machine itself are left out: with one machine type they are made to be
    compatible, whatever they are built of. A property that only one of them has is left out for the same reason. A CPU that can
    more is the same.

    Args:
        source: what the guest is.
        destination: what is to become the guest.
        names: of both hosts.
    """
    same_release = source.version == destination.version
    said = [*_different_devices(source, destination, names, same_release=same_release)]
    said += [f"{names[0]} has {what}, {names[1]} has not" for what in sorted(source.plugged - destination.plugged)]
    said += [f"{names[1]} has {what}, {names[0]} has not" for what in sorted(destination.plugged - source.plugged)]
    for leaf, bits in source.features.items():
        lacking = bits & ~destination.features.get(leaf, bits)
        if lacking:
            said.append(f"the CPU on {names[1]} lacks what the guest sees on {names[0]}: bits {lacking:#x} of CPUID {leaf}")
    return tuple(said[:_TOO_MANY])


def _different_devices(source: Shape, destination: Shape, names: tuple[str, str], *, same_release: bool) -> Iterator[str]:
    for way in dict.fromkeys((*source.devices, *destination.devices)):
        here, there = source.devices.get(way), destination.devices.get(way)
        if not same_release and all(one is None or one.is_of_the_machine for one in (here, there)):
            continue
        if here is None or there is None:
            device = here or there
            if device is not None:
                yield f"{names[0 if here else 1]} has {device.name}, {names[1 if here else 0]} has not"
        elif (here.driver, here.identity) != (there.driver, there.identity):
            yield f"{names[0]} has {here.name} where {names[1]} has {there.name}"
        else:
            compared = {} if here.is_of_the_machine else here.properties
            for key, value in compared.items():
                other = there.properties.get(key, value)
                if other != value and key not in _STATE | _MADE_UP:
                    yield f"{key} of {here.name} is {value} on {names[0]} and {other} on {names[1]}"
