"""The QEMU processes of a host: found in its process table, started, seen gone.

Nothing but a POSIX shell is needed there. libvirt's own QEMUs are left out: only libvirt may move its guests. So are those in
another PID namespace: they belong to a container, which is a host of its own. What may live here: shell commands and the reading
of what they print. Each is one constant script, with everything that varies as its arguments.
"""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass
from typing import Final

from segue.core import argv
from segue.core.argv import CommandLine
from segue.errors import HypervisorError, PrepareFailed
from segue.hosts import HostShell
from segue.hosts.shell import checked

LIST_DEADLINE_S: Final = 10.0
START_DEADLINE_S: Final = 20.0
END_PATIENCE_S: Final = 5.0
"""For a QEMU that was told to quit to be gone (it takes 20 ms here); then it is killed and has as long again."""
_STEP_S: Final = 0.02
_KINDS: Final = ("qemu-system-", "qemu-kvm", "kvm")

# A block of hexadecimal digits a QEMU, ended by a line with a dot, so that no name can be mistaken for anything else. Its fields
# have a NUL between them: our uid, its uid, its line of /proc/PID/stat, program, directory (and a dot, which keeps its last
# newline); last come its words, which hold NULs themselves. The fewer commands, the faster: 3 for each QEMU.
_LIST: Final = r"""
me=$(id -u)
grep -lsE 'qemu|kvm' /proc/[0-9]*/cmdline | while IFS=/ read -r _ _ pid _; do
    [ ! -e "/proc/$pid/ns/pid" ] || [ "/proc/$pid/ns/pid" -ef /proc/self/ns/pid ] || continue
    program=$(readlink "/proc/$pid/exe")
    case ${program##*/} in qemu-system-* | qemu-kvm* | kvm* | '') ;; *) continue ;; esac
    directory=$(readlink -n "/proc/$pid/cwd"; echo .)
    stat= uid=
    read -r stat <"/proc/$pid/stat"
    while read -r key _ effective _; do [ "$key" = Uid: ] && uid=$effective && break; done <"/proc/$pid/status"
    printf '%s\0' "$me" "$uid" "$stat" "$program" "$directory" | od -An -v -tx1 - "/proc/$pid/cmdline"
    echo .
done 2>/dev/null
exit 0
"""
_FIXED_FIELDS: Final = 5

# Starts a QEMU in a session of its own and waits until its monitor listens, or it has ended: neither is an event that a shell
# could wait for. $1 log, $2 monitor, $3 directory. A socket that is left over is removed, one that somebody listens on is not.
# A shell that is not interactive leaves its background jobs in its own process group, so setsid does not fork and $! is QEMU
# itself. Prints that and its line of /proc/PID/stat.
_START: Final = r"""
log=$1 monitor=$2; cd -- "$3" || exit 1; shift 3
while read -r _ _ _ _ _ _ _ path; do
    [ "$path" != "$monitor" ] || { echo "somebody else listens on $monitor" >&2; exit 1; }
done </proc/net/unix
rm -f -- "$monitor"
: >"$log" || exit 1
setsid "$@" >>"$log" 2>&1 </dev/null &
pid=$!
until [ -S "$monitor" ]; do
    stat= && { read -r stat <"/proc/$pid/stat"; } 2>/dev/null
    case $stat in
        '' | *') Z '*) cat -- "$log" >&2; rm -f -- "$log"; exit 1 ;;
    esac
    sleep 0.01
done
printf '%s\n%s' "$pid" "$stat"
"""

# $1 pid, $2 start time, $3 steps of 20 ms to wait before it is killed, then files to remove when it is gone.
_SEE_GONE: Final = r"""
pid=$1 started=$2 patience=$3 steps=0; shift 3
there() {
    stat= && { read -r stat <"/proc/$pid/stat"; } 2>/dev/null || return 1
    set -- ${stat##*) }
    [ "$1" != Z ] && [ "${20}" = "$started" ]
}
while there; do
    steps=$((steps + 1))
    [ "$steps" != "$patience" ] || kill -KILL "$pid"
    [ "$steps" -lt "$((2 * patience))" ] || exit 1
    sleep 0.02
done
rm -f -- "$@"
"""


# $1 monitor, then files that go with it: removed where nobody listens on it.
_SWEEP: Final = r"""
while read -r _ _ _ _ _ _ _ path; do
    [ "$path" != "$1" ] || exit 0
done </proc/net/unix
rm -f -- "$@"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A QEMU that libvirt does not manage.

    Attributes:
        pid: on its host.
        started: in clock ticks after its host's boot.
        mine: it runs as the user that we are there.
        cwd: its directory; empty where it may not be read.
        line: its command line.
    """

    pid: int
    started: int
    mine: bool
    cwd: str
    line: CommandLine

    @property
    def name(self) -> str:
        """The guest's name, or for a guest without one its pid in words."""
        return argv.guest_name(self.line) or f"pid{self.pid}"

    @property
    def key(self) -> str:
        """What names this process on its host until the host's next boot: a pid alone is used again."""
        return f"{self.pid}.{self.started}"


async def found(shell: HostShell) -> list[Process]:
    """All QEMUs of the host that libvirt does not manage.

    Raises:
        HostUnreachable, AnswerNotSeen: the host does not answer.
        CommandFailed: its process table cannot be read.
    """
    script = ["sh", "-c", _LIST]
    done = checked(shell.name, script, await shell.run(script, deadline_s=LIST_DEADLINE_S))
    blocks = done.stdout.decode("ascii").split(".\n")[:-1]
    return [process for block in blocks if (process := read_record(bytes.fromhex(block)))]


