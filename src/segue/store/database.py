"""Reaches a database and brings it to the newest revision; every error of it becomes a `StoreError` (`words`).

What may live here: connections, file modes, transactions, and in what the two kinds of database differ. Nothing about
migrations. Both are spoken to by their own drivers: SQLAlchemy and Alembic, a fifth of a second to load, come with `upgrades`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast
from urllib.parse import quote, urlsplit

from segue.errors import StoreError
from segue.store.words import in_words

if TYPE_CHECKING:
    import psycopg

    Connection = sqlite3.Connection | psycopg.Connection

Row = Mapping[str, Any]

REVISION: Final = "0002"
"""The newest of `upgrades`."""
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
_NAMED: Final = re.compile(r":(\w+)")
"""A value's place in a statement, as SQLite writes it."""
_PASSWORD: Final = re.compile(r"(?<=://)([^:/@]*):([^@]*)@")
_SECRETS: Final = re.compile(r"(?<=[?&])((?:ssl)?password)=[^&]*")


class Transaction:
    """What is done in one: all of it, or nothing."""

    def __init__(self, database: Database, connection: Connection) -> None:
        self._database = database
        self._connection = connection

    def run(self, statement: str, **values: object) -> Sequence[Row]:
        """Run one statement, in which `:name` stands for a value, and read what comes of it.

        Raises:
            Exception: the driver's own; `Database.transaction` makes a `StoreError` of it.
        """
        return self._database.read(self._connection, statement, values)


