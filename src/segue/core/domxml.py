"""libvirt's domain XML: given other places in parts, compared with the machine that a guest sees, and what travels hidden in it.

A running guest sees a machine; what would change that on the way (libvirt, virDomainDefCheckABIStability) is refused here part by
part, before anything is touched. What only the host sees may be another on the destination: the files of disks, the networks
behind NICs, where displays listen.

What may live here: pure functions from XML to XML or to words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from lxml import etree

from segue.errors import RefusedError, Unsupported

CARRIED_URI: Final = "urn:segue:carried:1"
"""The XML namespace of what travels in a definition's metadata."""
CARRIED_KEY: Final = "segue"

_CHECKED: Final = ("name", "uuid", "memory", "currentMemory", "vcpu", "os/type", "features", "cpu", "clock")
"""Outside the devices the guest sees these; the rest (tuning, labels, what happens on a crash) is the host's."""
_UNSEEN: Final = {
    "disk": {"source", "driver", "backingStore", "mirror", "iotune", "auth", "encryption", "alias", "blockio", "transient"},
    "interface": {
        "source",
        "target",
        "virtualport",
        "bandwidth",
        "filterref",
        "backend",
        "driver",
        "link",
        "alias",
        "guest",
        "script",
    },
    "": {"source", "alias", "log", "seclabel", "protocol", "backend", "driver", "target"},
}
"""What of a device the guest does not see."""
_HOSTS_OWN: Final = frozenset({"emulator", "graphics", "audio"})
"""Devices of the host."""
_TYPE_UNSEEN: Final = frozenset({"disk", "interface", "serial", "parallel", "console", "channel"})
"""Devices whose ``type`` says what is behind them."""
_KIB: Final = {"b": 1 / 1024, "bytes": 1 / 1024, "k": 1, "kib": 1, "m": 1024, "mib": 1024, "g": 1 << 20, "gib": 1 << 20}


def parsed(xml: str, what: str) -> etree._Element:
    """A definition as a tree.

    Raises:
        RefusedError: it is none.
    """
    try:
        root = etree.fromstring(xml.encode(), etree.XMLParser(resolve_entities=False, remove_blank_text=True))
    except (etree.XMLSyntaxError, ValueError) as error:
        raise RefusedError(f"{what} is no XML: {error}.") from None
    if root.tag != "domain":
        raise RefusedError(f"{what} is no definition of a guest: it begins with <{root.tag}>.")
    return root


def identity(xml: str) -> str:
    """The guest's UUID; empty where the definition leaves it open."""
    return parsed(xml, "What was given").findtext("uuid") or ""


def nvram(xml: str) -> str:
    """The file of its UEFI variables; empty without one."""
    return parsed(xml, "The guest's definition").findtext("os/nvram") or ""


# --- other places in parts


def changed(xml: str, overrides: Sequence[tuple[str, str]]) -> str:
    """The definition with other places in it.

    Args:
        xml: a guest's definition.
        overrides: parts with their values: ``disk.TARGET`` and a file or a block device, ``nic.TARGET``, ``nic.MAC`` or
            ``nic.N`` (from 0) and a bridge or network, ``graphics.TYPE`` and ``ADDRESS[:PORT]``.

    Raises:
        Unsupported: parts that are not there; those that there are, are named.
    """
    root = parsed(xml, "The guest's definition")
    parts = dict(_parts(root))
    if missing := [part for part, _ in overrides if part not in parts]:
        raise Unsupported(
            f"The guest has no part {' and no part '.join(map(repr, missing))}.",
            hint=f"It has {', '.join(parts) or 'none that can be changed'}.",
        )
    for part, value in overrides:
        device = parts[part]
        _CHANGES[str(device.tag)](device, value)
    return etree.tostring(root, encoding="unicode")


def _parts(root: etree._Element) -> Iterator[tuple[str, etree._Element]]:
    """What can have another place, with all its names."""
    for disk in root.iterfind("devices/disk"):
        if (target := disk.find("target")) is not None:
            yield f"disk.{target.get('dev')}", disk
    for number, nic in enumerate(root.iterfind("devices/interface")):
        target, mac = nic.find("target"), nic.find("mac")
        yield f"nic.{number}", nic
        if target is not None and target.get("dev"):
            yield f"nic.{target.get('dev')}", nic
        if mac is not None:
            yield f"nic.{mac.get('address')}", nic
    for graphics in root.iterfind("devices/graphics"):
        yield f"graphics.{graphics.get('type')}", graphics


