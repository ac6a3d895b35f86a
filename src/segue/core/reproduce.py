"""Bring a command line up to what its guest has now: what was unplugged goes, what was plugged in or changed comes.

Hot-plugged devices are written with the bus and the address that they have, so that nothing depends on the order in which things
came and went. They are written in JSON, in which QEMU takes its own values back as it tells them. What may live here: pure
functions from a command line and a `live.Live` to a command line. What cannot be written is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from segue.core.argv import CommandLine, Option, changed, fields, join_list, to_json
from segue.core.live import GENERATED, Device, Live, Medium
from segue.errors import Unsupported

# Options that are a -drive in another spelling (softmmu/vl.c): their interface, index and medium.
_SHORT: Final = {
    "": {"index": "0"},
    "hda": {"index": "0"},
    "hdb": {"index": "1"},
    "hdc": {"index": "2"},
    "hdd": {"index": "3"},
    "cdrom": {"index": "2", "media": "cdrom"},
    "fda": {"if": "floppy", "index": "0"},
    "fdb": {"if": "floppy", "index": "1"},
    "sd": {"if": "sd", "index": "0"},
    "pflash": {"if": "pflash"},
    "mtdblock": {"if": "mtd"},
}
_DRIVES: Final = (*_SHORT, "drive")
# Places for a medium that a machine has of its own, and how one is put in (softmmu/vl.c, default_drive).
_OWN_PLACES: Final = {
    "ide1-cd0": "if=ide,index=2,media=cdrom",
    "ide2-cd0": "if=ide,index=2,media=cdrom",
    "floppy0": "if=floppy,index=0",
    "sd0": "if=sd,index=0",
}
# Which key of an option names it, and what a device calls it by.
_BACKENDS: Final = {"netdev": "id", "chardev": "id", "object": "id", "blockdev": "node-name"}
# Where a device is on its bus, by the name of the property.
_PLACES: Final = ("addr", "nr", "unit", "scsi-id", "lun", "channel", "port", "slot")
# Properties that tell and do not set, or are set by themselves (hw/mem/pc-dimm.c, hw/usb/bus.c).
_TOLD: Final = frozenset({"size", "attached", "legacy-memdev"})
# What is written of an object that came after the start, by its type; another type is refused where a device needs it.
_OBJECTS: Final = {
    "memory-backend-ram": ("size", "share", "prealloc", "policy", "host-nodes", "merge", "dump"),
    "memory-backend-file": (
        "size",
        "mem-path",
        "share",
        "prealloc",
        "policy",
        "host-nodes",
        "merge",
        "dump",
        "align",
        "discard-data",
    ),
    "memory-backend-memfd": ("size", "share", "prealloc", "policy", "host-nodes", "merge", "dump", "hugetlb", "hugetlbsize"),
    "iothread": ("poll-max-ns", "poll-grow", "poll-shrink"),
    "rng-random": ("filename",),
    "rng-builtin": (),
}
_NETWORK: Final = ("net", "nic", "netdev")
_SUPPRESSORS: Final = ("ide-", "scsi-", "floppy", "isa-fdc")
_PROTOCOLS: Final = ("file", "host_device", "host_cdrom")


@dataclass(frozen=True, slots=True, kw_only=True)
class Property:
    """A property of a device or an object, and its value now.

    Attributes:
        kind: its type in QEMU's words.
        default: what it is when nobody says; ``None`` where QEMU does not tell.
    """

    name: str
    kind: str
    default: object
    value: object


Properties = Mapping[str, Sequence[Property]]
"""By key of a device, or by ``/objects/ID``."""


def wanted(line: CommandLine, live: Live) -> tuple[str, ...]:
    """What has to be known of a guest beyond `live` before its command line can be brought up to date, by its key.

    For a guest of which nothing was plugged in or unplugged that is nothing.
    """
    plugged = [device.key for device in live.devices.values() if device.plugged and device.key not in live.cpus]
    gone = _gone(line, live)
    shaken = [key for key in _keys(line) if key and key not in gone] if gone else []
    given = {found.get("id") for found in line.each("object")}
    objects = [f"/objects/{name}" for name, kind in live.objects.items() if name not in given and kind in _OBJECTS]
    return (*plugged, *shaken, *(objects if plugged else ()))


def reproduced(line: CommandLine, live: Live, properties: Properties) -> CommandLine:
    """The command line of a guest as it is now.

    Args:
        line: as it was started.
        live: what it has now.
        properties: of what `wanted` asked for.

    Raises:
        Unsupported: something in it cannot be written on a command line; with its name and what to do.
    """
    if live.jobs:
        raise Unsupported(
            f"QEMU works on the guest's disks ({', '.join(live.jobs)}), and no other QEMU could go on with that.",
            hint="Wait until it is done, or cancel it (QMP query-block-jobs, block-job-cancel).",
        )
    kept = _with_media(_without_unplugged(line, live, properties), live)
    added = _Added(kept, live, properties)
    for device in _in_order(live, properties):
        added.device(device)
    full = replace(kept, options=(*kept.options, *added.options))
    return replace(full, options=(*full.options, *_defaults(line, full, live)))


def _defaults(line: CommandLine, full: CommandLine, live: Live) -> Iterator[Option]:
    """What QEMU adds by itself, where it would decide otherwise now (softmmu/vl.c, default_net and default_cdrom).

    It adds a network card where no option speaks of any, and drives for media where no option makes a disk of such a kind.
    """
    if line.has("nodefaults"):
        return
    if not line.has(*_NETWORK) and full.has(*_NETWORK):
        yield from (Option(name="net", value="nic"), Option(name="net", value="user"))
    elif line.has(*_NETWORK) and not full.has(*_NETWORK):
        yield Option(name="nic", value="none")
    before = set(line.options)
    drivers = [fields(one).get("driver", "") for one in full.options if one.name == "device" and one not in before]
    if not any(driver.startswith(_SUPPRESSORS) for driver in drivers):
        return
    names = drive_names(full)
    for drive in live.drives:
        if drive.name in ("ide1-cd0", "ide2-cd0", "floppy0") and drive.name not in names:
            yield Option(name="drive", value=_OWN_PLACES[drive.name])


# what went


def _keys(line: CommandLine) -> list[str]:
    """For each option the key of the device that it makes; empty for none.

    Devices without an id are numbered in the order in which QEMU makes them (softmmu/vl.c, qemu_create_cli_devices): those of
    ``-device``, then those of ``-drive if=virtio``, then those of ``-device`` in JSON.
    """
    keys = [""] * len(line.options)
    nameless: list[list[int]] = [[], [], []]
    for position, option in enumerate(line.options):
        found = fields(option)
        if option.name == "device" and "id" in found:
            keys[position] = found["id"]
        elif option.name == "device":
            nameless[2 if (option.value or "").startswith("{") else 0].append(position)
        elif option.name == "drive" and found.get("if") == "virtio":
            nameless[1].append(position)
    for number, position in enumerate(position for group in nameless for position in group):
        keys[position] = f"device[{number}]"
    return keys


def _gone(line: CommandLine, live: Live) -> set[str]:
    """The keys of the devices that were unplugged; one that came back under its name is another one."""
    return {key for key in _keys(line) if key and (key not in live.devices or live.devices[key].plugged)}


def _without_unplugged(line: CommandLine, live: Live, properties: Properties) -> CommandLine:
    gone = _gone(line, live)
    keys = _keys(line)
    kept: list[Option] = []
    for option, key in zip(line.options, keys, strict=True):
        if key in gone:
            continue
        # What was found beside a gap would move up into it.
        kept.append(_placed(option, properties.get(key, ())) if gone and option.name == "device" else option)
    return replace(line, options=tuple(option for option in kept if not _is_unused(option, kept, live)))


def _placed(option: Option, properties: Sequence[Property]) -> Option:
    found = fields(option)
    places = {name: text for name, text in _members(properties, only=("bus", *_PLACES)).items() if name not in found}
    return changed(option, {name: str(text) for name, text in places.items()})


def _is_unused(option: Option, kept: Sequence[Option], live: Live) -> bool:
    """The backend of something that went, and went with it."""
    found = fields(option)
    if option.name == "drive":
        name, is_there = found.get("id", ""), any(drive.name == found.get("id") for drive in live.drives)
    elif option.name in _BACKENDS:
        there: Mapping[str, Mapping[str, object]] = {
            "netdev": live.netdevs,
            "chardev": live.chardevs,
            "object": live.objects,
            "blockdev": live.nodes,
        }
        name = found.get(_BACKENDS[option.name], "")
        is_there = name in there[option.name]
    else:
        return False
    if not name or is_there:
        return False
    return not any(name in fields(other).values() for other in kept if other is not option)


# what changed


def drive_names(line: CommandLine) -> list[str]:
    """For each option the name of the drive that it makes, as QEMU chooses it (blockdev.c, drive_new); empty for none."""
    machine = " ".join([*line.all("machine", "M")])
    per_bus = {"ide": 1 if "q35" in machine else 2, "scsi": 7}
    names: list[str] = []
    taken: set[tuple[str, int, int]] = set()
    for option in line.options:
        if option.name not in _DRIVES:
            names.append("")
            continue
        found = fields(option) if option.name == "drive" else _SHORT[option.name]
        kind = found.get("if", "ide")
        places = per_bus.get(kind, 0)
        bus, unit = int(found.get("bus", 0)), int(found.get("unit", -1))
        if "index" in found:
            bus, unit = divmod(int(found["index"]), places) if places else (0, int(found["index"]))
        while unit < 0 or ("unit" not in found and "index" not in found and (kind, bus, unit) in taken):
            unit += 1
            if places and unit >= places:
                bus, unit = bus + 1, 0
        taken.add((kind, bus, unit))
        medium = ("-cd" if found.get("media") == "cdrom" else "-hd") if kind in per_bus else ""
        names.append(found.get("id") or (f"{kind}{bus}{medium}{unit}" if places else f"{kind}{medium}{unit}"))
    return names


def _with_media(line: CommandLine, live: Live) -> CommandLine:
    """Media that were changed or ejected, and disks that got an overlay."""
    by_name = {drive.name: drive for drive in live.drives if drive.name}
    names, keys = drive_names(line), _keys(line)
    kept: list[Option] = []
    for option, name, key in zip(line.options, names, keys, strict=True):
        drive = by_name.get(name)
        if drive is not None:
            kept.append(_with_medium(option, drive.medium, removable=drive.removable))
        elif option.name == "blockdev":
            kept.append(_with_access(option, live))
        elif option.name == "device" and (on_device := live.drive_of(key)) and not on_device.name:
            kept.extend(_with_node(option, key, on_device.medium, live))
        else:
            kept.append(option)
    for name, place in _OWN_PLACES.items():
        drive = by_name.get(name)
        if drive is not None and drive.medium is not None and name not in names:
            kept.append(Option(name="drive", value=f"{place},{_image(drive.medium)}"))
    return replace(line, options=tuple(kept))


def _with_medium(option: Option, medium: Medium | None, *, removable: bool) -> Option:
    """A ``-drive`` with what is in it now."""
    found = fields(option) if option.name == "drive" else {**_SHORT[option.name], "file": option.value or ""}
    before = found.get("file") or found.get("file.filename")
    if medium is None:
        if before is None or not removable:
            return option
        stays = [(key, text) for key, text in found.items() if not _is_image(key)]
        return Option(name="drive", value=join_list(stays))
    if (before is not None and _as_told(before) == medium.file) or (
        not removable and not (_is_path(medium.file) and before is not None and _is_path(before))
    ):
        return option
    stays = [(key, text) for key, text in found.items() if not _is_image(key)]
    return Option(name="drive", value=",".join(part for part in (join_list(stays), _image(medium)) if part))


def _as_told(file: str) -> str:
    """A file name as QMP tells it, which is JSON: bytes that are no UTF-8 come as U+FFFD (qobject/json-writer.c)."""
    return "".join("\ufffd" if "\udc80" <= char <= "\udcff" else char for char in file)


def _is_image(key: str) -> bool:
    return key.partition(".")[0] in ("file", "format", "driver", "readonly", "read-only", "backing")


def _is_path(file: str) -> bool:
    """Not a URI, nor QEMU's description of something that is no file."""
    return ":" not in file.partition("/")[0]


