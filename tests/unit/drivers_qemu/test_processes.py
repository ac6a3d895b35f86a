"""Real processes on this machine stand in for QEMU: found by odd names, started, seen gone."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest

from segue.core import argv
from segue.drivers.qemu import files, processes
from segue.drivers.qemu.session import no_monitor
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

    def start(*words: str, cwd: Path = tmp_path, stderr: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([program, "-c", "read _", *words], cwd=cwd, stdin=subprocess.PIPE, stderr=stderr)
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


async def test_what_matters_of_an_environment_is_kept_and_nothing_else(pretend, monkeypatch: pytest.MonkeyPatch):
    for name, text in {"QEMU_AUDIO_DRV": "none", "TZ": "two\nlines", "TOKEN": "secret"}.items():
        monkeypatch.setenv(name, text)
    seen = await found(pretend("-name", "web").pid)
    assert seen is not None
    assert {name: seen.environment.get(name) for name in ("QEMU_AUDIO_DRV", "TZ", "TOKEN")} == {
        "QEMU_AUDIO_DRV": "none",
        "TZ": "two\nlines",
        "TOKEN": None,
    }
    assert seen.user == ""
    assert seen.me


async def test_options_in_a_file_count_as_its_own(pretend, tmp_path: Path):
    (tmp_path / "web, 1.cfg").write_text('[name]\n  guest = "web"\n')
    seen = await found(pretend("-readconfig", "web, 1.cfg", "-readconfig", "gone.cfg").pid)
    assert seen is not None
    assert (seen.name, seen.line.all("readconfig")) == ("web", ["gone.cfg"])


async def test_a_daemons_directory_is_the_one_that_its_shell_was_in(pretend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PWD", "/where/it/was")
    seen = await found(pretend("-name", "web", "-daemonize").pid)
    assert seen is not None
    assert seen.cwd == "/where/it/was"
    other = await found(pretend("-name", "web").pid)
    assert other is not None
    assert other.cwd == str(tmp_path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "web has no QMP monitor, so"),
        (["-monitor", "stdio"], "web has only a monitor for people, so"),
        (["-nographic"], "web has only a monitor for people, so"),
        (["-qmp", "tcp:127.0.0.1:4444,server=on"], "web has a QMP monitor, but not on a unix socket that QEMU listens on, so"),
        (["-chardev", "pty,id=m", "-mon", "m,mode=control"], "web has a QMP monitor, but not on a unix socket"),
    ],
)
def test_a_guest_that_cannot_be_asked_is_told_what_to_add(tmp_path: Path, words: list[str], said: str):
    seen = replace(like(tmp_path), line=argv.parse(["qemu", "-name", "web", *words]))
    assert no_monitor(seen).startswith(said)
    assert "-qmp unix:/run/web.qmp,server=on,wait=off besides." in no_monitor(seen)


def test_the_option_to_add_fits_any_name(tmp_path: Path):
    seen = replace(like(tmp_path), line=argv.parse(["qemu", "-name", "it's a,,b"]))
    assert """-qmp 'unix:/run/it'"'"'s a,,b.qmp,server=on,wait=off' besides""" in no_monitor(seen)


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


def like(directory: Path) -> processes.Process:
    """A process that only has a directory."""
    return processes.Process(pid=0, started=0, mine=True, cwd=str(directory), line=argv.CommandLine(program="x", options=()))


def line(*code: str) -> argv.CommandLine:
    return argv.CommandLine(program=sys.executable, options=tuple(argv.Option(name="", value=word) for word in ("-c", *code)))


async def test_a_started_process_has_a_session_of_its_own_and_is_seen_gone(tmp_path: Path):
    monitor = str(tmp_path / "it's a monitor")
    process = await processes.start(HERE, line(MONITOR, monitor), monitor=monitor, like=like(tmp_path))
    assert os.getsid(process.pid) == process.pid
    assert Path(f"/proc/{process.pid}/cwd").resolve() == tmp_path
    os.kill(process.pid, 15)
    leftovers = argv.parse(["x", "-qmp", f"unix:{monitor},server=on", "-pidfile", str(tmp_path / "pid")])
    (tmp_path / "pid").touch()
    await processes.see_gone(HERE, replace(process, line=leftovers))
    assert [path.name for path in tmp_path.iterdir()] == []


async def test_a_started_process_has_the_environment_of_the_one_that_it_is_like(tmp_path: Path):
    monitor = str(tmp_path / "m")
    model = replace(like(tmp_path), environment={"QEMU_A": "it's\n$(x)", "TZ": ""})
    process = await processes.start(HERE, line(MONITOR, monitor), monitor=monitor, like=model)
    given = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
    os.kill(process.pid, 9)
    await processes.see_gone(HERE, process)
    assert {b"QEMU_A=it's\n$(x)", b"TZ="} <= set(given)


async def test_a_user_who_is_not_there_is_named(tmp_path: Path):
    model = replace(like(tmp_path), user="no-such-user")
    with pytest.raises(PrepareFailed, match="no-such-user"):
        await processes.start(HERE, line(MONITOR, "m"), monitor=str(tmp_path / "m"), like=model)


async def test_one_that_ends_at_once_is_quoted_and_leaves_nothing(tmp_path: Path):
    with pytest.raises(PrepareFailed, match="no such disk"):
        await processes.start(
            HERE, line("import sys; sys.exit('no such disk')"), monitor=str(tmp_path / "m"), like=like(tmp_path)
        )
    assert list(tmp_path.iterdir()) == []


async def test_a_left_over_socket_is_replaced_and_a_living_one_is_not(tmp_path: Path):
    monitor = str(tmp_path / "m")
    first = await processes.start(HERE, line(MONITOR, monitor), monitor=monitor, like=like(tmp_path))
    with pytest.raises(PrepareFailed, match="somebody else listens"):
        await processes.start(HERE, line(MONITOR, monitor), monitor=monitor, like=like(tmp_path))
    os.kill(first.pid, 9)
    await processes.see_gone(HERE, first)
    assert Path(monitor).is_socket()  # its command line does not name it
    second = await processes.start(HERE, line(MONITOR, monitor), monitor=monitor, like=like(tmp_path))
    os.kill(second.pid, 9)
    await processes.see_gone(HERE, second)


async def test_another_process_of_that_pid_is_not_touched(pretend):
    process = pretend("-name", "web")
    seen = await found(process.pid)
    assert seen is not None
    await processes.see_gone(HERE, replace(seen, started=seen.started - 1))
    assert process.poll() is None


@pytest.mark.parametrize("name", ["disk", "a b", "two\nlines", "it's", "$(id)", "\udcff", "."])
async def test_files_of_any_name_are_seen(tmp_path: Path, name: str):
    path = f"x{name}"
    (tmp_path / path).write_bytes(b"abc")
    seen = (await files.look(HERE, like(tmp_path), ["gone", path, "-n"])).seen
    assert list(seen) == [path]
    assert (seen[path].size_bytes, seen[path].may_write, seen[path].is_device) == (3, True, False)
    assert seen[path].inode == str((tmp_path / path).stat().st_ino)


async def test_ports_that_somebody_listens_on_are_seen(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        taken = (await files.look(HERE, like(tmp_path), [], ports=True)).taken
        assert {("tcp", tcp.getsockname()[1]), ("udp", udp.getsockname()[1])} <= taken


async def test_what_a_qemu_wrote_lately_is_read_wherever_its_stderr_goes(pretend, tmp_path: Path):
    log = tmp_path / "its own log"
    with log.open("wb") as stderr:
        seen = await found(pretend("-name", "web", stderr=stderr).pid)
    assert seen is not None
    log.write_text("one\ntwo\nthree\nfour\n")
    assert await processes.last_words(HERE, seen, since_s=5) == "two\nthree\nfour"
    written = log.stat().st_mtime - 60
    os.utime(log, (written, written))
    assert await processes.last_words(HERE, seen, since_s=5) == ""
