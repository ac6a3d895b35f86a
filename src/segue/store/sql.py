"""`segue.core.ports.Store` over SQL. What may live here: the statements, and the way between rows and frozen values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache, singledispatchmethod
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic import TypeAdapter
from sqlalchemy import ColumnElement, Connection, Row, Table, func, insert, literal_column, or_, select, update

from segue.core.model import HostAddress, MigrationSpec, Outcome, Progress
from segue.core.phases import PHASES, State
from segue.core.record import (
    Action,
    Change,
    Ended,
    Entry,
    Holder,
    Lease,
    Note,
    Record,
    Sample,
    Settings,
    Step,
    Story,
    Transition,
    Wishes,
)
from segue.errors import LeaseHeld, LeaseLost, MigrationNotFound, StoreError
from segue.store.database import Database
from segue.store.schema import journal, migrations, notes, samples, transitions

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")

# The database's own clock, in milliseconds: processes on several machines compare leases by it, and by nothing else.
_NOW_MS: Final = {
    True: "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
    False: "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)",
}
_M: Final = migrations.c


class SqlStore:
    """The store in a database.

    Args:
        database: open, and of the newest revision.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._now_ms: ColumnElement[int] = literal_column(_NOW_MS[database.is_sqlite])

    # what was asked for, and what became of it

    def create(self, record: Record) -> None:
        """Write down a migration that was asked for."""
        row = {
            "id": record.id,
            "created_at_ms": record.created_at_ms,
            "guest": record.spec.guest,
            "source_name": record.spec.source,
            "destination_name": record.spec.destination,
            "spec": _json(record.spec),
            "source": _json(record.source),
            "destination": _json(record.destination),
            "state": record.state,
            "phase": record.phase,
            "told_to_run": False,
            "wishes": _json(record.wishes),
            "settings": _json(record.settings) if record.settings else None,
            "settled": record.settled,
            "epoch": 0,
            "leased_until_ms": 0,
        }
        with self._database.transaction(writes=True) as connection:
            connection.execute(insert(migrations), row)

    def load(self, migration: str) -> Record:
        """One migration by its id, or by the beginning of it."""
        begins_so = func.substr(_M.id, 1, len(migration)) == migration
        with self._database.transaction() as connection:
            # The id itself is the first of all that begin with it.
            found = [_record(row) for row in connection.execute(self._rows().where(begins_so).order_by(_M.id).limit(2))]
        if migration and (len(found) == 1 or (found and found[0].id == migration)):
            return found[0]
        problem = "Several migrations begin with" if found else "No migration is written down as"
        raise MigrationNotFound(f"{problem} {migration!r}.", hint="'segue history' lists them.")

    def find(self, *, guest: str = "", host: str = "", unsettled: bool = False, limit: int = 50) -> Sequence[Record]:
        """Migrations, the newest first."""
        query = self._rows().order_by(_M.created_at_ms.desc(), _M.id).limit(limit)
        if guest:
            query = query.where(_M.guest == guest)
        if host:
            query = query.where(or_(_M.source_name == host, _M.destination_name == host))
        if unsettled:
            query = query.where(_M.settled.is_(False))
        with self._database.transaction() as connection:
            return [_record(row) for row in connection.execute(query)]

    def _rows(self) -> Any:  # noqa: ANN401  # SQLAlchemy's own type names every column
        return select(migrations, (_M.leased_until_ms > self._now_ms).label("led"))

    def story(self, migration: str) -> Story:
        """All that was written of it but samples."""
        with self._database.transaction() as connection:
            return Story(
                transitions=tuple(
                    Transition(at_ms=row.at_ms, epoch=row.epoch, state=State(row.state))
                    for row in _of(connection, transitions, migration)
                ),
                entries=tuple(
                    Entry(at_ms=row.at_ms, epoch=row.epoch, action=Action(row.action), step=Step(row.step), detail=row.detail)
                    for row in _of(connection, journal, migration)
                ),
                notes=tuple(Note(at_ms=row.at_ms, epoch=row.epoch, text=row.text) for row in _of(connection, notes, migration)),
            )

    def samples(self, migration: str, *, after_ms: int = 0) -> Sequence[Sample]:
        """Its samples taken after that time."""
        query = select(samples).where(samples.c.migration == migration, samples.c.at_ms > after_ms).order_by(samples.c.number)
        with self._database.transaction() as connection:
            return [Sample(at_ms=row.at_ms, progress=_read(Progress, row.progress)) for row in connection.execute(query)]

    # who leads it

    def lead(self, migration: str, holder: Holder, *, ttl_ms: int, dead: Holder | None = None) -> Lease:
        """Take the lease."""
        with self._database.transaction(writes=True) as connection:
            query = select(_M.holder, _M.epoch, _M.leased_until_ms, self._now_ms.label("now_ms")).where(_M.id == migration)
            row = connection.execute(query.with_for_update()).one_or_none()
            if row is None:
                raise MigrationNotFound(f"No migration is written down as {migration!r}.")
            last = _read(Holder, row.holder) if row.holder else None
            if last not in (None, holder, dead) and row.leased_until_ms > row.now_ms:
                name = last.name
                raise LeaseHeld(
                    f"Migration {migration} is led by {name}.",
                    holder=name,
                    guest_at="it is being moved by that process",
                    hint=f"'segue watch {migration}' shows it; its lease runs out in "
                    f"{(row.leased_until_ms - row.now_ms) / 1000:.1f} s if it does not renew it.",
                )
            epoch, until_ms = row.epoch + 1, row.now_ms + ttl_ms
            self._change(connection, migration, holder=_json(holder), epoch=epoch, leased_until_ms=until_ms)
        return Lease(migration=migration, holder=holder, epoch=epoch, until_ms=until_ms)

    def renew(self, lease: Lease, *, ttl_ms: int) -> Lease:
        """Hold it for so long from now."""
        with self._database.transaction(writes=True) as connection:
            now_ms = self._check(connection, lease)
            self._change(connection, lease.migration, leased_until_ms=now_ms + ttl_ms)
        return replace(lease, until_ms=now_ms + ttl_ms)

    def release(self, lease: Lease) -> None:
        """Give it up."""
        with self._database.transaction(writes=True) as connection:
            connection.execute(
                update(migrations).where(_M.id == lease.migration, _M.epoch == lease.epoch).values(leased_until_ms=0)
            )

    def _check(self, connection: Connection, lease: Lease) -> int:
        """See that the lease is its holder's, and keep it so until the transaction ends; the database's time."""
        query = select(_M.epoch, self._now_ms.label("now_ms")).where(_M.id == lease.migration).with_for_update()
        row = connection.execute(query).one_or_none()
        if row is None:
            raise StoreError(f"Migration {lease.migration} is not written down any more.", hint="Was the database replaced?")
        if row.epoch != lease.epoch:
            raise LeaseLost(
                f"Another process has taken over migration {lease.migration}; this one acts no more.",
                hint=f"'segue status {lease.migration}' says how it goes.",
            )
        return int(row.now_ms)

    # what is written on the way

    def write(self, lease: Lease, changes: Sequence[Change]) -> None:
        """Write all of it or nothing."""
        with self._database.transaction(writes=True) as connection:
            self._check(connection, lease)
            for change in changes:
                self._write(change, connection, lease.migration)

    @singledispatchmethod
    def _write(self, change: Change, _connection: Connection, _migration: str) -> None:
        raise TypeError(f"{change!r} cannot be written down")

    @_write.register
    def _(self, change: Transition, connection: Connection, migration: str) -> None:
        connection.execute(insert(transitions), {"migration": migration, **asdict(change)})
        values: dict[str, object] = {"state": change.state}
        before = State(connection.execute(select(_M.state).where(_M.id == migration)).scalar_one())
        if change.state in PHASES and not before.is_end:  # to look at an end once more is no progress on the way
            values["phase"] = change.state
        if not change.state.is_end:
            values |= {"outcome": None, "settled": False}
        self._change(connection, migration, **values)

    @_write.register
    def _(self, change: Entry, connection: Connection, migration: str) -> None:
        connection.execute(insert(journal), {"migration": migration, **asdict(change), "detail": _text(change.detail)})
        if (change.action, change.step) == (Action.RESUME_DESTINATION, Step.INTENT):
            self._change(connection, migration, told_to_run=True)

    @_write.register
    def _(self, change: Note, connection: Connection, migration: str) -> None:
        connection.execute(insert(notes), {"migration": migration, **asdict(change), "text": _text(change.text)})

    @_write.register
    def _(self, change: Sample, connection: Connection, migration: str) -> None:
        row = {"migration": migration, "at_ms": change.at_ms, "progress": _json(change.progress)}
        connection.execute(insert(samples), row)

    @_write.register
    def _(self, change: Settings, connection: Connection, migration: str) -> None:
        self._change(connection, migration, settings=_json(change))

    @_write.register
    def _(self, change: Ended, connection: Connection, migration: str) -> None:
        self._change(connection, migration, outcome=_json(change.outcome), settled=change.settled)

    def _change(self, connection: Connection, migration: str, **values: object) -> None:
        connection.execute(update(migrations).where(_M.id == migration).values(**values))

    # what others want

    def wish(self, migration: str, wishes: Wishes) -> int:
        """Add to what is wanted of it."""
        with self._database.transaction(writes=True) as connection:
            now = self._wishes(connection, migration, lock=True)
            asked = {name: value for name, value in asdict(wishes).items() if value is not None and value is not False}
            now = replace(now, **(asked | {"revision": now.revision + 1}))
            self._change(connection, migration, wishes=_json(now))
        return now.revision

    def wishes(self, migration: str) -> Wishes:
        """What is wanted of it now."""
        with self._database.transaction() as connection:
            return self._wishes(connection, migration, lock=False)

    def _wishes(self, connection: Connection, migration: str, *, lock: bool) -> Wishes:
        query = select(_M.wishes).where(_M.id == migration)
        text = connection.execute(query.with_for_update() if lock else query).scalar()
        if text is None:
            raise MigrationNotFound(f"No migration is written down as {migration!r}.")
        return _read(Wishes, text)

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()