def _image(medium: Medium) -> str:
    _refuse_untold(medium)
    readonly = [("readonly", "on")] if medium.read_only else []
    return join_list([("file", medium.file), ("format", medium.format), *readonly])


def _refuse_untold(medium: Medium) -> None:
    if "\ufffd" in medium.file:
        raise Unsupported(
            f"The name of the image {medium.file} has bytes that are no UTF-8, and QEMU does not tell which.",
            hint="Rename it, and put it in again under its new name.",
        )


def _with_access(option: Option, live: Live) -> Option:
    """A ``-blockdev`` that may be written to or not, as it is now: what became a base is not written to any more."""
    found = fields(option)
    node = live.nodes.get(found.get("node-name", ""))
    before = found.get("read-only") in ("on", "true", "yes")
    return option if node is None or node.read_only is before else changed(option, {"read-only": node.read_only})


def _with_node(option: Option, key: str, medium: Medium | None, live: Live) -> list[Option]:
    """A ``-device`` whose medium is a node of its own, with what is in it now."""
    before = fields(option).get("drive")
    if medium is None:
        return [changed(option, {"drive": None})] if before is not None else [option]
    if before == medium.node:
        return [option]
    name = _node_name(key, medium)
    return [_blockdev(name, medium, live), changed(option, {"drive": name})]


