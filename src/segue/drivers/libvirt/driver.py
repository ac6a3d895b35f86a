"""The driver: connections to hosts, and attempts between two of them.

What it needs is loaded when it is needed: a bare guest is looked for at libvirt's too, and would wait for all of this.
"""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import TYPE_CHECKING

from segue.core.model import HostAddress, MigrationSpec
from segue.core.ports import ActionLog, Hypervisor

if TYPE_CHECKING:
    from segue.drivers.libvirt.attempt import LibvirtAttempt
    from segue.drivers.libvirt.hypervisor import LibvirtHypervisor


class LibvirtDriver:
    """Speaks to libvirt over the URIs that virsh takes."""

    async def connect(self, address: HostAddress, *, deadline_s: float) -> LibvirtHypervisor:
        """Open a connection. Its part of the driver is loaded while others speak to their hosts.

        Raises:
            HostUnreachable: no answer within the deadline, with what was tried.
        """
        await asyncio.to_thread(import_module, "segue.drivers.libvirt.hypervisor")
        from segue.drivers.libvirt.hypervisor import LibvirtHypervisor, connected

        return LibvirtHypervisor(address, await connected(address, deadline_s=deadline_s))

    def attempt(self, spec: MigrationSpec, source: Hypervisor, destination: Hypervisor, log: ActionLog) -> LibvirtAttempt:
        """An attempt between two hosts that this driver connected.

        Raises:
            Unsupported: the control path cannot be taken between these addresses.
        """
        from segue.drivers.libvirt.attempt import LibvirtAttempt
        from segue.drivers.libvirt.hypervisor import LibvirtHypervisor

        if not isinstance(source, LibvirtHypervisor) or not isinstance(destination, LibvirtHypervisor):
            raise TypeError("both hosts must be libvirt's")
        return LibvirtAttempt(spec, source, destination, log)
