"""Guests that nobody manages: QEMU processes, driven through their monitors, with nothing installed on their hosts."""

from __future__ import annotations

from segue.core.model import Control, HostAddress, MigrationSpec
from segue.core.ports import ActionLog, Hypervisor
from segue.drivers.qemu.attempt import QemuAttempt
from segue.drivers.qemu.hypervisor import QemuHypervisor
from segue.errors import Unsupported
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
        """An attempt between two hosts that this driver connected.

        Raises:
            Unsupported: peer-to-peer, which needs a daemon on the source.
        """
        if spec.control is not Control.DIRECT:
            raise Unsupported(
                f"{spec.guest} is a bare QEMU guest: there is no daemon on {spec.source} that could move it peer-to-peer.",
                guest_at=f"it is on {spec.source}; nothing was touched",
                hint="Use --control direct.",
            )
        if not isinstance(source, QemuHypervisor) or not isinstance(destination, QemuHypervisor):
            raise TypeError("both hosts must be reached by QMP")
        return QemuAttempt(spec, source, destination, log)
