"""Where the store could break quietly: odd values and words, many at once, tables and files that are not as expected."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, cast, get_args, get_type_hints

import psycopg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from hypothesis import given, settings
from hypothesis import strategies as st

import segue
from segue.core.model import Progress
from segue.core.phases import State
from segue.core.ports import Store
from segue.core.record import Ended, Entry, Lease, Note, Sample, Settings, Transition, Wishes
from segue.errors import MigrationNotFound, StoreError
from segue.store import database, open_store, upgrades
from segue.store.sql import SqlStore
from tests.store.conftest import Server, until
from tests.store.test_errors import as_nobody, directory, refusal  # noqa: F401  # a fixture is found by its name
from tests.store.test_store import ONE, TTL_MS, TWO, begun, entered, record

# --- values

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
LEAVES: dict[object, st.SearchStrategy[Any]] = {
    str: TEXT,
    int: st.integers(-(1 << 62), 1 << 62),
    bool: st.booleans(),
    type(None): st.none(),
    tuple[str, ...]: st.lists(TEXT, max_size=3).map(tuple),
}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Every value of that type: the fields of a dataclass, the words of an enum, the parts of a union."""
    if kind in LEAVES:
        return LEAVES[kind]
    if isinstance(kind, UnionType):
        return st.one_of(*map(values, get_args(kind)))
    if is_dataclass(kind):
        return st.builds(cast("type", kind), **{name: values(hint) for name, hint in get_type_hints(kind).items()})
    return st.sampled_from(kind)


def test_every_value_that_is_written_comes_back_as_it_was(store: Store) -> None:
    it, lease = begun(store)

    @settings(max_examples=40)
    @given(*map(values, (Entry, Note, Transition, Settings, Ended, Progress)))
    def check(entry: Entry, note: Note, transition: Transition, now: Settings, end: Ended, progress: Progress) -> None:
        last_ms = max((sample.at_ms for sample in store.samples(it.id)), default=0)
        sample = Sample(at_ms=last_ms + 1, progress=progress)
        store.write(lease, [entry, note, transition, now, end, sample])
        story, read = store.story(it.id), store.load(it.id)
        assert (story.entries[-1], story.notes[-1], story.transitions[-1]) == (entry, note, transition)
        assert (read.settings, read.outcome, read.settled) == (now, end.outcome, end.settled)
        assert store.samples(it.id, after_ms=last_ms) == [sample]

    check()


def test_what_is_known_when_it_is_created_is_written(store: Store) -> None:
    it = replace(
        record(), state=State.PREPARE, phase=State.PREPARE, settings=Settings(max_downtime_ms=3), wishes=Wishes(cancel=True)
    )
    store.create(it)
    assert store.load(it.id) == it


def test_nuls_and_broken_text_from_a_process_do_not_stop_the_writing(store: Store) -> None:
    it, lease = begun(store)
    said = "qemu: \0\udcff died"
    store.write(lease, [Note(at_ms=1, epoch=1, text=said), Settings(error=said), entered(State.FAILING)])
    assert store.load(it.id).state is State.FAILING
    [note] = store.story(it.id).notes
    assert note.text.startswith("qemu: ")
    assert note.text.endswith(" died")


def test_a_name_that_cannot_be_written_is_refused_in_words(store: Store) -> None:
    with pytest.raises(StoreError, match="cannot hold that text"):
        store.create(record("\udcff"))


def test_a_wish_of_zero_is_a_wish(store: Store) -> None:
    it, _ = begun(store)
    store.wish(it.id, Wishes(bandwidth_bps=9, max_downtime_ms=9))
    store.wish(it.id, Wishes(bandwidth_bps=0))
    assert store.wishes(it.id) == Wishes(bandwidth_bps=0, max_downtime_ms=9, revision=2)


def test_ids_are_told_apart_by_case_and_an_exact_one_wins_over_many_longer(store: Store) -> None:
    for name in ("ab9", "ab8", "ab", "AB7"):
        store.create(record(id=name))
    assert store.load("ab").id == "ab"
    assert store.load("A").id == "AB7"
    with pytest.raises(MigrationNotFound, match="Several"):
        store.load("a")


def test_a_migration_that_is_not_there_any_more_is_told(store: Store) -> None:
    with pytest.raises(StoreError, match="not written down any more"):
        store.write(Lease(migration="gone", holder=ONE, epoch=1, until_ms=1), [entered(State.PREPARE)])


def test_a_word_that_only_a_newer_segue_knows_is_told(directory: Path) -> None:  # noqa: F811
    store = open_store(str(directory))
    [it] = store.find()
    with contextlib.closing(sqlite3.connect(directory / "segue.db")) as connection, connection:
        connection.execute("UPDATE migrations SET state = 'dancing'")
    for look in (store.find, lambda: store.load(it.id)):
        with pytest.raises(StoreError, match=r"does not understand.*dancing"):
            look()
    store.close()


# --- many at once


