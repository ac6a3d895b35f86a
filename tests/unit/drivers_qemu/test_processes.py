"""Real processes on this machine stand in for QEMU: found by odd names, started, seen gone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from segue.core import argv
from segue.drivers.qemu import processes
from segue.errors import PrepareFailed
from segue.hosts import LocalShell

HERE = LocalShell("here")
# A QEMU as far as its host can tell: it opens its monitor, and waits.
MONITOR = "import socket,sys,time; s=socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); time.sleep(60)"


@pytest.fixture
def pretend(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a process that looks like a QEMU with these words, in this directory."""
    program = tmp_path / "qemu-system-none"
    shutil.copy("/bin/sh", program)
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str, cwd: Path = tmp_path) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([program, "-c", "read _", *words], cwd=cwd, stdin=subprocess.PIPE)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


async def found(pid: int) -> processes.Process | None:
    return next((process for process in await processes.found(HERE) if process.pid == pid), None)


@pytest.mark.parametrize("name", ["web", "a b", "it's", '"q"', "two\nlines", "ünï", "\udcff", "a,b", "$(id)", ".", "\n.\n"])
async def test_odd_names_and_directories_survive(pretend, tmp_path: Path, name: str):
    directory = tmp_path / f"dir {name}".replace("/", "")
    directory.mkdir()
    words = ["-name", argv.join_list([("guest", name)]), "-append", "", "-uuid", "A-B"]
    seen = await found(pretend(*words, cwd=directory).pid)
    assert seen is not None
    assert (seen.name, seen.cwd, seen.mine) == (name, str(directory), True)
    assert list(seen.line.words())[3:] == words


@pytest.mark.parametrize(
    "words",
    [
        ["-name", "guest=web,debug-threads=on", "-chardev", "socket,id=charmonitor,fd=29,server=on,wait=off"],
        ["-S", "-nodefaults", "-machine", "none,accel=kvm:tcg", "-qmp", "unix:/var/lib/libvirt/qemu/qmp-X/qmp.monitor,server"],
    ],
    ids=["a guest", "a look at what QEMU can do"],
)
async def test_libvirts_own_are_left_to_libvirt(pretend, words):
    assert await found(pretend(*words).pid) is None


async def test_what_only_talks_of_qemu_is_none(pretend, tmp_path: Path):
    (tmp_path / "qemu-system-none").rename(tmp_path / "editor-of-qemu-system-none")
    (tmp_path / "qemu-system-none").symlink_to("editor-of-qemu-system-none")
    assert await found(pretend("-name", "web").pid) is None


def test_a_process_that_went_meanwhile_is_none():
    assert processes.read_record(b"0\x00\x00\x00\x00.\x00") is None
    assert processes.read_record(b"") is None


def line(*code: str) -> argv.CommandLine:
    return argv.CommandLine(program=sys.executable, options=tuple(argv.Option(name="", value=word) for word in ("-c", *code)))


async def test_a_started_process_has_a_session_of_its_own_and_is_seen_gone(tmp_path: Path):
    monitor = str(tmp_path / "it's a monitor")
    process = await processes.start(HERE, line(MONITOR, monitor), cwd=str(tmp_path), monitor=monitor)
    assert os.getsid(process.pid) == process.pid
    assert Path(f"/proc/{process.pid}/cwd").resolve() == tmp_path
    os.kill(process.pid, 15)
    leftovers = argv.parse(["x", "-qmp", f"unix:{monitor},server=on", "-pidfile", str(tmp_path / "pid")])
    (tmp_path / "pid").touch()
    await processes.see_gone(HERE, replace(process, line=leftovers))
    assert [path.name for path in tmp_path.iterdir()] == []


async def test_one_that_ends_at_once_is_quoted_and_leaves_nothing(tmp_path: Path):
    with pytest.raises(PrepareFailed, match="no such disk"):
        await processes.start(HERE, line("import sys; sys.exit('no such disk')"), cwd=str(tmp_path), monitor=str(tmp_path / "m"))
    assert list(tmp_path.iterdir()) == []


async def test_a_left_over_socket_is_replaced_and_a_living_one_is_not(tmp_path: Path):
    monitor = str(tmp_path / "m")
    first = await processes.start(HERE, line(MONITOR, monitor), cwd=str(tmp_path), monitor=monitor)
    with pytest.raises(PrepareFailed, match="somebody else listens"):
        await processes.start(HERE, line(MONITOR, monitor), cwd=str(tmp_path), monitor=monitor)
    os.kill(first.pid, 9)
    await processes.see_gone(HERE, first)
    assert Path(monitor).is_socket()  # its command line does not name it
    second = await processes.start(HERE, line(MONITOR, monitor), cwd=str(tmp_path), monitor=monitor)
    os.kill(second.pid, 9)
    await processes.see_gone(HERE, second)


async def test_another_process_of_that_pid_is_not_touched(pretend):
    process = pretend("-name", "web")
    seen = await found(process.pid)
    assert seen is not None
    await processes.see_gone(HERE, replace(seen, started=seen.started - 1))
    assert process.poll() is None
