"""One host of the lab: a process tree in namespaces of its own, held by an init that reaps.

The init must reap: with libvirtd as PID 1 every QEMU that it kills stays a zombie and each migration takes 40 s longer ("Failed
to terminate process … with SIGKILL"). Who belongs to a lab is never read from a file: it is whoever lives in one of its network
namespaces.
What may live here: starting, entering and ending a host's processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from segue.errors import LabError
from segue.lab.layout import ADMIN, NETNS_DIR, OWN_DIRECTORIES, Layout
from segue.lab.shell import run

START_DEADLINE_S: Final = 10.0
END_DEADLINE_S: Final = 10.0
_PAUSE_S: Final = 0.02
_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LOG: Final = "init.log"
_WITH_STAND_IN: Final = (sys.executable, "-I", "-S", str(Path(__file__).with_name("enter.py")))

# Runs as PID 1 of the new namespaces: mounts what is the host's own, says so on the pipe, and becomes the init.
_BECOME_HOST: Final = """
set -eu
pipe=$1; root=$2; shift 2
hostname "$(cat "$root/etc/hostname")"
for path; do mount --bind "$root$path" "$path"; done
if grep -qw hugetlbfs /proc/filesystems; then
  umount --all --types hugetlbfs # the machine's own: two libvirtds would make the same directories there
  mkdir -p /run/hugepages
  mount -t hugetlbfs hugetlbfs /run/hugepages
fi
echo ready >&"$pipe"
exec {pipe}>&-
exec tini -s -- sleep infinity
"""


# Leaves its parent, says its own pid on the pipe, and becomes what holds the host's namespaces.
_LEAVE: Final = """
pipe=$1 log=$2; shift 2
echo $$ >&"$pipe"
exec "$@" </dev/null >"$log" 2>&1
"""


async def start(layout: Layout, host: str) -> int:
    """Start a host and wait until its own files are in place.

    Returns:
        The pid of its init, as this machine sees it.

    Raises:
        LabError: it did not come up; with what it said.
    """
    # The admin host shares the machine's pids: a command there is the user's own process, and Ctrl-C is its alone.
    pids = [] if host == ADMIN else ["--pid", "--fork", "--mount-proc"]

    def become(says: int) -> list[str]:
        words = ["bash", "-c", _BECOME_HOST, host, str(says), str(layout.host_root(host)), *OWN_DIRECTORIES]
        return ["ip", "netns", "exec", layout.netns(host), "unshare", "--mount", "--uts", "--ipc", *pids, "--", *words]

    holder = await _hold(layout, host, become)
    return next(_children(holder)) if pids else holder


async def boot(layout: Layout, host: str, words: Callable[[int], list[str]]) -> int:
    """Start a host that has an init of its own and wait until that has been born.

    Args:
        layout: of the lab.
        host: the host.
        words: given a descriptor on which "ready" is to be written when all is mounted, those that become its init's parent.

    Returns:
        The pid of its init, as this machine sees it.

    Raises:
        LabError: it did not come up; with what it said.
    """
    holder = await _hold(layout, host, words)
    try:
        async with asyncio.timeout(START_DEADLINE_S):
            while True:
                for pid in _children(holder):
                    if Path(f"/proc/{pid}/comm").read_text(encoding="utf-8") == "systemd\n":
                        return pid
                await asyncio.sleep(_PAUSE_S)
    except (TimeoutError, OSError):
        raise _stillborn(layout, host) from None


async def _hold(layout: Layout, host: str, words: Callable[[int], list[str]]) -> int:
    """Let a process that is nobody's child become those words; its pid, when it has said that it is ready."""
    heard, says = os.pipe()
    log = layout.host_root(host) / _LOG
    try:
        await run(["setsid", "--fork", "bash", "-c", _LEAVE, host, str(says), str(log), *words(says)], pass_fds=(says,))
    finally:
        os.close(says)
    said = b""
    try:
        async with asyncio.timeout(START_DEADLINE_S):
            while b"ready" not in said:
                await _readable(heard)
                if not (more := os.read(heard, 64)):
                    break
                said += more
    except TimeoutError:
        said = b""
    finally:
        os.close(heard)
    if b"ready" not in said:
        raise _stillborn(layout, host)
    return int(said.split()[0])