def _node_name(key: str, medium: Medium) -> str:
    """The name of a node; one that QEMU made up is none, and no command line may use it."""
    if not medium.node.startswith(GENERATED):
        return medium.node
    return "segue-" + key.replace("[", "").replace("]", "")


def _blockdev(name: str, medium: Medium, live: Live) -> Option:
    _refuse_untold(medium)
    members: dict[str, object] = {"node-name": name, "read-only": medium.read_only}
    if medium.cache.get("direct") or medium.cache.get("no-flush"):
        members["cache"] = {key: medium.cache.get(key, False) for key in ("direct", "no-flush")}
    if medium.file.startswith("json:"):
        members = {**json.loads(medium.file.removeprefix("json:")), **members}
    elif not _is_path(medium.file):
        raise Unsupported(
            f"The disk {name} ({medium.file}) came after the guest was started, and Segue cannot write it on a command line.",
            hint="Unplug it, or start the guest with it.",
        )
    elif medium.format in _PROTOCOLS:
        members |= {"driver": medium.format, "filename": medium.file}
    else:
        protocol = "host_device" if medium.file.startswith("/dev/") else "file"
        members |= {"driver": medium.format, "file": {"driver": protocol, "filename": medium.file}}
        base = [node.node for node in live.nodes.values() if node.file in medium.backing[:1] and node.format not in _PROTOCOLS]
        if base and not base[0].startswith(GENERATED):
            members["backing"] = base[0]
    return Option(name="blockdev", value=to_json(members))