@pytest.fixture(params=["sqlite", "postgresql"])
def new_place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Names one place after another where nothing is yet."""
    if request.param == "postgresql":
        return cast("Server", request.getfixturevalue("postgresql")).database
    numbers = itertools.count()
    return lambda: str(tmp_path / str(next(numbers)))


_MAKER = """
import sys
import alembic.command, segue.store.sql, segue.store.upgrades
from segue.store import open_store
print("ready", flush=True)
for place in sys.stdin:
    open_store(place.strip()).close()
    print("made", flush=True)
"""


def test_processes_that_make_one_store_at_the_same_time_all_get_it(new_place: Callable[[], str]) -> None:
    with contextlib.ExitStack() as stack:
        makers = []
        for _ in range(3):
            maker = subprocess.Popen([sys.executable, "-c", _MAKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            makers.append(stack.enter_context(maker))
        said = [[maker.stdout.readline() for maker in makers if maker.stdout]]
        for _ in range(3):
            place = new_place()
            for maker in makers:
                print(place, file=maker.stdin, flush=True)
            said.append([maker.stdout.readline() for maker in makers if maker.stdout])
    assert said == [["ready\n"] * 3, *[["made\n"] * 3] * 3]


def test_who_comes_while_the_tables_are_being_made_waits_longer_than_for_a_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_S", 0)
    with contextlib.closing(sqlite3.connect(tmp_path / "segue.db", isolation_level=None, check_same_thread=False)) as maker:
        maker.execute("PRAGMA journal_mode = WAL")
        maker.execute("BEGIN IMMEDIATE")
        done = threading.Timer(0.3, maker.execute, ["ROLLBACK"])
        done.start()
        open_store(str(tmp_path)).close()
        done.join()


def test_threads_share_one_store(store: Store) -> None:
    it, lease = begun(store)
    threads = [threading.Thread(target=store.write, args=(lease, [Note(at_ms=n, epoch=1, text="x")] * 5)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert sorted(note.at_ms for note in store.story(it.id).notes) == sorted([*range(8)] * 5)


def test_who_reads_waits_for_nobody_who_writes(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(database, "BUSY_S", 0)
    with contextlib.closing(sqlite3.connect(directory / "segue.db", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        store = open_store(str(directory))
        [it] = store.find()
        assert store.load(it.id) == it
        assert (store.wishes(it.id), store.samples(it.id), store.story(it.id).notes) == (Wishes(), [], ())
        store.close()


def test_a_leader_that_stands_still_while_it_writes_does_not_keep_its_lease_locked(
    postgresql: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(database._SESSION, "idle_in_transaction_session_timeout", 200)
    url = postgresql.database()
    first, second = cast("SqlStore", open_store(url)), open_store(url)
    it, lease = begun(first)
    first.renew(lease, ttl_ms=-1)
    stands_still = first._database.transaction(writes=True)
    stands_still.__enter__().run("SELECT 1 FROM migrations FOR UPDATE")
    assert second.lead(it.id, TWO, ttl_ms=TTL_MS).epoch == 2
    with pytest.raises(StoreError, match="stood still for too long"):
        stands_still.__exit__(None, None, None)
    for store in (first, second):
        store.close()


# --- tables


def test_the_newest_revision_is_the_one_that_the_code_knows() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(upgrades.__file__).parent))
    assert ScriptDirectory.from_config(config).get_heads() == [database.REVISION]


def run_python(program: str, *words: str, **environ: str) -> str:
    argv = [sys.executable, "-c", program, *words]
    return subprocess.run(argv, env={**os.environ, **environ}, check=True, capture_output=True, text=True, timeout=30).stdout


def test_a_store_that_is_up_to_date_is_opened_without_what_makes_tables(directory: Path) -> None:  # noqa: F811
    program = (
        "import sys; from segue.store import open_store; open_store().find(); print({'alembic', 'sqlalchemy'} & {*sys.modules})"
    )
    assert run_python(program, SEGUE_STATE=str(directory)) == "set()\n"


def test_the_upgrades_are_found_wherever_segue_is_installed(tmp_path: Path) -> None:
    there = tmp_path / "100% mine"
    shutil.copytree(Path(segue.__file__).parent, there / "segue", ignore=shutil.ignore_patterns("__pycache__"))
    program = "import sys; from segue.store import open_store; open_store(sys.argv[1]).close()"
    run_python(program, str(tmp_path), PYTHONPATH=str(there))
    assert (tmp_path / "segue.db").exists()


# --- files


@pytest.mark.parametrize("umask", [0, 0o377])
def test_directories_above_it_are_for_their_owner_only_too(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        open_store(str(tmp_path / "a" / "b" / "state")).close()
    finally:
        os.umask(before)
    assert {(tmp_path / path).stat().st_mode & 0o777 for path in ("a", "a/b", "a/b/state")} == {0o700}
    assert (tmp_path / "a/b/state/segue.db").stat().st_mode & 0o777 == 0o600


def test_a_directory_that_was_there_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    open_store(str(tmp_path)).close()
    assert tmp_path.stat().st_mode & 0o777 == 0o750


def test_a_file_where_its_directory_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "state"):
        assert "what should be its directory is none" in refusal(str(place)).message


def test_one_that_was_cut_short(directory: Path) -> None:  # noqa: F811
    os.truncate(directory / "segue.db", 8192 + 100)
    with pytest.raises(StoreError, match=r"is damaged|is not a database"):
        open_store(str(directory)).find()


def test_a_directory_in_which_nothing_may_be_made(tmp_path: Path) -> None:
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(0o755)
    if os.geteuid() != 0:
        tmp_path.chmod(0o555)
    said = as_nobody(tmp_path / "state")
    assert "no permission" in said.stdout, said
    assert not said.stderr


_UNPRIVILEGED = ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups"]


@pytest.mark.lab  # becomes another user, which needs root
@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, "This user has no home directory"),
        ({"HOME": "/h"}, "/h/.local/state/segue\n"),
        ({"HOME": "/h", "XDG_STATE_HOME": "/x"}, "/x/segue\n"),
    ],
)
def test_where_it_is_when_nobody_says(environ: dict[str, str], said: str) -> None:
    program = (
        "from segue.errors import StoreError; from segue.store import state_directory\n"
        "try: print(state_directory())\nexcept StoreError as error: print(error)"
    )
    argv = [*_UNPRIVILEGED, sys.executable, "-c", program]
    environ |= {"PYTHONPATH": str(Path(segue.__file__).parents[1])}
    assert subprocess.run(argv, env=environ, capture_output=True, text=True, check=True).stdout.startswith(said)


# --- a server


@pytest.mark.parametrize(
    "place",
    [
        "postgresql://me:hunter2@127.0.0.1:1/x",
        "postgresql://me@127.0.0.1:1/x?password=hunter2",
        "postgresql://me:pass/hunter2@127.0.0.1:1/x",
        "postgresql://me:hunter2@host:port/x",
        "mysql://me:hunter2@127.0.0.1/x",
        "hunter2://",
    ],
)
def test_no_url_gives_its_password_away(place: str) -> None:
    said = refusal(place)
    if not place.startswith("hunter2"):
        assert "hunter2" not in str(said)


def test_a_host_that_has_no_address() -> None:
    assert "does not answer" in refusal("postgresql://me@no.such.host.invalid/x").message


@contextlib.contextmanager
def owner(url: str) -> Iterator[Any]:
    """A connection of the server's owner, each statement by itself."""
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def test_a_server_that_refuses_the_password(postgresql: Server) -> None:
    url = postgresql.database()
    rules = postgresql._data / "pg_hba.conf"
    rules.write_text("host all guarded all scram-sha-256\nhost all barred all reject\n" + rules.read_text())
    with owner(url) as connection:
        connection.execute("CREATE ROLE guarded LOGIN PASSWORD 'right'")
        connection.execute("CREATE ROLE barred LOGIN")
        connection.execute("SELECT pg_reload_conf()")

    def said(user: str) -> str:
        with contextlib.suppress(StoreError):
            open_store(url.replace("segue@", f"{user}@")).close()
            return ""
        return refusal(url.replace("segue@", f"{user}@")).message

    until(lambda: "does not let this user in" in said("barred"))
    assert "refuses the password" in said("guarded:wrong")
    assert "refuses the password" in said("guarded")
    assert "wrong" not in said("guarded:wrong")


