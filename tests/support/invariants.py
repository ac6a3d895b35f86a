"""What may never be seen of a guest, whatever was done or died while it was moved; as the auditor and the hosts show it.

What may live here: looking for that, for every play. What else a play promises is judged there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from segue.lab import Lab, guests
from segue.lab.observe import Report, Watch

TICKS_AGAIN_S: Final = 5.0


async def reported(lab: Lab, name: str, watch: Watch) -> Report:
    """The auditor's verdict. A guest that is there and does not tick is looked at for longer: it may be a busy machine."""
    until_s = time.monotonic() + TICKS_AGAIN_S
    while not (report := await watch.report()).running_on and guests.where(lab, name):
        if time.monotonic() > until_s:
            break
        await asyncio.sleep(0.2)
    return report


def broken(report: Report, homes: Sequence[str]) -> list[str]:
    """What is broken of them; empty when all was kept.

    Args:
        report: the auditor's.
        homes: where the guest's QEMUs are.
    """
    disk = report.disk
    never = {
        f"two copies ran at {report.copies_at_ms}": report.copies > 1,
        f"{report.ticks_repeated} ticks repeated": report.ticks_repeated > 0,
        f"{report.memory_errors} memory errors": report.memory_errors > 0,
        f"disk: {disk}": disk is not None and bool(disk.lost or disk.doubled or disk.out_of_order),
        f"left behind: QEMUs on {homes}": len(homes) > 1,
    }
    return [what for what, is_so in never.items() if is_so]


async def left_behind(lab: Lab, name: str, kind: str, homes: Sequence[str]) -> list[str]:
    """What is on the hosts that should not be, beside processes: a port that a QEMU listens on, a definition where it is not."""
    left = []
    for host in lab.hosts:
        ports = (await lab.run(host, ["ss", "-Hltnp"])).stdout.splitlines()
        left += [f"{host} listens: {' '.join(line.split())}" for line in ports if "qemu" in line]
        if kind == "libvirt" and homes and host not in homes:
            defined = (await lab.run(host, ["virsh", "-q", "-c", "qemu:///system", "list", "--all", "--name"])).stdout
            left += [f"a definition on {host}"] if name in defined.split() else []
    return left
