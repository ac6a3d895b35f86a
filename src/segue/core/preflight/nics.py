"""What a guest's NICs are plugged into: of a domain's live XML, and of a QEMU's command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from lxml import etree

from segue.core.argv import CommandLine, Option, fields
from segue.core.preflight.facts import Nic, Plug

Element = etree._Element  # noqa: SLF001  # lxml's types have no other name for it

_SOURCES: Final = {"bridge": (Plug.BRIDGE, "bridge"), "network": (Plug.NETWORK, "network"), "direct": (Plug.DEVICE, "dev")}


def of_domain(root: Element) -> Iterator[Nic]:
    """Of a domain (libvirt, docs/formatdomain.rst, "Network interfaces").

    One that is plugged into a network of bridges is shown as ``bridge`` while it runs, with the network beside it; where it
    arrives it looks for the network again.
    """
    for number, found in enumerate(root.iterfind("devices/interface")):
        plug, word = _SOURCES.get(found.get("type", ""), (Plug.OTHER, ""))
        source, mac, alias, target = (found.find(tag) for tag in ("source", "mac", "alias", "target"))
        if source is not None and source.get("network"):
            plug, word = _SOURCES["network"]
        yield Nic(
            name=(alias.get("name", "") if alias is not None else "") or f"net{number}",
            plug=plug,
            into=source.get(word, "") if source is not None and word else "",
            mac=(mac.get("address", "") if mac is not None else "").lower(),
            target=target.get("dev", "") if target is not None else "",
            open_vswitch=found.find("virtualport[@type='openvswitch']") is not None,
        )


def of_line(line: CommandLine) -> Iterator[Nic]:
    """Of a bare QEMU (qemu(1), -netdev and -nic): taps on a bridge; what else there is needs nothing of its host by name."""
    macs = {found["netdev"]: found.get("mac", "") for found in line.each("device") if found.get("netdev")}
    for found in [*line.each("netdev"), *line.each("nic")]:
        name = found.get("id", "") or "nic"
        plug, into = _plugged(found)
        yield Nic(name=name, plug=plug, into=into, mac=(found.get("mac", "") or macs.get(name, "")).lower())


def elsewhere(nic: Nic, backend: str) -> Nic:
    """A NIC of a bare QEMU with another backend, as -netdev says it."""
    plug, into = _plugged(fields(Option(name="netdev", value=backend)))
    return replace(nic, plug=plug, into=into)


def _plugged(found: Mapping[str, str]) -> tuple[Plug, str]:
    match found.get("type", ""):
        case "bridge":
            return Plug.BRIDGE, found.get("br", "br0")  # QEMU's default (net/tap.c, DEFAULT_BRIDGE_INTERFACE)
        case "tap" if found.get("br") or found.get("helper"):
            return Plug.BRIDGE, found.get("br", "br0")
        case _:
            return Plug.OTHER, ""