# what came


def _in_order(live: Live, properties: Properties) -> list[Device]:
    """Hot-plugged devices, each after the one whose bus it is on."""

    def depth(device: Device, seen: frozenset[str] = frozenset()) -> int:
        bus = next((str(one.value) for one in properties.get(device.key, ()) if one.name == "parent_bus"), "")
        below = [one for one in live.devices.values() if one.key not in seen and bus.startswith(f"{one.path}/")]
        return 1 + max((depth(one, seen | {device.key}) for one in below), default=0)

    return sorted((device for device in live.devices.values() if device.plugged), key=lambda device: (depth(device), device.key))


def _members(properties: Sequence[Property], only: Sequence[str] = ()) -> dict[str, object]:
    """What has to be said of a device so that another one becomes the same: what is not as it is by itself."""
    members: dict[str, object] = {}
    for one in properties:
        name, value = one.name, one.value
        if name == "parent_bus":
            name, value = "bus", str(value).rpartition("/")[2]
        elif name in _TOLD or one.kind.startswith("child<") or value == one.default or (name == "bootindex" and value == -1):
            continue
        elif one.kind.startswith("link<"):
            value = str(value).rpartition("/")[2]
        elif name == "addr" and one.kind == "int32" and isinstance(value, int):  # of PCI: eight devices of eight functions
            value = f"{value >> 3:02x}.{value & 7:x}"
        if value not in ("", None) and (not only or name in only):
            members[name] = value
    return members


