"""Files are put on a host all or none, with their owner and mode, whatever happens half-way; and never by a command line."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from pathlib import Path

import pytest

from segue.core.pki import FILES, KEY, KEY_MODE, Service
from segue.errors import PkiError
from segue.hosts import Completed, LocalShell
from segue.provision.pki import onhost
from segue.provision.pki.onhost import Placed

ME = getpass.getuser()


class Listening(LocalShell):
    """This machine, and every word of what is run on it."""

    def __init__(self, cut_at: int | None = None) -> None:
        super().__init__("here")
        self.heard: list[str] = []
        self._cut_at = cut_at

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", deadline_s: float) -> Completed:
        self.heard += argv
        return await super().run(argv, stdin=stdin[: self._cut_at], deadline_s=deadline_s)


def files(directory: Path, text: str) -> list[Placed]:
    return [
        Placed(path=str(directory / "a/cert"), content=f"{text} certificate".encode() * 1000, owner=ME),
        Placed(path=str(directory / "b/key"), content=f"{text} secret\0\n".encode(), owner=ME, mode=KEY_MODE),
        Placed(path=str(directory / "b/list"), content=f"{text} list".encode(), owner=ME),
    ]


async def place(directory: Path, text: str, *, cut_at: int | None = None) -> Listening:
    shell = Listening(cut_at)
    await onhost.place(shell, files(directory, text), directories=[str(directory / "a"), str(directory / "b")])
    return shell


def seen(directory: Path) -> dict[str, tuple[int, bytes]]:
    found = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return {str(path.relative_to(directory)): (path.stat().st_mode & 0o777, path.read_bytes()) for path in found}


async def test_files_come_whole_with_their_modes_and_take_the_place_of_others(tmp_path: Path):
    for text in ("old", "new"):
        shell = await place(tmp_path, text)
        assert not [word for word in shell.heard if "secret" in word]
        wanted = {file.path: (file.mode, file.content) for file in files(tmp_path, text)}
        assert {str(tmp_path / path): found for path, found in seen(tmp_path).items()} == wanted
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "a", tmp_path / "b")} == {0o755}


async def test_a_key_that_was_open_is_closed_by_its_successor(tmp_path: Path):
    await place(tmp_path, "old")
    (tmp_path / "b/key").chmod(0o666)
    (tmp_path / "b/key.segue-new").write_bytes(b"left by one that was killed")
    (tmp_path / "b/key.segue-new").chmod(0o666)
    await place(tmp_path, "new")
    assert seen(tmp_path)["b/key"][0] == 0o600
    assert len(seen(tmp_path)) == 3


@pytest.mark.parametrize("cut_at", [0, 10, 12_000, 15_005, 15_015])
async def test_a_connection_that_breaks_half_way_leaves_what_was_there(tmp_path: Path, cut_at: int):
    with pytest.raises(PkiError, match="only a part of"):
        await place(tmp_path, "new", cut_at=cut_at)
    assert list(tmp_path.iterdir()) == []
    await place(tmp_path, "old")
    before = seen(tmp_path)
    with pytest.raises(PkiError, match="Nothing was changed there"):
        await place(tmp_path, "new", cut_at=cut_at)
    assert seen(tmp_path) == before


async def test_a_rename_that_fails_takes_back_those_before(tmp_path: Path):
    await place(tmp_path, "old")
    (tmp_path / "b/list").unlink()
    (tmp_path / "b/list/in the way").mkdir(parents=True)  # a directory: it cannot be linked, nor replaced
    before = seen(tmp_path)
    with pytest.raises(PkiError):
        await place(tmp_path, "new")
    assert seen(tmp_path) == before


async def test_a_file_system_that_is_full_is_said_to_be_and_leaves_what_was_there(tmp_path: Path):
    class Small(Listening):
        async def run(self, argv: Sequence[str], *, stdin: bytes = b"", deadline_s: float) -> Completed:
            limited = ["sh", "-c", 'trap "" XFSZ; ulimit -f 8; exec "$@"', "sh", *argv]
            return await super().run(limited, stdin=stdin, deadline_s=deadline_s)

    await place(tmp_path, "old")
    before = seen(tmp_path)
    with pytest.raises(PkiError, match="File too large"):
        await onhost.place(Small(), files(tmp_path, "new"), directories=[str(tmp_path / "a"), str(tmp_path / "b")])
    assert seen(tmp_path) == before


async def test_an_owner_that_there_is_not_changes_nothing(tmp_path: Path):
    await place(tmp_path, "old")
    before = seen(tmp_path)
    wrong = Placed(path=str(tmp_path / "b/key"), content=b"new", owner="nobody-of-that-name")
    with pytest.raises(PkiError, match="nobody-of-that-name"):
        await onhost.place(LocalShell("here"), [*files(tmp_path, "new")[:1], wrong], directories=[])
    assert seen(tmp_path) == before


def test_contents_are_not_shown():
    assert "secret" not in repr(files(Path("/x"), "new"))


@pytest.mark.parametrize(
    ("row", "listens"),
    [
        ("   0: 00000000:4082 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1", True),
        ("   0: 00000000000000000000000000000000:4082 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 1", True),
        ("   0: 0100007F:4082 0100007F:9C40 01 00000000:00000000 00:00000000 00000000 0 0 1", False),
        ("   0: 0100007F:9C40 0100007F:4082 0A 00000000:00000000 00:00000000 00000000 0 0 1", False),
        ("  sl  local_address rem_address   st", False),
        ("", False),
    ],
)
def test_who_listens_is_read_off_the_kernels_table(row: str, listens: bool):
    assert onhost._listens(row, 16514) is listens


def test_every_place_is_written_by_an_install():
    from datetime import UTC, datetime

    from segue.core.pki import IDENTITIES
    from segue.provision.pki import x509
    from segue.provision.pki.authority import Issued

    ca = x509.make_authority("CA", now=datetime.now(UTC), days=1)
    pairs = {one: x509.issue(ca, one, "beta", ["beta"], now=datetime.now(UTC), days=1) for one in IDENTITIES}
    placed = [
        *onhost.trust_files(dict.fromkeys(Service, ca.certificate)),
        *onhost.revoked_files(dict.fromkeys(Service, b"crl")),
        *onhost.identity_files(Issued(host="beta", pairs=pairs), "qemu"),
    ]
    assert {file.path for file in placed} == set(FILES)
    keys = {file.path: (file.mode, file.owner) for file in placed if b"PRIVATE" in file.content}
    assert keys == {path: (0o600, "root" if one.service is Service.LIBVIRT else "qemu") for one, path in KEY.items()}
