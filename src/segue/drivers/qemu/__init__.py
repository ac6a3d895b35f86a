"""Guests that nobody manages: QEMU processes, driven through their monitors, with nothing installed on their hosts."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import TYPE_CHECKING

from segue.core.model import HostAddress, MigrationSpec
from segue.core.ports import ActionLog, Hypervisor
from segue.hosts import reach

if TYPE_CHECKING:
    from segue.drivers.qemu.attempt import QemuAttempt
    from segue.drivers.qemu.hypervisor import QemuHypervisor

__all__ = ["QemuDriver"]


class QemuDriver:
    """Speaks QMP to QEMUs, on this host (``qmp:///``) or by ssh (``qmp+ssh://``)."""

    async def connect(self, address: HostAddress, *, deadline_s: float) -> QemuHypervisor:
        """Reach the host; its monitors are connected when they are needed. The rest of the driver is loaded meanwhile.

        Raises:
            HostUnreachable: no answer within the deadline, with what was tried.
        """
        loading = asyncio.to_thread(import_module, "segue.drivers.qemu.attempt")
        shell, _ = await asyncio.gather(reach(address, deadline_s=deadline_s), loading)
        from segue.drivers.qemu.hypervisor import QemuHypervisor

        return QemuHypervisor(address, shell)

    def attempt(self, spec: MigrationSpec, source: Hypervisor, destination: Hypervisor, log: ActionLog) -> QemuAttempt:
        """An attempt between two hosts that this driver connected."""
        from segue.drivers.qemu.attempt import QemuAttempt
        from segue.drivers.qemu.hypervisor import QemuHypervisor

        if not isinstance(source, QemuHypervisor) or not isinstance(destination, QemuHypervisor):
            raise TypeError("both hosts must be reached by QMP")
        return QemuAttempt(spec, source, destination, log)
