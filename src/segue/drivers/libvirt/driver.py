"""The driver: connections to hosts, and attempts between two of them."""

from __future__ import annotations

from segue.core.model import HostAddress, MigrationSpec
from segue.core.ports import ActionLog, Hypervisor
from segue.drivers.libvirt.attempt import LibvirtAttempt
from segue.drivers.libvirt.hypervisor import LibvirtHypervisor, connected


class LibvirtDriver:
    """Speaks to libvirt over the URIs that virsh takes."""

    async def connect(self, address: HostAddress, *, deadline_s: float) -> LibvirtHypervisor:
        """Open a connection.

        Raises:
            HostUnreachable: no answer within the deadline, with what was tried.
        """
        return LibvirtHypervisor(address, await connected(address, deadline_s=deadline_s))

    def attempt(self, spec: MigrationSpec, source: Hypervisor, destination: Hypervisor, log: ActionLog) -> LibvirtAttempt:
        """An attempt between two hosts that this driver connected.

        Raises:
            Unsupported: the control path cannot be taken between these addresses.
        """
        if not isinstance(source, LibvirtHypervisor) or not isinstance(destination, LibvirtHypervisor):
            raise TypeError("both hosts must be libvirt's")
        return LibvirtAttempt(spec, source, destination, log)
