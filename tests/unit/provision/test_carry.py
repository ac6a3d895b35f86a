"""Steps are done all or none and taken back to the byte, whatever happens half-way; what is begun is written there first."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from segue.core.steps import Command, File, Step
from segue.errors import HostSetupError, HostUnreachable
from segue.hosts import Completed, LocalShell
from segue.provision.host.carry import HOME, Carrier

USER = ["--map-root-user"] if os.geteuid() else []


class Host(LocalShell):
    """This machine with an /etc of its own, and a network that can be cut."""

    def __init__(self, etc: Path, *, mount: str = 'mount --bind "$1" /etc') -> None:
        super().__init__("alpha")
        self.etc = etc
        self.cut_at = ""
        self._mount = mount

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", deadline_s: float) -> Completed:
        if self.cut_at and self.cut_at in argv:
            raise HostUnreachable("The ssh connection to alpha was lost.", host="alpha")
        enter = ["unshare", *USER, "--mount", "sh", "-c", f'{self._mount} && shift && exec "$@"', "sh", str(self.etc)]
        return await super().run([*enter, *argv], stdin=stdin, deadline_s=deadline_s)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "a.conf").write_text("a = 1\n")
    (etc / "a.conf").chmod(0o640)
    return Host(etc)


def seen(host: Host) -> dict[str, tuple[int, bytes]]:
    return {
        str(one.relative_to(host.etc)): (one.stat().st_mode, one.read_bytes() if one.is_file() else b"")
        for one in host.etc.rglob("*")
    }


async def no_certificates() -> None:
    raise AssertionError("there are none in these steps")


def carrier(host: Host) -> Carrier:
    return Carrier(host, certificates=no_certificates, say=lambda _: None)


async def carry(host: Host, *steps: Step) -> None:
    one = carrier(host)
    async with one.together():
        await one.carry(steps)


def touch(name: str) -> Command:
    return Command(title=f"make {name}", argv=("touch", f"/etc/{name}"), undo=("rm", "-f", f"/etc/{name}"))


EDIT = File(path="/etc/a.conf", before="a = 1\n", after="a = 2\n")
NEW = File(path="/etc/b.d/b.conf", before=None, after="b = 1\n")
FAILS = Command(title="fail", argv=("sh", "-c", "echo it is not to be >&2; exit 3"), undo=())


async def test_what_was_done_is_taken_back_to_the_byte_and_nothing_of_segue_is_left(host: Host):
    before = seen(host)
    await carry(host, EDIT, touch("one"), NEW)
    assert (host.etc / "a.conf").read_text() == "a = 2\n"
    assert (host.etc / "a.conf").stat().st_mode & 0o777 == 0o640
    assert (host.etc / "b.d/b.conf").read_text() == "b = 1\n"
    assert await carrier(host).take_back_all() == []
    assert seen(host) == before


async def test_two_times_are_taken_back_as_one(host: Host):
    before = seen(host)
    await carry(host, EDIT, NEW)
    await carry(host, File(path="/etc/a.conf", before="a = 2\n", after="a = 3\n"), touch("two"))
    assert await carrier(host).take_back_all() == []
    assert seen(host) == before


@pytest.mark.parametrize(
    "steps", [[FAILS], [EDIT, FAILS], [EDIT, touch("one"), NEW, FAILS], [NEW, File(path="/none/x/y", before=None, after="")]]
)
async def test_a_step_that_fails_takes_those_before_it_back_and_says_so(host: Host, steps: list[Step]):
    await carry(host, touch("earlier"))
    before = {path: content for path, content in seen(host).items() if "segue" not in path}
    with pytest.raises(HostSetupError, match="All was taken back: alpha is as it was"):
        await carry(host, *steps)
    assert {path: content for path, content in seen(host).items() if "segue" not in path} == before
    assert [one.step for one in (await carrier(host).journal.read()).taken] == [touch("earlier")]


async def test_an_interrupt_takes_back_what_was_done(host: Host):
    started = asyncio.Event()

    async def wait() -> None:
        one = carrier(host)
        async with one.together():
            await one.carry([EDIT, NEW])
            started.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (host.etc / "a.conf").read_text() == "a = 1\n"
    assert not (host.etc / "b.d").exists()


@pytest.mark.parametrize("cut_at", ["/etc/b.d/b.conf", "touch"])
async def test_a_connection_that_breaks_is_told_and_the_next_one_takes_back_what_was_done(host: Host, cut_at: str):
    host.cut_at = cut_at
    with pytest.raises(HostSetupError, match="was not taken back") as caught:
        await carry(host, EDIT, touch("one") if cut_at == "touch" else NEW)
    assert "segue host undo alpha" in caught.value.hint
    host.cut_at = ""
    assert not (await carrier(host).journal.read()).whole
    assert await carrier(host).take_back_last() == []
    assert (await carrier(host).journal.read()).whole
    assert (host.etc / "a.conf").read_text() == "a = 1\n"


async def test_what_somebody_changed_since_is_left_and_named(host: Host):
    await carry(host, EDIT, NEW)
    (host.etc / "a.conf").write_text("a = 2\nmine = 1\n")
    [why] = await carrier(host).take_back_all()
    assert "/etc/a.conf was changed by somebody else since" in why
    assert (host.etc / "a.conf").read_text() == "a = 2\nmine = 1\n"
    assert not (host.etc / "b.d").exists()
    (host.etc / "a.conf").write_text("a = 2\n")
    assert await carrier(host).take_back_all() == []
    assert not (host.etc / "segue").exists()


async def test_where_nothing_can_be_written_nothing_is_changed(host: Host):
    host = Host(host.etc, mount='mount --bind "$1" /etc && mount -o remount,ro,bind /etc')
    before = seen(host)
    with pytest.raises(HostSetupError, match=f"Nothing can be written to {HOME}"):
        await carry(host, EDIT)
    assert seen(host) == before


async def test_a_file_that_does_not_fit_leaves_the_old_one(tmp_path: Path, host: Host):
    """A disk that is full by then: the file is on a small one, which the steps before it fill."""
    small = tmp_path / "small"
    small.mkdir()
    (host.etc / "tiny").mkdir()
    mount = 'mount --bind "$1" /etc && mount -t tmpfs -o size=4k,nr_inodes=3 tmpfs /etc/tiny && echo old >/etc/tiny/a.conf'
    full = Host(host.etc, mount=mount)
    with pytest.raises(HostSetupError, match="No space left on device"):
        await carry(full, EDIT, File(path="/etc/tiny/a.conf", before="old\n", after="x" * 9000))
    assert (host.etc / "a.conf").read_text() == "a = 1\n"


async def test_a_journal_that_makes_no_sense_is_an_error_and_nothing_is_done(host: Host):
    (host.etc / "segue/host").mkdir(parents=True)
    (host.etc / "segue/host/journal").write_text('garbage\n{"begin": 1}\n')
    with pytest.raises(HostSetupError, match="makes no sense"):
        await carrier(host).take_back_all()