@cache
def _reader(kind: type) -> TypeAdapter[Any]:
    """Made when one of its kind is first read: not while a migration that begins waits for what it writes."""
    return TypeAdapter(kind)


def _read(kind: type[T], text: str) -> T:
    read: T = _reader(kind).validate_json(text)  # type: ignore[arg-type]  # a type is hashable; mypy doubts it
    return read


def _json(value: DataclassInstance) -> str:
    return _text(json.dumps(asdict(value), ensure_ascii=False))


def _text(words: str) -> str:
    """As both databases take it: what a process said may hold NULs and broken UTF-8, and must not stop the writing."""
    return words.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def _of(connection: Connection, table: Table, migration: str) -> Sequence[Row[Any]]:
    return connection.execute(select(table).where(table.c.migration == migration).order_by(table.c.number)).all()


def _record(row: Row[Any]) -> Record:
    lease = None
    if row.holder is not None:
        holder = _read(Holder, row.holder)
        lease = Lease(migration=row.id, holder=holder, epoch=row.epoch, until_ms=row.leased_until_ms)
    return Record(
        spec=_read(MigrationSpec, row.spec),
        source=_read(HostAddress, row.source),
        destination=_read(HostAddress, row.destination),
        created_at_ms=row.created_at_ms,
        state=State(row.state),
        phase=State(row.phase),
        told_to_run=row.told_to_run,
        wishes=_read(Wishes, row.wishes),
        settings=_read(Settings, row.settings) if row.settings else None,
        outcome=_read(Outcome, row.outcome) if row.outcome else None,
        settled=row.settled,
        lease=lease,
        led=bool(row.led) and lease is not None,
    )
