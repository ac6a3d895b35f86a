"""Reaches a database and brings it to the newest revision; every error of it becomes a `StoreError` (`words`).

What may live here: engines, file modes and transactions. Nothing about migrations.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, create_engine, event, func, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from segue.errors import StoreError
from segue.store.schema import REVISION
from segue.store.words import in_words

BUSY_S: Final = 5.0
"""How long SQLite waits for another process that writes. Its writes take milliseconds; on a disk that is busy, seconds (seen)."""
MAKING_PAUSE_S: Final = 0.01
UPGRADE_S: Final = 30
"""How long to wait for another process that makes the tables: that is done once, and Alembic takes a second on a busy machine."""
CONNECT_S: Final = 5
STATEMENT_MS: Final = 5_000

_SESSION: Final = {
    "statement_timeout": STATEMENT_MS,
    # A leader that stands still in the middle of a transaction must not keep others from taking its lease.
    "idle_in_transaction_session_timeout": STATEMENT_MS,
    # What was written is on disk when `write` returns, whatever the server's default is.
    "synchronous_commit": "on",
}
_UPGRADE_LOCK: Final = 0x5E60E
"""Held while the tables are brought up: PostgreSQL's advisory locks are numbers, and this one is ours."""
_WRITES: Final = "segue_writes"
"""The option of a connection that says so."""
_PATIENCE: Final = "segue_patience"
"""The option of a connection that says for how many seconds it waits for others that write."""


class Database:
    """An open database.

    Args:
        engine: SQLAlchemy's.
        name: for people, without a password.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._name = name
        self.is_sqlite: Final = engine.dialect.name == "sqlite"

    @contextlib.contextmanager
    def transaction(self, *, writes: bool = False, patience_s: int | None = None) -> Iterator[Connection]:
        """All that is done in it, or nothing.

        Args:
            writes: it may change something; those that only look keep nobody waiting.
            patience_s: wait so long for others that write, and not as long as usual.

        Raises:
            StoreError: the database cannot be used, or holds what this Segue does not understand.
        """
        engine = self._engine.execution_options(**{_WRITES: writes, _PATIENCE: patience_s})
        with self._in_words(), engine.begin() as connection:
            yield connection

    def close(self) -> None:
        """Let go of every connection. May be repeated."""
        self._engine.dispose()

    @contextlib.contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, OSError, ValueError) as error:  # ValueError: a text or a word that has no place there
            raise in_words(self._name, error) from error

    def bring_up(self) -> None:
        """Make what is not there, and upgrade what is older.

        Raises:
            StoreError: a newer Segue wrote it, or it cannot be used.
        """
        with self._in_words():
            revision = self._revision()
            if revision == REVISION:
                return
            if revision is not None and revision > REVISION:
                raise StoreError(
                    f"The database {self._name} was written by a newer Segue (revision {revision}, this one knows {REVISION}).",
                    hint="Use that Segue, or name another place with SEGUE_STATE.",
                )
            from segue.store.upgrades import upgrade  # with Alembic, before others have to wait

            with self.transaction(writes=True, patience_s=UPGRADE_S) as connection:
                if not self.is_sqlite:
                    connection.execute(text(f"SET LOCAL statement_timeout = '{UPGRADE_S}s'"))
                    connection.execute(select(func.pg_advisory_xact_lock(_UPGRADE_LOCK)))
                upgrade(connection)

    def _revision(self) -> str | None:
        """The revision that is written in it; ``None`` for an empty database."""
        with self._engine.connect() as connection:
            if not self._engine.dialect.has_table(connection, "alembic_version"):
                return None
            return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def sqlite(path: Path) -> Database:
    """The database in that file. Its directory is made 0700 and the file 0600, whatever the umask.

    Raises:
        StoreError: it cannot be made or opened.
    """
    try:
        _make_directory(path.parent)
        with contextlib.suppress(FileExistsError):
            _make_file(path)
        if not os.access(path, os.R_OK | os.W_OK):
            raise PermissionError(errno.EACCES, "no permission to write", str(path))
    except OSError as error:
        raise in_words(str(path), error) from error
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        connect_args={"timeout": BUSY_S, "check_same_thread": False},
        poolclass=QueuePool,
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # transactions begin below, where the kind of lock can be said
        _log_ahead(connection)
        for pragma in ("synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        patience_s = connection.get_execution_options().get(_PATIENCE)
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {round(1000 * (BUSY_S if patience_s is None else patience_s))}")
        # A lock to write is not upgraded to half-way: who waits for it waits at the beginning.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get(_WRITES) else "BEGIN")

    return _opened(Database(engine, str(path)))


def _log_ahead(connection: sqlite3.Connection) -> None:
    """Have changes written to a log beside the file. SQLite does not wait by itself for another that does so."""
    until = time.monotonic() + BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(MAKING_PAUSE_S)
        else:
            return


def _make_directory(path: Path) -> None:
    """With those above it that are not there either; a umask may only take rights away, and leaves too many or too few."""
    if path.is_dir():
        return
    if path.parent != path:
        _make_directory(path.parent)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
        path.chmod(0o700)
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "not a directory", str(path))


def _make_file(path: Path) -> None:
    """Before SQLite does, which gives its -wal and -shm the same mode."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def postgresql(url: str) -> Database:
    """The PostgreSQL database at that URL (``postgresql://user@host/name``).

    Raises:
        StoreError: it does not answer, refuses us, or the URL is none.
    """
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() != "postgresql":
            raise StoreError(
                f"{parsed.get_backend_name()!r} is no kind of database that Segue can use.",
                hint="Give a directory (SQLite) or postgresql://USER@HOST/NAME.",
            )
        engine = create_engine(
            parsed.set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,
            connect_args={
                "connect_timeout": CONNECT_S,
                "options": " ".join(f"-c {name}={value}" for name, value in _SESSION.items()),
            },
        )
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise StoreError("SEGUE_STATE is neither a directory nor a URL.", hint="Give postgresql://USER@HOST/NAME.") from error
    except ImportError as error:
        raise StoreError("psycopg is not installed.", hint="pip install 'segue[postgresql]'.") from error
    shown = parsed.difference_update_query(["password", "sslpassword"])
    return _opened(Database(engine, shown.render_as_string(hide_password=True)))


def _opened(database: Database) -> Database:
    try:
        database.bring_up()
    except BaseException:
        database.close()
        raise
    return database
