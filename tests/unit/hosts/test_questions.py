"""Many questions in one command, and the files of a guest as two hosts show them: on this machine, with real shells."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from segue.hosts import LocalShell
from segue.hosts.guestfiles import PREFIX, Wanted, compare
from segue.hosts.questions import Question, ask_all

HERE, THERE = LocalShell("here"), LocalShell("there")


async def test_each_question_has_its_own_answer_and_status() -> None:
    answers = await ask_all(
        HERE,
        [
            Question(name="words", script='printf "%s|" "$@"', words=("a b", "c\nd", "'; exit 9 #", "")),
            Question(name="fails", script="echo no >&2; exit 7"),
            Question(name="nothing", script=":"),
            Question(name="lines", script=r"printf 'a\n\nb\n'"),
        ],
        deadline_s=10,
    )
    assert answers["words"].text == "a b|c\nd|'; exit 9 #||"
    assert (answers["fails"].status, answers["fails"].text) == (7, "no")
    assert (answers["nothing"].status, answers["nothing"].text) == (0, "")
    assert answers["lines"].text == "a\n\nb"


async def test_no_question_is_no_command() -> None:
    assert await ask_all(HERE, [], deadline_s=1) == {}


async def test_one_file_is_proven_and_nothing_stays_beside_it(tmp_path: Path) -> None:
    disk = tmp_path / "a disk, with 'quotes'.img"
    disk.write_bytes(b"12345")
    seen = await compare(
        HERE, THERE, Wanted(paths=(str(disk), str(tmp_path / "none")), written=(str(disk),), rooms=(str(tmp_path),))
    )
    assert seen.here.keys() == seen.there.keys() == {str(disk)}
    assert seen.here[str(disk)].size_bytes == 5
    assert seen.there[str(disk)].may_write
    assert seen.proven == {str(disk): True}
    assert seen.free_bytes[str(tmp_path)] > 0
    assert not list(tmp_path.glob(f"{PREFIX}*"))
    assert seen.used == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="whose a lock is only root sees")
async def test_a_lock_is_seen_with_its_owner(tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "disk.img").write_bytes(b"")
    wanted = Wanted(paths=("disk.img",), written=("disk.img",), directory=str(tmp_path))
    with (tmp_path / "disk.img").open("rb") as disk:
        fcntl.flock(disk, fcntl.LOCK_SH)
        assert (await compare(HERE, THERE, wanted)).locked == {"disk.img": os.getpid()}
    assert (await compare(HERE, THERE, wanted)).locked == {}


async def test_relative_paths_begin_where_qemu_was_started(tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(b"")
    seen = await compare(HERE, THERE, Wanted(paths=("disk.img",), written=("disk.img",), directory=str(tmp_path)))
    assert seen.proven == {"disk.img": True}


async def test_a_directory_that_is_not_there_has_no_files(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "a name of so many words that it looks like an answer")
    seen = await compare(HERE, THERE, Wanted(paths=("disk.img",), directory=nowhere))
    assert (dict(seen.here), dict(seen.there)) == ({}, {})


@pytest.mark.skipif(os.geteuid() != 0, reason="to become somebody else takes root")
async def test_rights_are_those_of_qemus_user(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:-2]:
        parent.chmod(parent.stat().st_mode | 0o055)
    disk = tmp_path / "disk.img"
    disk.write_bytes(b"")
    disk.chmod(0o600)
    mine = await compare(HERE, THERE, Wanted(paths=(str(disk),), users=("", "65534")))
    assert mine.here[str(disk)].may_read
    assert not mine.there[str(disk)].may_read
    given = await compare(HERE, THERE, Wanted(paths=(str(disk),), users=("", "65534"), given=True))
    assert given.there[str(disk)].may_read, "whoever starts QEMU gives it what it lacks"


async def test_a_port_that_is_taken_and_the_hosts_addresses_are_seen(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        seen = await compare(HERE, THERE, Wanted(paths=(str(tmp_path),), ports=True, addresses=True))
    assert port in seen.listening
    assert "127.0.0.1" in seen.addresses


async def test_a_disk_is_used_only_where_it_is_a_whole_value_of_a_qemus_command_line(tmp_path: Path) -> None:
    disk = tmp_path / "web.img"
    for path in (disk, tmp_path / "web.img2"):
        path.write_bytes(bytes(1 << 16))
    wanted = Wanted(paths=(str(disk),), written=(str(disk),))
    for file, used in ((f"{disk}2", False), (str(disk), True)):
        argv = ["qemu-system-x86_64", "-machine", "none", "-display", "none", "-S", "-nodefaults"]
        argv += ["-drive", f"if=none,id=d,file={file},format=raw", "-monitor", "stdio"]
        pipe = subprocess.PIPE
        with subprocess.Popen(argv, stdin=pipe, stdout=pipe) as qemu:  # noqa: ASYNC220  # it is there in a moment
            assert qemu.stdout is not None
            qemu.stdout.read(4)  # it greets when it is up
            seen = await compare(HERE, THERE, wanted)
            qemu.kill()
        assert (seen.used == {str(disk): qemu.pid}) is used, (file, seen.used)
