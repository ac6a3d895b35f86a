"""The ways to speak to hypervisors. Each driver is a package of its own and knows nothing of the others.

What may live here: the table of drivers. They are imported when first used: libvirt's binding and asyncssh are not free.
"""

from __future__ import annotations

from typing import assert_never

from segue.core.model import DriverKind
from segue.core.ports import Driver


def driver(kind: DriverKind) -> Driver:
    """The driver for that kind of guest."""
    match kind:
        case DriverKind.LIBVIRT:
            from segue.drivers.libvirt.driver import LibvirtDriver

            return LibvirtDriver()
        case DriverKind.QEMU:
            from segue.drivers.qemu import QemuDriver

            return QemuDriver()
        case DriverKind.SIMULATED:
            from segue.drivers.simulated import SimulatedDriver

            return SimulatedDriver()
        case _:
            assert_never(kind)