def read_record(record: bytes) -> Process | None:
    """One record of the listing; ``None`` for what only looks like a QEMU, for libvirt's, and for what has gone meanwhile."""
    fields = [os.fsdecode(field) for field in record.split(b"\0", _FIXED_FIELDS)]
    if len(fields) <= _FIXED_FIELDS or not fields[2]:
        return None
    me, uid, stat, program, cwd, words = fields
    command = argv.parse(words.removesuffix("\0").split("\0"))
    if not posixpath.basename(program or command.program).startswith(_KINDS) or _is_libvirts(command):
        return None
    return Process(pid=int(stat.split()[0]), started=_started(stat), mine=uid == me, cwd=cwd[:-1], line=command)


def _started(stat: str) -> int:
    """The start time in a line of /proc/PID/stat: field 22 (proc(5)); the name in it may hold anything, field 3 follows."""
    return int(stat.rpartition(")")[2].split()[22 - 3])


def _is_libvirts(command: CommandLine) -> bool:
    """Libvirt names its monitor chardev so, and keeps the socket or its descriptor (qemu_command.c, "charmonitor").

    To learn what a QEMU can do it starts one without a machine for a moment (qemu_process.c, qemuProcessQMPLaunch): no guest.
    """
    if any(argv.get(value, "type", first=True) == "none" for value in command.all("machine", "M")):
        return True
    return any(argv.get(value, "id") == "charmonitor" for value in command.all("chardev"))


async def start(shell: HostShell, command: CommandLine, *, cwd: str, monitor: str) -> Process:
    """Start a QEMU in a session of its own, and wait until its monitor listens. Its output is kept beside the monitor.

    Raises:
        PrepareFailed: it ended at once; with its own words.
        HostUnreachable, AnswerNotSeen: it may or may not have been started.
    """
    cwd = cwd or "/"
    script = ["sh", "-c", _START, "sh", log_of(monitor), monitor, cwd, *command.words()]
    done = await shell.run(script, deadline_s=START_DEADLINE_S)
    if done.status:
        raise PrepareFailed(
            f"QEMU does not start on {shell.name}: {done.complaint or f'status {done.status}, and it said nothing'}",
            hint=f"{shell.name} must have all that the guest's command line names, at the same paths.",
        )
    pid, stat = os.fsdecode(done.stdout).split("\n", 1)
    return Process(pid=int(pid), started=_started(stat), mine=True, cwd=cwd, line=command)


async def last_words(shell: HostShell, process: Process) -> str:
    """The end of what a QEMU wrote that Segue started; empty when there is nothing to read."""
    monitor = argv.qmp_path(process.line)
    log = posixpath.join(process.cwd or "/", log_of(monitor or ""))
    done = await shell.run(["tail", "-n", "3", "--", log], deadline_s=LIST_DEADLINE_S)
    return os.fsdecode(done.stdout).strip()


async def see_gone(shell: HostShell, process: Process) -> None:
    """Wait until a QEMU that was told to quit is gone, kill it when it stays, and remove the files it leaves behind.

    Raises:
        HypervisorError: it is still there, even after it was killed.
        HostUnreachable, AnswerNotSeen: the host does not answer.
    """
    paths = _leftovers(process)
    steps = str(round(END_PATIENCE_S / _STEP_S))
    script = ["sh", "-c", _SEE_GONE, "sh", str(process.pid), str(process.started), steps, *paths]
    done = await shell.run(script, deadline_s=4 * END_PATIENCE_S)
    if done.status:
        raise HypervisorError(
            f"QEMU of {process.name} on {shell.name} (pid {process.pid}) does not end, even when it is killed.",
            host=shell.name,
            raw=done.complaint,
            hint="It waits for something in the kernel, mostly for storage that does not answer.",
        )


def log_of(monitor: str) -> str:
    """Where the output of a QEMU is kept that Segue started."""
    return f"{monitor}.log"


async def waits_for_pages(shell: HostShell, process: Process) -> bool:
    """A thread of it waits for a page that post-copy is to bring (fs/userfaultfd.c, handle_userfault).

    Under emulation that thread mostly holds QEMU's big lock, and then the monitor answers nobody until the page comes.
    """
    script = ["sh", "-c", "cat /proc/$1/task/*/wchan 2>/dev/null", "sh", str(process.pid)]
    return b"handle_userfault" in (await shell.run(script, deadline_s=LIST_DEADLINE_S)).stdout


async def sweep(shell: HostShell, twin: Process) -> None:
    """Remove the files that a QEMU left which ended by itself, where they are those of this one on another host.

    Raises:
        HostUnreachable, AnswerNotSeen: the host does not answer.
    """
    if paths := _leftovers(twin):
        await shell.run(["sh", "-c", _SWEEP, "sh", *paths], deadline_s=LIST_DEADLINE_S)


def _leftovers(process: Process) -> list[str]:
    """The files of a QEMU that stay when it has ended, its monitor first."""
    monitor = argv.qmp_path(process.line)
    names = [*([monitor, log_of(monitor)] if monitor else []), *process.line.all("pidfile")]
    return [posixpath.join(process.cwd or "/", name) for name in names]
