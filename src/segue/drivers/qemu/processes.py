"""The QEMU processes of a host: found in its process table, started, seen gone.

Nothing but a POSIX shell is needed there. libvirt's own QEMUs are left out: only libvirt may move its guests. So are those in
another PID namespace: they belong to a container, which is a host of its own. What may live here: shell commands and the reading
of what they print. Each is one constant script, with everything that varies as its arguments.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from segue.core import argv
from segue.core.argv import CommandLine
from segue.core.readconfig import expanded
from segue.errors import CommandFailed, HypervisorError, PrepareFailed
from segue.hosts import HostShell
from segue.hosts.shell import checked

LIST_DEADLINE_S: Final = 10.0
START_DEADLINE_S: Final = 20.0
END_PATIENCE_S: Final = 5.0
"""For a QEMU that was told to quit to be gone (it takes 20 ms here); then it is killed and has as long again."""
_STEP_S: Final = 0.02
_ROOT: Final = "0"
_KINDS: Final = ("qemu-system-", "qemu-kvm", "kvm")

# Two blocks of hexadecimal digits a QEMU, ended by lines with a comma and a dot, so that no name can be mistaken for anything
# else. The fields of the first have a NUL between them: our uid and name, its uid, its user, its line of /proc/PID/stat, program,
# directory (and a dot, which keeps its last newline); last come its words, which hold NULs themselves. The second is its
# environment. The fewer commands, the faster: 4 for each QEMU.
_LIST: Final = r"""
me=$(id -u) myself=$(id -nu)
grep -lsE 'qemu|kvm' /proc/[0-9]*/cmdline | while IFS=/ read -r _ _ pid _; do
    [ ! -e "/proc/$pid/ns/pid" ] || [ "/proc/$pid/ns/pid" -ef /proc/self/ns/pid ] || continue
    program=$(readlink "/proc/$pid/exe")
    case ${program##*/} in qemu-system-* | qemu-kvm* | kvm* | '') ;; *) continue ;; esac
    directory=$(readlink -n "/proc/$pid/cwd"; echo .)
    stat= uid=
    read -r stat <"/proc/$pid/stat"
    while read -r key _ effective _; do [ "$key" = Uid: ] && uid=$effective && break; done <"/proc/$pid/status"
    user=$myself
    [ "$uid" = "$me" ] || user=$(id -nu "$uid") || user=$uid
    printf '%s\0' "$me" "$myself" "$uid" "$user" "$stat" "$program" "$directory" | od -An -v -tx1 - "/proc/$pid/cmdline"
    echo ,
    od -An -v -tx1 "/proc/$pid/environ"
    echo .
done 2>/dev/null
exit 0
"""
_FIXED_FIELDS: Final = 7

# What of an environment changes what QEMU does: its own variables, where it finds libraries, its clock's zone, how its C library
# keeps memory. Nothing that could hold a secret.
_MATTERS: Final = re.compile(
    r"QEMU_\w+|LD_LIBRARY_PATH|LD_PRELOAD|TZ|TMPDIR|GLIBC_TUNABLES|MALLOC_\w+|G_SLICE|SLIRP_DEBUG|KRB5CCNAME"
)

# Starts a QEMU in a session of its own and waits until its monitor listens, or it has ended: neither is an event that a shell
# could wait for. $1 log, $2 monitor, $3 directory, $4 user or nothing. A socket that is left over is removed, one that somebody
# listens on is not. A shell that is not interactive leaves its background jobs in its own process group, so setsid does not fork
# and $! is QEMU itself; it is also behind systemd-run --scope, which becomes what it runs. Where systemd ends a session with all
# that is in it (KillUserProcesses=), a scope is left alone; a user's one outlives the login only with lingering.
# Between bind and listen the socket is there and refuses; a name that /proc/net/unix cannot show whole is waited on for 0.1 s.
# Prints the pid and its line of /proc/PID/stat.
_START: Final = r"""
log=$1 monitor=$2 directory=$3 user=$4; cd -- "$3" || exit 1; shift 4
while read -r _ _ _ _ _ _ _ path; do
    [ "$path" != "$monitor" ] || { echo "somebody else listens on $monitor" >&2; exit 1; }
done </proc/net/unix
rm -f -- "$monitor"
: >"$log" || exit 1
if [ -n "$user" ]; then
    group=$(id -g -- "$user") || exit 1
    set -- setpriv --reuid="$user" --regid="$group" --init-groups -- "$@"
fi
if [ -d /run/systemd/system ] && command -v systemd-run >/dev/null; then
    if [ "$(id -u)" = 0 ]; then
        set -- systemd-run --quiet --scope --collect --slice=machine.slice "$@"
    elif [ -e "/var/lib/systemd/linger/$(id -nu)" ]; then
        set -- systemd-run --quiet --scope --collect --user "$@"
    fi
fi
setsid "$@" >>"$log" 2>&1 </dev/null &
pid=$!
until [ -S "$monitor" ]; do
    stat= && { read -r stat <"/proc/$pid/stat"; } 2>/dev/null
    case $stat in
        '' | *') Z '*) cat -- "$log" >&2; rm -f -- "$log"; exit 1 ;;
    esac
    sleep 0.01