class _Added:
    """The options of what was plugged in, backends before the devices that use them."""

    def __init__(self, line: CommandLine, live: Live, properties: Properties) -> None:
        self._live = live
        self._properties = properties
        self._said = {name for option in line.options for name in self._names(option)}
        self.options: list[Option] = []

    @staticmethod
    def _names(option: Option) -> list[str]:
        found = fields(option)
        keys = (*((_BACKENDS[option.name],) if option.name in _BACKENDS else ()), *(("id",) if option.name == "drive" else ()))
        return [found[key] for key in keys if key in found]

    def device(self, device: Device) -> None:
        """Add a device and what it needs."""
        members: dict[str, object] = {"driver": device.driver}
        if not device.key.startswith("device["):
            members["id"] = device.key
        if device.key in self._live.cpus:
            slot = self._live.cpus[device.key]
            members |= {name: value for name, value in slot.items() if name != "node-id"}
        else:
            properties = self._properties.get(device.key, ())
            found = _members(properties)
            for one in properties:
                if one.name in found:
                    found[one.name] = self._backend(device, one, str(found[one.name])) or found[one.name]
            members |= found
        self.options.append(Option(name="device", value=to_json(members)))

    def _backend(self, device: Device, one: Property, name: str) -> str:
        """Add the backend that a property names, unless it is there; the name that it has on the command line."""
        if one.kind.startswith("link<"):
            return self._once(name, self._object, device) if str(one.value).startswith("/objects/") else ""
        add = {"drive": self._drive, "netdev": self._netdev, "chardev": self._chardev}.get(one.name)
        return self._once(name, add, device) if add else ""

    def _once(self, name: str, add: _Adding, device: Device) -> str:
        if name in self._said:
            return name
        option = add(device, name)
        said = next(iter(self._names(option)), name)
        self._said.add(said)
        self.options.append(option)
        return said

    def _drive(self, device: Device, name: str) -> Option:
        drive = next((drive for drive in self._live.drives if drive.name == name), None)
        if drive is not None and drive.medium is not None:
            return Option(name="drive", value=f"if=none,{join_list([('id', name)])},{_image(drive.medium)}")
        node = self._live.nodes.get(name)
        if node is None:
            raise self._cannot(device, f"its disk {name}")
        return _blockdev(_node_name(device.key, node), node, self._live)

    def _netdev(self, device: Device, name: str) -> Option:
        kind, rest = self._live.netdevs.get(name, ("", ""))
        told = dict(part.split("=", 1) for part in rest.split(",") if "=" in part)
        keep = {"user": ("net", "restrict"), "tap": ("ifname", "script", "downscript"), "bridge": ("br",)}.get(kind)
        helper = kind == "tap" and "helper" in told  # net/tap.c: what a bridge's helper opened has no name to open it by
        if keep is None or helper:
            raise self._cannot(device, f"its network {name} ({kind or 'unknown'})")
        pairs = [("", kind), ("id", name), *((key, told[key]) for key in keep if key in told)]
        return Option(name="netdev", value=join_list(pairs))

    def _chardev(self, device: Device, name: str) -> Option:
        told = self._live.chardevs.get(name, "").removeprefix("disconnected:")
        scheme, _, rest = told.partition(":")
        if told in ("null", "ringbuf", "vc"):
            return Option(name="chardev", value=join_list([("", told), ("id", name)]))
        if scheme == "unix" and rest.endswith(",server=on"):
            path = rest.removesuffix(",server=on")
            pairs = [("", "socket"), ("id", name), ("path", path), ("server", "on"), ("wait", "off")]
            return Option(name="chardev", value=join_list(pairs))
        raise self._cannot(device, f"its character device {name} ({told or 'unknown'})")

    def _object(self, device: Device, name: str) -> Option:
        kind = self._live.objects.get(name, "")
        if kind not in _OBJECTS:
            raise self._cannot(device, f"the object {name} ({kind or 'unknown'})")
        known = {one.name: one.value for one in self._properties.get(f"/objects/{name}", ())}
        values = {key: known[key] for key in _OBJECTS[kind] if known.get(key) not in (None, "", [])}
        return Option(name="object", value=to_json({"qom-type": kind, "id": name, **values}))

    @staticmethod
    def _cannot(device: Device, what: str) -> Unsupported:
        return Unsupported(
            f"{device.driver} {device.key} was plugged in after the guest was started, and Segue cannot write {what} "
            "on a command line.",
            hint="Unplug it, or start the guest with it.",
        )


_Adding = Callable[[Device, str], Option]
