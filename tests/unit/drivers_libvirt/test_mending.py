"""A USB device of the host is unplugged for a move, and plugged in again as it was: on a domain's XML as libvirt 9.0 shows it."""

from __future__ import annotations

from typing import cast

import libvirt
import pytest

from segue.core.mends import Mend, Mended, MendKind
from segue.drivers.libvirt import mending

STICK = """<hostdev mode='subsystem' type='usb' managed='no'>
      <source startupPolicy='optional'>
        <vendor id='0x0781'/>
        <product id='0x5567'/>
        <address bus='1' device='4'/>
      </source>
      <alias name='hostdev0'/>
      <address type='usb' bus='0' port='1'/>
    </hostdev>"""
DETACH = Mend(kind=MendKind.DETACH, target="hostdev0", words="unplug the USB device")


class Domain:
    """What a libvirt does with one device; nothing here has a USB device of its own."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.calls: list[tuple[str, str, int]] = []

    def XMLDesc(self) -> str:  # noqa: N802  # libvirt's own name
        other = "<hostdev mode='subsystem' type='pci'><alias name='hostdev1'/></hostdev>"
        return f"<domain><devices><input type='tablet' bus='usb'/>{other}{self.device}</devices></domain>"

    def detachDeviceFlags(self, xml: str, flags: int) -> None:  # noqa: N802
        self.calls.append(("detach", xml, flags))
        self.device = ""

    def attachDeviceFlags(self, xml: str, flags: int) -> None:  # noqa: N802
        self.calls.append(("attach", xml, flags))
        self.device = xml


@pytest.fixture
def plugged() -> tuple[Domain, libvirt.virDomain]:
    domain = Domain(STICK)
    return domain, cast(libvirt.virDomain, domain)


def test_it_is_unplugged_from_the_running_guest_alone_and_put_back_as_it_was(plugged: tuple[Domain, libvirt.virDomain]) -> None:
    domain, handle = plugged
    before = mending.before(handle, DETACH)
    mending.mend(handle, DETACH)
    assert domain.device == ""
    mending.unmend(handle, Mended(mend=DETACH, before=before))
    assert [(what, xml, flags) for what, xml, flags in domain.calls] == [
        ("detach", before, libvirt.VIR_DOMAIN_AFFECT_LIVE),
        ("attach", before, libvirt.VIR_DOMAIN_AFFECT_LIVE),
    ]
    assert all(part in before for part in ("0x0781", "0x5567", '<address type="usb" bus="0" port="1"/>'))


def test_doing_and_undoing_it_twice_does_it_once(plugged: tuple[Domain, libvirt.virDomain]) -> None:
    domain, handle = plugged
    made = Mended(mend=DETACH, before=mending.before(handle, DETACH))
    for _ in range(2):
        mending.mend(handle, DETACH)
    for _ in range(2):
        mending.unmend(handle, made)
    assert [what for what, _, _ in domain.calls] == ["detach", "attach"]


def test_one_that_is_gone_already_is_not_plugged_in_later() -> None:
    domain = Domain("")
    handle = cast(libvirt.virDomain, domain)
    made = Mended(mend=DETACH, before=mending.before(handle, DETACH))
    mending.mend(handle, DETACH)
    mending.unmend(handle, made)
    assert domain.calls == []
