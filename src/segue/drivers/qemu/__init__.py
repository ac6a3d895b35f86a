"""Guests that nobody manages: QEMU processes, driven through their monitors, with nothing installed on their hosts."""

from __future__ import annotations

from segue.core.model import HostAddress, MigrationSpec
from segue.core.ports import ActionLog, Hypervisor
from segue.drivers.qemu.attempt import QemuAttempt
from segue.drivers.qemu.hypervisor import QemuHypervisor
from segue.hosts import reach

__all__ = ["QemuDriver"]


class QemuDriver:
    """Speaks QMP to QEMUs, on this host (``qmp:///``) or by ssh (``qmp+ssh://``)."""

    async def connect(self, address: HostAddress, *, deadline_s: float) -> QemuHypervisor:
        """Reach the host; its monitors are connected when they are needed.

        Raises:
            HostUnreachable: no answer within the deadline, with what was tried.
        """
        return QemuHypervisor(address, await reach(address, deadline_s=deadline_s))

    def attempt(self, spec: MigrationSpec, source: Hypervisor, destination: Hypervisor, log: ActionLog) -> QemuAttempt:
        """An attempt between two hosts that this driver connected."""
        if not isinstance(source, QemuHypervisor) or not isinstance(destination, QemuHypervisor):
            raise TypeError("both hosts must be reached by QMP")
        return QemuAttempt(spec, source, destination, log)
