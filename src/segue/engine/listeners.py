"""TCP ports that QEMUs listen on though nothing in their command lines asks for it: what a migration opened and nobody closed.

A QEMU that waits to receive a guest listens, and so does one that serves disks which are being copied to it. When such a
migration has been forgotten, the port is what is left: whoever connects to it is served. What may live here: looking at hosts
for them. It needs a shell there, and acts on nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from segue.core import argv
from segue.core.model import DriverKind, HostAddress
from segue.errors import SegueError
from segue.hosts import reach, way_in
from segue.hosts.shell import checked

DEADLINE_S: Final = 10.0
FIRST_VNC_PORT: Final = 5900
"""`-vnc :N` listens at this port and N (QEMU's manual, -vnc)."""

# A line for each port that a QEMU listens on: its pid, the port and its words, both hexadecimal. The kernel tells which socket
# listens (proc(5), /proc/net/tcp, state 0A), and /proc/PID/fd which sockets a process has.
_LOOK: Final = r"""
grep -lsE 'qemu|kvm' /proc/[0-9]*/cmdline | while IFS=/ read -r _ _ pid _; do
    [ ! -e "/proc/$pid/ns/pid" ] || [ "/proc/$pid/ns/pid" -ef /proc/self/ns/pid ] || continue
    program=$(readlink "/proc/$pid/exe")
    case ${program##*/} in qemu-system-* | qemu-kvm* | kvm*) ;; *) continue ;; esac
    sockets=$(ls -l "/proc/$pid/fd" | sed -n 's/.*socket:\[\([0-9]*\)\]$/\1/p' | tr '\n' ' ')
    cat "/proc/$pid/net/tcp" "/proc/$pid/net/tcp6" | while read -r _ local _ state _ _ _ _ _ inode _; do
        [ "$state" = 0A ] || continue
        case " $sockets" in *" $inode "*) ;; *) continue ;; esac
        printf '%s %s ' "$pid" "${local##*:}"
        od -An -v -tx1 "/proc/$pid/cmdline" | tr -d ' \n'
        echo
    done
done 2>/dev/null
exit 0
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """A port that a QEMU listens on.

    Attributes:
        words: its command line.
    """

    host: str
    pid: int
    port: int
    words: tuple[str, ...]

    @property
    def guest(self) -> str:
        """The guest's name, as its command line has it; its pid where that has none."""
        return argv.guest_name(argv.parse(self.words)) or f"pid {self.pid}"

    @property
    def was_asked_for(self) -> bool:
        """Its command line names the port, or a VNC display of that number."""
        numbers = {int(number) for word in self.words for number in re.findall(r"\d+", word)}
        displays = any("vnc" in word for word in self.words) and self.port - FIRST_VNC_PORT in numbers
        return self.port in numbers or displays


Look = Callable[[Sequence[HostAddress]], Awaitable[tuple[list[Listener], list[tuple[str, SegueError]]]]]


async def unasked(addresses: Sequence[HostAddress]) -> tuple[list[Listener], list[tuple[str, SegueError]]]:
    """The ports that no command line asks for, on all hosts at once.

    Returns:
        Those, and the hosts that could not be looked at, with why.
    """
    real = [address for address in addresses if address.driver is not DriverKind.SIMULATED]
    ordered = sorted(real, key=lambda address: address.name)
    hosts = {name: list(group) for name, group in itertools.groupby(ordered, key=lambda address: address.name)}
    answers = await asyncio.gather(*(_of_host(name, group) for name, group in hosts.items()), return_exceptions=True)
    found: list[Listener] = []
    unseen: list[tuple[str, SegueError]] = []
    for name, answer in zip(hosts, answers, strict=True):
        if isinstance(answer, SegueError):
            unseen.append((name, answer))
        elif isinstance(answer, BaseException):
            raise answer
        else:
            found += [one for one in answer if not one.was_asked_for]
    return found, unseen


async def _of_host(name: str, addresses: Sequence[HostAddress]) -> list[Listener]:
    shell = await reach(way_in(addresses), deadline_s=DEADLINE_S)
    try:
        command = ["sh", "-c", _LOOK]
        done = checked(name, command, await shell.run(command, deadline_s=DEADLINE_S))
    finally:
        await shell.aclose()
    return list(read(name, os.fsdecode(done.stdout).splitlines()))


def read(host: str, lines: Iterable[str]) -> Iterable[Listener]:
    """What the look at a host has printed; the same port on IPv4 and IPv6 is one."""
    for line in sorted(set(lines)):
        pid, port, words = line.split()
        yield Listener(
            host=host,
            pid=int(pid),
            port=int(port, 16),
            words=tuple(os.fsdecode(bytes.fromhex(words)).rstrip("\0").split("\0")),
        )