done
listens() {
    while read -r _ _ _ flags _ _ _ path; do
        case "$flags $path" in "00010000 $monitor" | "00010000 ${monitor#"$directory"/}") return 0 ;; esac
    done </proc/net/unix
    return 1
}
tries=0
until listens || [ "$tries" = 10 ]; do tries=$((tries + 1)); sleep 0.01; done
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


# $1 pid, $2 the log of one that Segue started, $3 seconds: what was last written there, within these.
_LAST_WORDS: Final = r"""
log=/proc/$1/fd/2
[ -f "$log" ] || log=$2
written=$(stat -L -c %Y -- "$log" 2>/dev/null) && [ $(($(date +%s) - written)) -le "$3" ] && tail -n 3 -- "$log"
exit 0
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
        mine: it runs as the user that we are there, or we are root.
        cwd: the directory it was started in, as far as it can be known; empty where it may not be read.
        line: its command line, with what its ``-readconfig`` files say.
        user: whom it runs as; empty for the user that we are there.
        me: the user that we are there.
        environment: what of its environment matters to QEMU.
    """

    pid: int
    started: int
    mine: bool
    cwd: str
    line: CommandLine
    user: str = ""
    me: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The guest's name, or for a guest without one its pid in words."""
        return argv.guest_name(self.line) or f"pid{self.pid}"

    def is_of(self, guest: str) -> bool:
        """That is the guest's name, or its UUID."""
        return guest in (self.name, argv.uuid(self.line))

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
    blocks = [block.partition(",\n") for block in done.stdout.decode("ascii").split(".\n")[:-1]]
    records = ((bytes.fromhex(record), bytes.fromhex(environment)) for record, _, environment in blocks)
    processes = [process for record in records if (process := read_record(*record))]
    return list(await asyncio.gather(*(_with_files(shell, process) for process in processes)))


async def _with_files(shell: HostShell, process: Process) -> Process:
    """The process with what its ``-readconfig`` files say; one that cannot be read any more stays a name."""
    names = process.line.all("readconfig")
    texts: dict[str, str] = {}
    for name in names:
        with contextlib.suppress(CommandFailed):
            content = await shell.read_file(posixpath.join(process.cwd or "/", name), deadline_s=LIST_DEADLINE_S)
            texts[name] = os.fsdecode(content)
    try:
        return replace(process, line=expanded(process.line, texts)) if texts else process
    except ValueError:  # it was changed since
        return process