def _place_disk(disk: etree._Element, value: str) -> None:
    kind = "block" if value.startswith("/dev/") else "file"
    attribute = {"block": "dev", "file": "file"}[kind]
    source = disk.find("source")
    place = 0 if source is None else disk.index(source)
    new = etree.Element("source", {attribute: value})
    if source is not None:
        new.extend([child for child in source if child.tag in ("seclabel", "encryption", "reservations")])
        disk.remove(source)
    disk.insert(place, new)
    disk.set("type", kind)


_SOURCE_OF: Final = {"bridge": "bridge", "network": "network", "direct": "dev"}


def _place_nic(nic: etree._Element, value: str) -> None:
    kind = nic.get("type", "")
    source = nic.find("source")
    if kind not in _SOURCE_OF or source is None:
        raise Unsupported(f"A NIC of type {kind!r} has no place that could be another.", hint="Use --xml.")
    for name in ("portid", "bridge", "network", "dev"):
        if name in source.attrib:
            del source.attrib[name]
    source.set(_SOURCE_OF[kind], value)


def listens_at(value: str) -> tuple[str, str]:
    """``ADDRESS[:PORT]`` in its parts; the port is empty where none was said."""
    address, colon, port = value.rpartition(":")
    if not colon or not port.isdigit() or (value.count(":") > 1 and not address.startswith("[")):
        address, port = value, ""
    return address.strip("[]"), port


def _place_graphics(graphics: etree._Element, value: str) -> None:
    address, port = listens_at(value)
    for listen in graphics.findall("listen"):
        graphics.remove(listen)
    graphics.insert(0, etree.Element("listen", type="address", address=address))
    graphics.set("listen", address)
    if port:
        graphics.set("port", port)
        graphics.set("autoport", "no")


_CHANGES: Final = {"disk": _place_disk, "interface": _place_nic, "graphics": _place_graphics}


def flattened(xml: str, targets: Sequence[str]) -> str:
    """The definition with nothing below the files of these disks."""
    root = parsed(xml, "The guest's definition")
    for disk in root.iterfind("devices/disk"):
        if _target(disk) in targets:
            for below in disk.findall("backingStore"):
                below.getparent().remove(below)  # type: ignore[union-attr]  # it was found below its parent
            disk.append(etree.Element("backingStore"))
    return etree.tostring(root, encoding="unicode")


# --- compared


def differences(own: str, wanted: str, *, arrives_as: str) -> tuple[str, ...]:
    """What of a running guest's machine another definition would change, each in words; empty when nothing.

    What `wanted` leaves out libvirt fills in as it did before; a device that is left out is a change.

    Args:
        own: the definition that it runs with (``virsh dumpxml --migratable``).
        wanted: the other one.
        arrives_as: the name that it is to have.

    Raises:
        RefusedError: one of them is no definition.
    """
    here, there = parsed(own, "The guest's definition"), parsed(wanted, "What was given with --xml")
    found: list[str] = []
    for path in _CHECKED:
        before, after = here.find(path), there.find(path)
        if path == "name":
            if after is not None and (after.text or "") not in (arrives_as, before.text if before is not None else ""):
                found.append(f"name: {after.text} instead of {arrives_as}; use --rename")
        elif before is not None and after is not None:
            found += _compare(path, before, after, frozenset())
    return (*found, *_devices(here, there))


def _devices(here: etree._Element, there: etree._Element) -> Iterator[str]:
    tags = dict.fromkeys(
        str(device.tag)
        for root in (here, there)
        for device in root.iterfind("devices/*")
        if isinstance(device.tag, str) and device.tag not in _HOSTS_OWN
    )
    for tag in tags:
        before, after = list(here.iterfind(f"devices/{tag}")), list(there.iterfind(f"devices/{tag}"))
        if len(before) != len(after):
            yield f"devices/{tag}: {len(after)} instead of {len(before)}"
            continue
        for number, (one, other) in enumerate(_paired(tag, before, after), 1):
            path = f"devices/{tag}[{number}]" if len(before) > 1 else f"devices/{tag}"
            yield from _compare(path, one, other, frozenset(_UNSEEN.get(tag, _UNSEEN[""])), own_type=tag not in _TYPE_UNSEEN)


