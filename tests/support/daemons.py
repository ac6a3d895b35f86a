"""The lab's libvirtd, started anew: by a test that needs it, and between two tests where it hangs or is gone; what hosts show.

Now and then a libvirtd (9.0) answers nobody any more, for good, after hundreds of connections and migrations: seen in two of six
whole runs of these tests; once one was gone that had been started anew just before, and 240 such starts showed no other. That is
none of what the next test is about, but that test, and all after it, would fail of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from pathlib import Path
from typing import Final

import libvirt

from segue.lab import Lab, services
from segue.lab import hosts as processes

ANSWER_S: Final = 10.0
"""For a daemon to open a connection: it takes some ms."""
SOCKET: Final = "/run/libvirt/libvirt-sock"
_SHOW: Final = r"""
ss -tnap
for pid in $(pgrep qemu-system) $(pgrep -x libvirtd); do
  tr '\0' ' ' </proc/$pid/cmdline | cut -c1-120; echo
  for task in /proc/$pid/task/*; do echo "$(cat $task/comm): $(cat $task/wchan) $(cat $task/syscall)"; done
done
tail -n 20 /var/log/libvirt/libvirtd.log
tail -n 3 /var/log/libvirt/qemu/*.log
"""


async def end_libvirtd(lab: Lab, host: str) -> None:
    """Kill it, and come back when it is gone: until then its sockets take connections, and its locks are held."""
    async with asyncio.timeout(ANSWER_S):
        while pids := _libvirtds(lab, host):  # again: one may have been forked meanwhile
            for pid in pids:
                await processes.kill(pid)


async def restart_libvirtd(lab: Lab, host: str) -> None:
    """As a service manager does when its daemon was killed."""
    await end_libvirtd(lab, host)
    argv = next(argv for argv in services.daemons(host) if argv[0].endswith("libvirtd"))
    async with asyncio.timeout(30):
        while (await lab.run(host, argv, check=False)).status:  # noqa: ASYNC110  # whatever may hold its lock yet
            await asyncio.sleep(0.05)
    await services.wait_ready(lab.layout, host, lab.enter_argv(host, []))


def revived(lab: Lab) -> list[str]:
    """Start the daemons of a lab anew that hang or are gone; the hosts on which that was done."""
    ailing = [host for host in lab.hosts if _is_gone(lab.host_path(host, SOCKET)) or _hangs(lab.host_path(host, SOCKET))]
    for host in ailing:
        asyncio.run(restart_libvirtd(lab, host))
    return ailing


async def at_a_standstill(lab: Lab) -> str:
    """What every host shows while something does not go on: sockets, where threads of QEMU and libvirtd wait, their logs."""
    shown = [f"--- {host}\n{(await lab.run(host, ['sh', '-c', _SHOW], check=False)).stdout}" for host in lab.hosts]
    return "\n".join(shown)


def _libvirtds(lab: Lab, host: str) -> list[int]:
    return [pid for pid, name in processes.programs(lab.layout, host).items() if name == "libvirtd"]


def _is_gone(path: Path) -> bool:
    """Nobody listens."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(ANSWER_S)
        return bool(probe.connect_ex(str(path)))


def _hangs(path: Path) -> bool:
    """It listens and says nothing."""
    answered = threading.Event()

    def ask() -> None:
        with contextlib.suppress(libvirt.libvirtError):  # also an answer
            libvirt.open(f"qemu+unix:///system?socket={path}").close()
        answered.set()

    threading.Thread(target=ask, daemon=True).start()  # nobody can end it while it waits
    return not answered.wait(ANSWER_S)