def read_record(record: bytes, environment: bytes = b"") -> Process | None:
    """One record of the listing; ``None`` for what only looks like a QEMU, for libvirt's, and for what has gone meanwhile."""
    fields = [os.fsdecode(field) for field in record.split(b"\0", _FIXED_FIELDS)]
    if len(fields) <= _FIXED_FIELDS or not fields[4]:
        return None
    me, myself, uid, user, stat, program, cwd, words = fields
    command = argv.parse(words.removesuffix("\0").split("\0"))
    if not posixpath.basename(program or command.program).startswith(_KINDS) or _is_libvirts(command):
        return None
    variables = dict(os.fsdecode(one).partition("=")[::2] for one in environment.split(b"\0") if b"=" in one)
    # To daemonize is to leave the directory (os-posix.c, os_setup_post); the shell it was started from mostly said which it was.
    left = command.has("daemonize", "chroot")
    return Process(
        pid=int(stat.split()[0]),
        started=_started(stat),
        mine=uid == me or me == _ROOT,
        cwd=variables.get("PWD", "") if left and variables.get("PWD") else cwd[:-1],
        line=command,
        user="" if uid == me else user,
        me=myself,
        environment={name: text for name, text in variables.items() if _MATTERS.fullmatch(name)},
    )


def _started(stat: str) -> int:
    """The start time in a line of /proc/PID/stat: field 22 (proc(5))."""
    return stat_field(stat, 22)


def stat_field(stat: str, number: int) -> int:
    """A field of a line of /proc/PID/stat, by its number in proc(5): the name in it may hold anything, field 3 follows."""
    return int(stat.rpartition(")")[2].split()[number - 3])


def _is_libvirts(command: CommandLine) -> bool:
    """Libvirt names its monitor chardev so, and keeps the socket or its descriptor (qemu_command.c, "charmonitor").

    To learn what a QEMU can do it starts one without a machine for a moment (qemu_process.c, qemuProcessQMPLaunch): no guest.
    """
    if any(argv.get(value, "type", first=True) == "none" for value in command.all("machine", "M")):
        return True
    return any(argv.get(value, "id") == "charmonitor" for value in command.all("chardev"))


async def start(shell: HostShell, command: CommandLine, *, monitor: str, like: Process) -> Process:
    """Start a QEMU in a session of its own, and wait until its monitor listens. Its output is kept beside the monitor.

    Args:
        shell: the host.
        command: what to run.
        monitor: the path of its monitor.
        like: the process whose directory, user and environment it is to have.

    Raises:
        PrepareFailed: it ended at once; with its own words.
        HostUnreachable, AnswerNotSeen: it may or may not have been started.
    """
    cwd = like.cwd or "/"
    variables = [f"{name}={text}" for name, text in sorted(like.environment.items())]
    words = [*(["env", *variables] if variables else []), *command.words()]
    script = ["sh", "-c", _START, "sh", log_of(monitor), monitor, cwd, _user(like), *words]
    done = await shell.run(script, deadline_s=START_DEADLINE_S)
    if done.status:
        raise not_started(shell.name, done.complaint or f"status {done.status}, and it said nothing")
    pid, stat = os.fsdecode(done.stdout).split("\n", 1)
    return Process(
        pid=int(pid), started=_started(stat), mine=True, cwd=cwd, line=command, user=like.user, environment=like.environment
    )


def not_started(host: str, said: str) -> PrepareFailed:
    """It ended before it could be asked anything, with these words."""
    return PrepareFailed(
        f"QEMU does not start on {host}: {said}",
        host=host,
        raw=said,
        hint=f"{host} must have all that the guest's command line names, at the same paths.",
    )


def _user(like: Process) -> str:
    """Whom to start another one as; a QEMU with -runas becomes that user by itself."""
    return "" if like.line.has("runas", "run-with") else like.user


async def last_words(shell: HostShell, process: Process, *, since_s: float) -> str:
    """The end of what a QEMU wrote to its stderr, where that is a file; empty when there is none, or it is older.

    Args:
        shell: its host.
        process: it; of one that has ended only what Segue started can be read.
        since_s: so many seconds back.
    """
    monitor = argv.qmp_path(process.line)
    log = posixpath.join(process.cwd or "/", log_of(monitor or ""))
    script = ["sh", "-c", _LAST_WORDS, "sh", str(process.pid), log, str(math.ceil(since_s))]
    return os.fsdecode((await shell.run(script, deadline_s=LIST_DEADLINE_S)).stdout).strip()


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
    names = [*([monitor, log_of(monitor)] if monitor else []), *process.line.all("pidfile"), *argv.sockets(process.line)]
    return list(dict.fromkeys(posixpath.join(process.cwd or "/", name) for name in names))
