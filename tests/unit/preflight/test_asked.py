"""What of a guest is to be another on the destination: facts of it as it is to be there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from segue.core.model import DriverKind, MigrationSpec
from segue.core.preflight.asked import as_asked
from segue.core.preflight.facts import Kind, Nic, Part, Plug
from segue.core.wishes import LibvirtWishes
from tests.unit.preflight.facts import CLEAN, PARTS

NIC = Nic(name="net0", plug=Plug.BRIDGE, into="br0", mac="52:54:00:00:00:01", target="vnet3")
VNC = Part(kind=Kind.VNC, name="vnc", what="port 5901", ports=(5901,), listens="10.0.0.1")
GUEST = replace(PARTS, nics=(NIC,), devices=(VNC,))


def spec(driver: DriverKind, *overrides: tuple[str, str]) -> MigrationSpec:
    return replace(CLEAN.spec, driver=driver, overrides=overrides)


@pytest.mark.parametrize("name", ["0", "vnet3", "52:54:00:00:00:01"])
def test_a_nic_of_libvirt_is_looked_for_where_it_is_to_be(name: str) -> None:
    [nic] = as_asked(spec(DriverKind.LIBVIRT, (f"nic.{name}", "br7")), GUEST).nics
    assert nic == replace(NIC, into="br7")


@pytest.mark.parametrize(
    ("backend", "plug", "into"),
    [("bridge,br=br7", Plug.BRIDGE, "br7"), ("tap,ifname=tap7,script=no", Plug.OTHER, ""), ("user", Plug.OTHER, "")],
)
def test_a_nic_of_a_bare_guest_needs_what_its_new_backend_needs(backend: str, plug: Plug, into: str) -> None:
    [nic] = as_asked(spec(DriverKind.QEMU, ("nic.net0", backend)), GUEST).nics
    assert (nic.plug, nic.into, nic.mac) == (plug, into, NIC.mac)


@pytest.mark.parametrize(
    ("value", "listens", "ports"),
    [("10.0.0.9", "10.0.0.9", (5901,)), ("10.0.0.2:5910", "10.0.0.2", (5910,)), ("::", "::", (5901,))],
)
def test_a_display_of_libvirt_listens_where_it_is_to(value: str, listens: str, ports: tuple[int, ...]) -> None:
    [display] = as_asked(spec(DriverKind.LIBVIRT, ("graphics.vnc", value)), GUEST).devices
    assert (display.listens, display.ports) == (listens, ports)


def test_a_definition_for_the_destination_says_where_its_nics_are() -> None:
    xml = (
        "<domain type='kvm'><memory>1</memory><os><type machine='pc'>hvm</type></os><devices>"
        "<interface type='bridge'><source bridge='br7'/></interface></devices></domain>"
    )
    asked = replace(spec(DriverKind.LIBVIRT), libvirt=LibvirtWishes(xml=xml))
    assert [nic.into for nic in as_asked(asked, GUEST).nics] == ["br7"]
