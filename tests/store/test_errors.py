"""A database that cannot be used: one clear sentence, what to do, and nothing touched. Each is really provoked."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from segue.core.phases import State
from segue.core.record import Wishes
from segue.errors import StoreError
from segue.store import database, open_store
from tests.store.conftest import Server
from tests.store.test_store import begun, entered, record


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A store that has been used."""
    place = tmp_path / "state"
    store = open_store(str(place))
    store.create(record())
    store.close()
    return place


def refusal(place: str) -> StoreError:
    with pytest.raises(StoreError) as refused:
        open_store(place).close()
    assert refused.value.hint
    return refused.value


def test_files_are_for_their_owner_only_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = open_store(str(tmp_path / "state"))
        begun(store)
        files = list((tmp_path / "state").iterdir())
        assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
        assert {path.name for path in files} >= {"segue.db", "segue.db-wal"}
        assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
        store.close()
    finally:
        os.umask(before)


def test_no_database_at_all(directory: Path) -> None:
    (directory / "segue.db").write_bytes(b"these are not the pages that you are looking for " * 100)
    assert "is not a database" in refusal(str(directory)).message


def test_a_damaged_one(directory: Path) -> None:
    path = directory / "segue.db"
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + os.urandom(len(whole) - 4096))
    with pytest.raises(StoreError, match=r"is damaged|is not a database"):
        open_and_read(str(directory))


def open_and_read(place: str) -> None:
    with contextlib.closing(open_store(place)) as store:
        store.find()


def test_one_that_a_newer_segue_wrote(directory: Path) -> None:
    with contextlib.closing(sqlite3.connect(directory / "segue.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    assert "was written by a newer Segue (revision 9999" in refusal(str(directory)).message


def test_one_that_another_process_has_locked(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_S", 0.1)
    with contextlib.closing(sqlite3.connect(directory / "segue.db", isolation_level=None)) as other:
        store = open_store(str(directory))
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="is locked by another process"):
            store.create(record())
        other.execute("ROLLBACK")
        store.create(record())  # and it goes on as soon as it is free
        store.close()


@contextlib.contextmanager
def small(at: Path) -> Iterator[None]:
    """A file system of 1 MiB."""
    at.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(at)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(at)], check=True)


@pytest.mark.lab  # a mount needs root
def test_a_full_disk(tmp_path: Path) -> None:
    with small(tmp_path / "small"):
        store = open_store(str(tmp_path / "small"))
        it, lease = begun(store)
        filler = tmp_path / "small" / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        with pytest.raises(StoreError, match="the disk is full"):
            store.write(lease, [entered(State.PERFORM)] * 1000)
        seen = len(store.story(it.id).transitions)
        filler.unlink()
        store.write(lease, [entered(State.FINISH)])  # nothing has to be repaired
        assert len(store.story(it.id).transitions) == seen + 1
        store.close()


_OPEN = """
import sys
from segue.errors import SegueError
from segue.store import open_store
try:
    open_store(sys.argv[1])
except SegueError as error:
    print(error)
"""


def as_nobody(place: Path) -> subprocess.CompletedProcess[str]:
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"] if os.geteuid() == 0 else []
    return subprocess.run([*nobody, sys.executable, "-c", _OPEN, str(place)], capture_output=True, text=True, check=False)


def test_one_that_may_not_be_written(directory: Path) -> None:
    for path in (directory / "segue.db", directory, *directory.parents[:3]):
        path.chmod(0o755 if path.is_dir() else 0o444)
    (directory / "segue.db").chmod(0o400 if os.geteuid() else 0o600)
    said = as_nobody(directory)
    assert "Give this user the right to write it" in said.stdout or "no permission to write" in said.stdout, said
    assert "Traceback" not in said.stderr


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"Not a directory|cannot be"):
        open_store(str(tmp_path / "file" / "state"))


def test_a_server_that_does_not_answer_and_what_is_no_server(postgresql: Server) -> None:
    assert "does not answer" in refusal("postgresql://segue@127.0.0.1:1/none").message
    assert "is not there" in refusal(f"postgresql://segue@127.0.0.1:{postgresql.port}/nowhere").message
    assert "is no kind of database" in refusal("mysql://root@127.0.0.1/x").message
    assert "neither a directory nor a URL" in refusal("what://:is:this").message
    assert "neither a directory nor a URL" in refusal("postgresql://:is:this").message


def test_a_password_is_never_shown(postgresql: Server) -> None:
    for place in (f"postgresql://nobody:hunter2@127.0.0.1:{postgresql.port}/nowhere", "postgresql://me:hunter2@127.0.0.1:1/x"):
        with pytest.raises(StoreError) as refused:
            open_store(place)
        assert "hunter2" not in str(refused.value)


def test_a_newer_postgresql_schema(postgresql: Server) -> None:
    url = postgresql.database()
    open_store(url).close()
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    assert "was written by a newer Segue" in refusal(url).message


def test_a_server_that_goes_away_is_told_and_reached_again(postgresql: Server) -> None:
    url = postgresql.database()
    store = open_store(url)
    it, _ = begun(store)
    with psycopg.connect(url) as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    store.wish(it.id, Wishes(cancel=True))  # on another connection
    assert store.wishes(it.id).cancel
    store.close()
