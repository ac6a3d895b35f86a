"""Who leads a migration, as a process: naming this one, and seeing whether another still lives.

What may live here: reading /proc of this machine, and ending a leader whose lease has run out.
"""

from __future__ import annotations

import functools
import os
import signal
import socket
from pathlib import Path

from segue.core.record import Holder


@functools.cache
def _machine() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def me() -> Holder:
    """This process."""
    pid = os.getpid()
    return Holder(machine=_machine(), pid=pid, started=_started(pid) or 0, name=f"pid {pid} on {socket.gethostname()}")


def is_dead(holder: Holder) -> bool:
    """It was a process of this machine, and is no more. False where that cannot be seen from here."""
    return holder.machine == _machine() and _started(holder.pid) != holder.started


def end(holder: Holder) -> bool:
    """End a leader that let its lease run out while it stands still or hangs; whether it is gone now.

    It must not act any more whatever it was about to do, and a connection that it holds (a QEMU's monitor takes one client)
    would keep everybody else out. Only a process of this machine can be ended.
    """
    if holder.machine != _machine():
        return False
    try:
        descriptor = os.pidfd_open(holder.pid)
    except ProcessLookupError:
        return True
    try:
        if _started(holder.pid) == holder.started:  # the descriptor names the process that was just looked at
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            _wait(descriptor)
    except (ProcessLookupError, PermissionError):
        return is_dead(holder)
    finally:
        os.close(descriptor)
    return True


def _wait(descriptor: int) -> None:
    import select

    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll(5_000)


def _started(pid: int) -> int | None:
    """Field 22 of its stat (proc(5)); ``None`` for a process that is gone, or dead and not yet waited for."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes().decode(errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[22 - 3])
