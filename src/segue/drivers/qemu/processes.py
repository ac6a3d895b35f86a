"""The QEMU processes of a host: found in its process table, started, waited for, ended.

Nothing but ssh and a POSIX shell is needed there. libvirt's own QEMUs are left out: only libvirt may move its guests. What may
live here: shell commands and the reading of what they print.
"""

from __future__ import annotations

import base64
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from segue.core import argv
from segue.core.argv import CommandLine
from segue.errors import HypervisorError, PrepareFailed
from segue.hosts import Completed, HostShell

LIST_DEADLINE_S: Final = 10.0
START_DEADLINE_S: Final = 20.0
END_DEADLINE_S: Final = 20.0

# The first line is our uid, then one a candidate: pid, uid, and in base64 (names may hold anything but NUL) directory and words.
_LIST: Final = r"""
id -u
for file in $(grep -lsa qemu /proc/[0-9]*/cmdline); do
  dir=${file%/cmdline}
  uid=$(stat -c %u "$dir" 2>/dev/null) || continue
  printf '%s %s %s. %s\n' "${dir#/proc/}" "$uid" "$(readlink "$dir/cwd" | base64 | tr -d '\n')" "$(base64 <"$file" | tr -d '\n')"
done
"""

# Starts a QEMU in a session of its own and waits until its monitor listens, or it has ended. $1 log, $2 monitor, $3 directory.
_START: Final = r"""
log=$1 monitor=$2; cd "$3" || exit 1; shift 3
mkdir -p "$(dirname "$monitor")" "$(dirname "$log")" || exit 1
rm -f "$monitor"
setsid "$@" >"$log" 2>&1 </dev/null &
until [ -S "$monitor" ]; do
  kill -0 $! 2>/dev/null || { cat "$log" >&2; exit 1; }
  sleep 0.02
done
"""

# Ends a QEMU for certain. $1 pid, $2 the words it was found with, in base64: another process of that pid is not touched.
_END: Final = r"""
same() { [ "$(base64 </proc/$1/cmdline 2>/dev/null | tr -d '\n')" = "$2" ]; }
[ -z "$3" ] || ! same "$1" "$2" || kill -"$3" "$1"
while same "$1" "$2"; do sleep 0.02; done
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A QEMU that libvirt does not manage.

    Attributes:
        pid: on its host.
        mine: it runs as the user that we are there.
        cwd: its directory; empty where it may not be read.
        line: its command line.
        fingerprint: its words as the host printed them, to know it again.
    """

    pid: int
    mine: bool
    cwd: str
    line: CommandLine
    fingerprint: str

    @property
    def name(self) -> str:
        """The guest's name, or for a guest without one its pid in words."""
        return argv.guest_name(self.line) or f"pid{self.pid}"


async def found(shell: HostShell) -> list[Process]:
    """All QEMUs of the host that libvirt does not manage.

    Raises:
        HostUnreachable, AnswerNotSeen: the host does not answer.
        HypervisorError: its process table cannot be read.
    """
    done = await shell.run(["sh", "-c", _LIST], deadline_s=LIST_DEADLINE_S)
    lines = done.stdout.decode(errors="replace").splitlines()
    if not lines:
        raise HypervisorError(f"The processes of {shell.name} cannot be listed.", host=shell.name, raw=_words(done))
    return [process for process in (_read(line, uid=lines[0]) for line in lines[1:]) if process is not None]


def _read(line: str, *, uid: str) -> Process | None:
    """One line of `_LIST`; ``None`` for what only looks like a QEMU, and for libvirt's."""
    pid, owner, cwd, words64 = (*line.split(" "), "", "", "")[:4]
    words = base64.b64decode(words64).decode(errors="surrogateescape").split("\0")[:-1]
    if not words or not posixpath.basename(words[0]).startswith(("qemu-system-", "qemu-kvm", "kvm")):
        return None
    command = argv.parse(words)
    if _is_libvirts(command):
        return None
    directory = base64.b64decode(cwd.rstrip(".")).decode(errors="surrogateescape").removesuffix("\n")
    return Process(pid=int(pid), mine=owner == uid, cwd=directory, line=command, fingerprint=words64)


def _is_libvirts(command: CommandLine) -> bool:
    """Libvirt names its monitor chardev so, and keeps the socket or its descriptor (qemu_command.c, "charmonitor")."""
    return any(argv.get(value, "id") == "charmonitor" for value in command.all("chardev"))


async def start(shell: HostShell, command: CommandLine, *, cwd: str, monitor: str) -> None:
    """Start a QEMU in a session of its own, and wait until its monitor listens. Its output is kept beside the monitor.

    Raises:
        PrepareFailed: it ended at once; with its own words.
    """
    script = ["sh", "-c", _START, "sh", log_of(monitor), monitor, cwd or "/", *command.words()]
    done = await shell.run(script, deadline_s=START_DEADLINE_S)
    if done.status:
        raise PrepareFailed(
            f"QEMU does not start on {shell.name}: {_words(done)}",
            hint=f"It was started with the guest's own command line; what it needs must be on {shell.name} too.",
        )


async def wait_gone(shell: HostShell, process: Process, *, signal: str = "") -> None:
    """Wait until a QEMU has ended, after a signal if one is given; another process of its pid is not touched.

    Raises:
        AnswerNotSeen: it is still there at the deadline.
    """
    await shell.run(["sh", "-c", _END, "sh", str(process.pid), process.fingerprint, signal], deadline_s=END_DEADLINE_S)


async def sweep(shell: HostShell, process: Process) -> None:
    """Remove the sockets and the pidfile that an ended QEMU left behind."""
    monitor = argv.qmp_path(process.line)
    leftovers = [*([monitor, log_of(monitor)] if monitor else []), *process.line.all("pidfile")]
    paths = [posixpath.join(process.cwd or "/", path) for path in leftovers]
    if paths:
        await shell.run(["rm", "-f", "--", *paths], deadline_s=LIST_DEADLINE_S)


def log_of(monitor: str) -> str:
    """Where the output of a QEMU is kept that Segue started."""
    return f"{monitor}.log"


def _words(done: Completed) -> str:
    said: Sequence[str] = done.stderr.decode(errors="replace").strip().splitlines()
    return said[-1] if said else f"status {done.status}, and it said nothing"
