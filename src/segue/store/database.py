"""Reaches a database and brings it to the newest revision; every error of it becomes a `StoreError` in words.

What may live here: engines, file modes, transactions, and the table of errors. Nothing about migrations.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from segue.errors import StoreError
from segue.store.schema import REVISION

BUSY_S: Final = 2.0
"""How long SQLite waits for another process that writes; its writes take milliseconds."""
CONNECT_S: Final = 5
STATEMENT_MS: Final = 5_000
_WRITES: Final = "segue_writes"
"""The option of a connection that says so."""


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
    def transaction(self, *, writes: bool = False) -> Iterator[Connection]:
        """All that is done in it, or nothing.

        Args:
            writes: it may change something; those that only look keep nobody waiting.

        Raises:
            StoreError: the database cannot be used.
        """
        engine = self._engine.execution_options(**{_WRITES: writes})
        with self._in_words(), engine.begin() as connection:
            yield connection

    def close(self) -> None:
        """Let go of every connection. May be repeated."""
        self._engine.dispose()

    @contextlib.contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, OSError) as error:
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
            from segue.store.upgrades import upgrade

            with self.transaction(writes=True) as connection:
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
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            path.chmod(0o600)
        if not os.access(path, os.R_OK | os.W_OK):
            raise PermissionError(f"no permission to write {path}")
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
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A lock to write is not upgraded to half-way: who waits for it waits at the beginning.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get(_WRITES) else "BEGIN")

    return _opened(Database(engine, str(path)))


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
            connect_args={"connect_timeout": CONNECT_S, "options": f"-c statement_timeout={STATEMENT_MS}"},
        )
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise StoreError("SEGUE_STATE is neither a directory nor a URL.", hint="Give postgresql://USER@HOST/NAME.") from error
    except ImportError as error:
        raise StoreError("psycopg is not installed.", hint="pip install 'segue[postgresql]'.") from error
    return _opened(Database(engine, parsed.render_as_string(hide_password=True)))


def _opened(database: Database) -> Database:
    try:
        database.bring_up()
    except BaseException:
        database.close()
        raise
    return database


# What SQLite says, in words and with what to do about it (https://sqlite.org/rescode.html). The first that fits.
_WORDS: Final = (
    ("database is locked", "is locked by another process", "Look who has it open: 'fuser -v' names them."),
    ("disk is full", "cannot be written: the disk is full", "Make room, or name another place with SEGUE_STATE."),
    ("readonly database", "is read-only", "Give this user the right to write it, or name another place with SEGUE_STATE."),
    ("not a database", "is not a database", "Move it away: Segue makes a new one. What was written in it is lost."),
    ("malformed", "is damaged", "Move it away: Segue makes a new one. 'sqlite3 FILE .recover' may save what was written in it."),
    ("disk I/O error", "cannot be read or written: the disk has errors, or is full", "Look at the kernel's log and at df."),
    ("unable to open", "cannot be opened", "Look at the permissions of its directory."),
    ("password", "refuses the password", "Put the right one into SEGUE_STATE, or into ~/.pgpass."),
    ("does not exist", "is not there", "Make it: createdb, createuser."),
    ("connection", "does not answer", "Is the server up, and does its firewall let this host through?"),
)


def in_words(name: str, error: Exception) -> StoreError:
    """One sentence of what is wrong with the database, and what to do."""
    said = str(error.orig if isinstance(error, DBAPIError) else error).strip()
    for sign, words, hint in _WORDS:
        if sign in said:
            return StoreError(f"The database {name} {words}.", hint=hint)
    return StoreError(f"The database {name} cannot be used: {said.splitlines()[0] if said else type(error).__name__}.")
