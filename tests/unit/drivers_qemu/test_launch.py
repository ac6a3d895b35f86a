"""A launch record gives back what was written, whatever the names in it are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from segue.core import argv
from segue.drivers.qemu import launch
from segue.drivers.qemu.processes import Process
from segue.errors import HypervisorError
from segue.hosts import LocalShell

WORDS = (
    "qemu-system-x86_64",
    "-name",
    'guest=it\'s\n"odd",,ü\udcff',
    "-S",
    "-incoming",
    "defer",
    "-m",
    "64",
    "-append",
    "a b $(c)",
)
RUNNING = Process(
    pid=7, started=1, mine=True, cwd="/srv/two\nlines", line=argv.parse(WORDS), user="kvm", environment={"QEMU_AUDIO_DRV": "none"}
)
NAME = "../it's / \udcff"


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> LocalShell:
    """This machine, with the records of a user who is not root."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("_ALL", "_ONE", "_MAKE", "_REMOVE"):
        script = getattr(launch, name).replace('[ "$(id -u)" = 0 ]', "false")
        monkeypatch.setattr(launch, name, script)
    return LocalShell("h")


async def test_what_is_written_comes_back_and_does_not_wait_for_a_migration(shell: LocalShell, tmp_path: Path):
    record = launch.of(RUNNING)
    assert not {"-S", "-incoming", "defer"} & set(record.words)
    assert await launch.load(shell, NAME) is None
    await launch.save(shell, NAME, record)
    await launch.save(shell, "other", replace(record, cwd="/"))
    assert await launch.load(shell, NAME) == record
    assert sorted(one.cwd for one in await launch.known(shell)) == ["/", "/srv/two\nlines"]
    [file] = [path for path in (tmp_path / "segue/guests").iterdir() if path.name != "other.json"]
    assert file.stat().st_mode & 0o777 == 0o600
    process = record.process
    assert (process.name, process.cwd, process.user) == (RUNNING.name, RUNNING.cwd, "kvm")
    for _ in range(2):
        await launch.remove(shell, NAME)
    assert await launch.load(shell, NAME) is None


async def test_a_damaged_record_is_said_to_be_and_hides_no_other(shell: LocalShell, tmp_path: Path):
    await launch.save(shell, "good", launch.of(RUNNING))
    for content in (b"{", b"[]", b'{"argv": []}', b"\xff\0"):
        (tmp_path / "segue/guests/bad.json").write_bytes(content)
        with pytest.raises(HypervisorError, match="damaged"):
            await launch.load(shell, "bad")
        assert len(await launch.known(shell)) == 1