class Database(ABC):
    """An open database, used by several threads.

    Args:
        name: for people, without a password.
    """

    DIALECT: ClassVar[str]
    """SQLAlchemy's name of it."""
    NOW_MS: ClassVar[str]
    """The database's own clock, in milliseconds: processes on several machines compare leases by it, and by nothing else."""
    LOCKED: ClassVar[str]
    """What a query ends with that keeps its rows from others until the transaction ends."""
    ALONE: ClassVar[Sequence[str]]
    """A transaction in which the tables are made begins with this: one process does it, the others wait."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._idle: list[Connection] = []
        self._closed = False

    @abstractmethod
    def connect(self) -> Connection:
        """A new connection."""

    @abstractmethod
    def read(self, connection: Connection, statement: str, values: Mapping[str, object]) -> Sequence[Row]:
        """Run it there."""

    @abstractmethod
    def _begin(self, connection: Connection, *, writes: bool) -> None:
        """Open a transaction."""

    @abstractmethod
    def _answers(self, connection: Connection) -> bool:
        """Whether one that was idle can be used again."""

    @abstractmethod
    def _has_revision(self, transaction: Transaction) -> bool:
        """Whether tables were ever made in it."""

    @contextlib.contextmanager
    def transaction(self, *, writes: bool = False) -> Iterator[Transaction]:
        """All that is done in it, or nothing.

        Args:
            writes: it may change something; those that only look keep nobody waiting.

        Raises:
            StoreError: the database cannot be used, or holds what this Segue does not understand.
        """
        with self._in_words():
            connection = self._connection()
            try:
                self._begin(connection, writes=writes)
                yield Transaction(self, connection)
                connection.commit()
            except BaseException:
                self._give_up(connection)
                raise
            self._put_back(connection)

    def _connection(self) -> Connection:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return self.connect()
            if self._answers(connection):
                return connection
            connection.close()

    def _give_up(self, connection: Connection) -> None:
        try:
            connection.rollback()
        except Exception:  # whatever it is, the error that led here says more
            connection.close()
        else:
            self._put_back(connection)

    def _put_back(self, connection: Connection) -> None:
        self._idle.append(connection)
        if self._closed:
            self.close()

    def close(self) -> None:
        """Let go of every connection. May be repeated."""
        self._closed = True
        with contextlib.suppress(IndexError):  # there is no other: another thread may take one meanwhile
            while True:
                self._idle.pop().close()

    @contextlib.contextmanager
    def _in_words(self) -> Iterator[None]:
        expected: tuple[type[Exception], ...] = (self._error(), OSError, ValueError)  # a text or a word that has no place there
        try:
            yield
        except expected as error:
            raise in_words(self._name, error) from error

    @abstractmethod
    def _error(self) -> type[Exception]:
        """What all errors of its driver are."""

    def bring_up(self) -> None:
        """Make what is not there, and upgrade what is older.

        Raises:
            StoreError: a newer Segue wrote it, or it cannot be used.
        """
        revision = self._revision()
        if revision == REVISION:
            return
        if revision is not None and revision > REVISION:
            raise StoreError(
                f"The database {self._name} was written by a newer Segue (revision {revision}, this one knows {REVISION}).",
                hint="Use that Segue, or name another place with SEGUE_STATE.",
            )
        from segue.store.upgrades import upgrade  # with Alembic, before others have to wait

        with self._in_words():
            upgrade(self.DIALECT, self.connect, self.ALONE)

    def _revision(self) -> str | None:
        """The revision that is written in it; ``None`` for an empty database."""
        with self.transaction() as transaction:
            if not self._has_revision(transaction):
                return None
            return next((row["version_num"] for row in transaction.run("SELECT version_num FROM alembic_version")), None)


class _Sqlite(Database):
    DIALECT = "sqlite"
    NOW_MS = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"
    LOCKED = ""  # the whole database is, from the beginning
    ALONE = (f"PRAGMA busy_timeout = {1000 * UPGRADE_S}", "BEGIN IMMEDIATE")

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path

    def connect(self) -> Connection:
        # Transactions begin below, where the kind of lock can be said.
        connection = sqlite3.connect(self._path, timeout=BUSY_S, check_same_thread=False, isolation_level=None)
        try:
            connection.row_factory = sqlite3.Row
            _log_ahead(connection)
            for pragma in ("synchronous = FULL", "foreign_keys = ON"):
                connection.execute(f"PRAGMA {pragma}")
        except BaseException:
            connection.close()
            raise
        return connection

    def read(self, connection: Connection, statement: str, values: Mapping[str, object]) -> Sequence[Row]:
        return cast("sqlite3.Connection", connection).execute(statement, values).fetchall()

    def _begin(self, connection: Connection, *, writes: bool) -> None:
        # A lock to write is not upgraded to half-way: who waits for it waits at the beginning.
        connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")

    def _answers(self, connection: Connection) -> bool:  # noqa: ARG002  # a file does not go away
        return True

    def _has_revision(self, transaction: Transaction) -> bool:
        return bool(transaction.run("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'alembic_version'"))

    def _error(self) -> type[Exception]:
        return sqlite3.Error


class _Postgresql(Database):
    DIALECT = "postgresql+psycopg"
    NOW_MS = "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"
    LOCKED = " FOR UPDATE"
    ALONE = (f"SET LOCAL statement_timeout = '{UPGRADE_S}s'", f"SELECT pg_advisory_xact_lock({_UPGRADE_LOCK})")

    def __init__(self, url: str, name: str) -> None:
        super().__init__(name)
        self._url = url

    def connect(self) -> Connection:
        import psycopg

        options = " ".join(f"-c {name}={value}" for name, value in _SESSION.items())
        return psycopg.connect(self._url, connect_timeout=CONNECT_S, options=options)

    def read(self, connection: Connection, statement: str, values: Mapping[str, object]) -> Sequence[Row]:
        from psycopg.rows import dict_row

        cursor = cast("psycopg.Connection", connection).cursor(row_factory=dict_row)
        cursor.execute(_NAMED.sub(r"%(\1)s", statement).encode(), values)
        return cursor.fetchall() if cursor.description else ()

    def _begin(self, connection: Connection, *, writes: bool) -> None:
        """By itself, with the first statement."""

    def _answers(self, connection: Connection) -> bool:
        try:
            connection.execute("SELECT 1")
        except self._error():
            return False
        return True

    def _has_revision(self, transaction: Transaction) -> bool:
        return any(row["found"] for row in transaction.run("SELECT to_regclass('alembic_version') IS NOT NULL AS found"))

    def _error(self) -> type[Exception]:
        import psycopg

        return psycopg.Error


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
    return _opened(_Sqlite(path))


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
    scheme, _, rest = url.partition("://")
    # A password may hold what would else end the host: libpq takes it by its percent signs.
    plain = _PASSWORD.sub(lambda found: f"{found[1]}:{quote(found[2], safe='%')}@", f"postgresql://{rest}")
    try:
        _ = urlsplit(plain).port  # libpq would find out only when it connects
    except ValueError as error:
        raise _no_url() from error
    if (kind := scheme.partition("+")[0]) != "postgresql":
        raise StoreError(
            f"{kind!r} is no kind of database that Segue can use.",
            hint="Give a directory (SQLite) or postgresql://USER@HOST/NAME.",
        )
    try:
        from psycopg import ProgrammingError
        from psycopg.conninfo import conninfo_to_dict
    except ImportError as error:
        raise StoreError("psycopg is not installed.", hint="pip install 'segue[postgresql]'.") from error
    try:
        conninfo_to_dict(plain)
    except ProgrammingError as error:
        raise _no_url() from error
    return _opened(_Postgresql(plain, _SECRETS.sub(r"\1=***", _PASSWORD.sub(r"\1:***@", plain))))


def _no_url() -> StoreError:
    return StoreError("SEGUE_STATE is neither a directory nor a URL.", hint="Give postgresql://USER@HOST/NAME.")


def _opened(database: Database) -> Database:
    try:
        database.bring_up()
    except BaseException:
        database.close()
        raise
    return database