def _paired(
    tag: str, before: list[etree._Element], after: list[etree._Element]
) -> Iterable[tuple[etree._Element, etree._Element]]:
    """Each device with its other self: disks by their targets, whatever the order."""
    if tag == "disk":
        by_target = {_target(disk): disk for disk in after}
        if set(by_target) == {_target(disk) for disk in before}:
            return [(disk, by_target[_target(disk)]) for disk in before]
    return zip(before, after, strict=True)


def _target(disk: etree._Element) -> str:
    target = disk.find("target")
    return "" if target is None else target.get("dev", "")


def _compare(
    path: str, before: etree._Element, after: etree._Element, unseen: frozenset[str], *, own_type: bool = True
) -> Iterator[str]:
    """The differences between two elements; what `after` does not say is no difference."""
    if path in ("memory", "currentMemory"):
        if _kib(before) != _kib(after):
            yield f"{path}: {_kib(after):.0f} KiB instead of {_kib(before):.0f}"
        return
    for name in map(str, after.keys()):
        if before.get(name) != after.get(name) and (own_type or name != "type"):
            yield f"{path}@{name}: {after.get(name)} instead of {before.get(name) or 'none'}"
    old, new = (before.text or "").strip(), (after.text or "").strip()
    if new != old:
        yield f"{path}: {new or 'nothing'} instead of {old or 'nothing'}"
    for tag in dict.fromkeys(str(child.tag) for child in after if isinstance(child.tag, str) and child.tag not in unseen):
        ours, theirs = before.findall(tag), after.findall(tag)
        if len(ours) != len(theirs):
            yield f"{path}/{tag}: {len(theirs)} instead of {len(ours)}"
            continue
        for one, other in zip(ours, theirs, strict=True):
            yield from _compare(f"{path}/{tag}", one, other, unseen)


def _kib(element: etree._Element) -> float:
    return float(element.text or 0) * _KIB.get(element.get("unit", "KiB").lower(), 1)


# --- what travels hidden


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What belongs to a guest and libvirt does not send along.

    Attributes:
        autostart: it starts with its host.
        snapshots: what describes each of them, parents first.
        current: the name of the current one; empty without one.
        checkpoints: the same of each checkpoint.
    """

    autostart: bool = False
    snapshots: tuple[str, ...] = ()
    current: str = ""
    checkpoints: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.autostart or bool(self.snapshots or self.checkpoints)


def packed(carried: Carried) -> str:
    """The same as an element for a definition's metadata."""
    root = etree.Element("carried", autostart="yes" if carried.autostart else "no", current=carried.current)
    for tag, texts in (("snapshot", carried.snapshots), ("checkpoint", carried.checkpoints)):
        for text in texts:
            etree.SubElement(root, tag).text = text
    return etree.tostring(root, encoding="unicode")


def unpacked(element: str) -> Carried:
    """What an element of that kind holds."""
    root = etree.fromstring(element.encode())
    texts = {
        tag: tuple(child.text or "" for child in root if etree.QName(child).localname == tag)
        for tag in ("snapshot", "checkpoint")
    }
    return Carried(
        autostart=root.get("autostart") == "yes",
        snapshots=texts["snapshot"],
        current=root.get("current", ""),
        checkpoints=texts["checkpoint"],
    )


def name_of(xml: str) -> str:
    """The name in a snapshot's or a checkpoint's description."""
    return etree.fromstring(xml.encode()).findtext("name") or ""


def carrying(xml: str, other: str) -> str:
    """A definition with what the metadata of another one carries."""
    root, source = parsed(xml, "What was given with --xml"), parsed(other, "The guest's definition")
    found = source.find(f"metadata/{{{CARRIED_URI}}}carried")
    if found is None:
        return xml
    metadata = root.find("metadata")
    if metadata is None:
        metadata = etree.Element("metadata")
        root.insert(0, metadata)
    metadata.append(found)
    return etree.tostring(root, encoding="unicode")