def test_a_server_on_which_this_user_may_not_make_tables(postgresql: Server) -> None:
    url = postgresql.database()
    with owner(url) as connection:
        connection.execute("CREATE ROLE powerless LOGIN")
        connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    assert "does not give this user the rights" in refusal(url.replace("segue@", "powerless@")).message


def test_a_server_that_only_reads_or_keeps_others_waiting(postgresql: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(database._SESSION, "statement_timeout", 200)
    url = postgresql.database()
    store = open_store(url)
    it, lease = begun(store)
    with owner(url) as connection:
        connection.execute("BEGIN")
        connection.execute("LOCK TABLE migrations")
        with pytest.raises(StoreError, match="did not answer in time"):
            store.write(lease, [entered(State.PREPARE)])
        connection.execute("ROLLBACK")
        connection.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET default_transaction_read_only = on")
    store.close()
    store = open_store(url)
    with pytest.raises(StoreError, match="is read-only"):
        store.write(lease, [entered(State.PREPARE)])
    assert store.load(it.id).state is State.BEGIN
    store.close()


def test_what_is_written_is_on_disk_whatever_the_servers_default_is(postgresql: Server) -> None:
    url = postgresql.database()
    with owner(url) as connection:
        connection.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET synchronous_commit = off")
    store = cast("SqlStore", open_store(url))
    with store._database.transaction() as connection:
        assert connection.run("SHOW synchronous_commit") == [{"synchronous_commit": "on"}]
    store.close()