def _stillborn(layout: Layout, host: str) -> LabError:
    said = (layout.host_root(host) / _LOG).read_text(encoding="utf-8", errors="replace").strip()
    return LabError(f"Host {host} did not come up: {said or 'it said nothing'}.")


def _children(pid: int) -> Iterator[int]:
    yield from map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split())


def enter_argv(pid: int, argv: Iterable[str], *, environment: Iterable[str] = ()) -> list[str]:
    """Words that, executed, become the command inside the host whose init is `pid`, in the present directory.

    Signals reach it, its exit status is theirs, and it dies with them; see `segue.lab.enter`.
    """
    enter = ["nsenter", "--target", str(pid), "--mount", "--net", "--uts", "--ipc", "--pid", "--no-fork", "--"]
    return [*enter, *_WITH_STAND_IN, "env", f"--chdir={Path.cwd()}", *environment, *argv]


def enter_tree_argv(pid: int, argv: Iterable[str]) -> list[str]:
    """The same for a host whose files are all its own; in its root directory."""
    clean = ["env", "-i", "--chdir=/", f"PATH={_SYSTEM_PATH}", "TERM=dumb"]
    return [*_WITH_STAND_IN, "--into", str(pid), *clean, *argv]


def members(namespaces: Iterable[Path]) -> list[int]:
    """The pids of all processes that live in one of these network namespaces."""
    wanted = {place for path in namespaces if (place := _place(path))}
    return [pid for pid in _pids() if _place(Path(f"/proc/{pid}/ns/net")) in wanted]


def programs(layout: Layout, host: str) -> dict[int, str]:
    """The programs that run on a host: each pid's name, as the kernel knows it: cut after 15 characters."""
    names = {}
    for pid in members([NETNS_DIR / layout.netns(host)]):
        with contextlib.suppress(OSError):  # gone since
            names[pid] = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    return names


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _place(path: Path) -> tuple[int, int] | None:
    """What makes a namespace this one and no other; a name whose namespace was never mounted is a mere file elsewhere."""
    try:
        seen = path.stat()
    except OSError:
        return None
    return seen.st_dev, seen.st_ino


def namespaces(layout: Layout) -> list[Path]:
    """The network namespaces of the lab that are there now."""
    return sorted(NETNS_DIR.glob(f"{layout.netns_prefix}*")) if NETNS_DIR.is_dir() else []


async def end(layout: Layout) -> None:
    """End every process of the lab and remove its network namespaces. Harmless when there is nothing.

    Raises:
        LabError: a process does not die (its pid is in the message), or a namespace stays.
    """
    paths = namespaces(layout)
    await _kill(paths)
    for path in paths:
        await run(["ip", "netns", "del", path.name], check=False)
    if left := namespaces(layout):
        raise LabError(f"Network namespaces stay: {', '.join(path.name for path in left)}.", hint="'ip netns del' may say why.")


async def _kill(paths: list[Path]) -> None:
    me = os.getpid()
    try:
        async with asyncio.timeout(END_DEADLINE_S):
            while pids := [pid for pid in members(paths) if pid != me]:  # again: one may have been forked meanwhile
                await asyncio.gather(*(kill(pid) for pid in pids))
    except TimeoutError:
        raise LabError(f"Processes of the lab do not end: {', '.join(map(str, members(paths)))}.") from None


async def kill(pid: int) -> None:
    """Kill one process and wait until it has gone; a pidfd cannot hit another process of the same number."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
        await _readable(fd)
    finally:
        os.close(fd)


async def _readable(fd: int) -> None:
    """Wait until a descriptor has something to read; a pidfd has when its process is gone."""
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_reader(fd, event.set)
    try:
        await event.wait()
    finally:
        loop.remove_reader(fd)


def environment(layout: Layout) -> list[str]:
    """What a command inside the lab finds in its environment: this segue, and what belongs to this lab."""
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
    own = {"SEGUE_CONFIG": layout.config, "SEGUE_STATE": layout.written, "SEGUE_PKI": layout.pki}
    return [f"PATH={path}", f"SEGUE_LAB={layout.name}", *(f"{name}={place}" for name, place in own.items())]
