"""Changes of a running domain that let it be moved, and their undoing. What may live here: blocking calls, for `runtime`."""

from __future__ import annotations

import time
from typing import Final

import libvirt
from lxml import etree

from segue.core.mends import Mend, Mended, MendKind

GONE_DEADLINE_S: Final = 5.0
"""For a USB device to be gone from the domain: libvirt waits for QEMU's event by itself, and says nothing when it comes later."""
_LIVE: Final = libvirt.VIR_DOMAIN_AFFECT_LIVE
_FORCE: Final = libvirt.VIR_DOMAIN_DEVICE_MODIFY_FORCE


def before(domain: libvirt.virDomain, mend: Mend) -> str:
    """The XML of the device as it is; empty where it is gone already."""
    found = _found(domain, mend)
    return "" if found is None else etree.tostring(found, encoding="unicode").strip()


def mend(domain: libvirt.virDomain, mend: Mend) -> None:
    """Change it, if it is not changed already."""
    found = _found(domain, mend)
    if found is None:
        return
    if mend.kind is MendKind.EJECT:
        for tag in ("source", "backingStore"):
            for child in found.findall(tag):
                found.remove(child)
        domain.updateDeviceFlags(etree.tostring(found, encoding="unicode"), _LIVE | _FORCE)
        return
    domain.detachDeviceFlags(etree.tostring(found, encoding="unicode"), _LIVE)
    until = time.monotonic() + GONE_DEADLINE_S
    while _found(domain, mend) is not None and time.monotonic() < until:
        time.sleep(0.05)  # in a thread of its own; libvirt has an event for it, which needs a connection that nobody else uses


def unmend(domain: libvirt.virDomain, mended: Mended) -> None:
    """Put it back, if it is not back already."""
    if not mended.before or _found(domain, mended.mend) is not None:
        return
    if mended.mend.kind is MendKind.EJECT:
        domain.updateDeviceFlags(mended.before, _LIVE | _FORCE)
    else:
        domain.attachDeviceFlags(mended.before, _LIVE)


def _found(domain: libvirt.virDomain, mend: Mend) -> etree._Element | None:
    """The device that is still to be changed."""
    root = etree.fromstring(domain.XMLDesc().encode())
    if mend.kind is MendKind.EJECT:
        for disk in root.iterfind("devices/disk[source]"):
            target = disk.find("target")
            if target is not None and target.get("dev") == mend.target:
                return disk
        return None
    for device in root.iterfind("devices/hostdev"):
        alias = device.find("alias")
        if alias is not None and alias.get("name") == mend.target:
            return device
    return None
