"""`segue.core.ports.Store` over SQL. What may live here: the statements, and the way between rows and frozen values.

Values that nothing is searched by are JSON of the frozen values in `segue.core`; times are milliseconds since 1970. The tables
are those that `upgrades` makes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import singledispatchmethod
from typing import TYPE_CHECKING, TypeVar

import msgspec

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
from segue.store.database import Database, Row, Transaction

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")


class SqlStore:
    """The store in a database.

    Args:
        database: open, and of the newest revision.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows = f"SELECT migrations.*, leased_until_ms > {database.NOW_MS} AS led FROM migrations"

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
        with self._database.transaction(writes=True) as transaction:
            _insert(transaction, "migrations", row)

    def load(self, migration: str) -> Record:
        """One migration by its id, or by the beginning of it."""
        # The id itself is the first of all that begin with it.
        query = f"{self._rows} WHERE substr(id, 1, :size) = :begins ORDER BY id LIMIT 2"
        with self._database.transaction() as transaction:
            found = [_record(row) for row in transaction.run(query, size=len(migration), begins=migration)]
        if migration and (len(found) == 1 or (found and found[0].id == migration)):
            return found[0]
        problem = "Several migrations begin with" if found else "No migration is written down as"
        raise MigrationNotFound(f"{problem} {migration!r}.", hint="'segue history' lists them.")

    def find(self, *, guest: str = "", host: str = "", unsettled: bool = False, limit: int = 50) -> Sequence[Record]:
        """Migrations, the newest first."""
        conditions = {
            "guest = :guest": bool(guest),
            "(source_name = :host OR destination_name = :host)": bool(host),
            "NOT settled": unsettled,
        }
        where = " AND ".join(condition for condition, wanted in conditions.items() if wanted) or "TRUE"
        query = f"{self._rows} WHERE {where} ORDER BY created_at_ms DESC, id LIMIT :limit"
        with self._database.transaction() as transaction:
            return [_record(row) for row in transaction.run(query, guest=guest, host=host, limit=limit)]

    def story(self, migration: str) -> Story:
        """All that was written of it but samples."""
        with self._database.transaction() as transaction:
            return Story(
                transitions=tuple(
                    Transition(at_ms=row["at_ms"], epoch=row["epoch"], state=State(row["state"]))
                    for row in _of(transaction, "transitions", migration)
                ),
                entries=tuple(
                    Entry(
                        at_ms=row["at_ms"],
                        epoch=row["epoch"],
                        action=Action(row["action"]),
                        step=Step(row["step"]),
                        detail=row["detail"],
                    )
                    for row in _of(transaction, "journal", migration)
                ),
                notes=tuple(
                    Note(at_ms=row["at_ms"], epoch=row["epoch"], text=row["text"]) for row in _of(transaction, "notes", migration)
                ),
            )

    def samples(self, migration: str, *, after_ms: int = 0) -> Sequence[Sample]:
        """Its samples taken after that time."""
        query = "SELECT at_ms, progress FROM samples WHERE migration = :migration AND at_ms > :after_ms ORDER BY number"
        with self._database.transaction() as transaction:
            rows = transaction.run(query, migration=migration, after_ms=after_ms)
            return [Sample(at_ms=row["at_ms"], progress=_read(Progress, row["progress"])) for row in rows]

    # who leads it

    def lead(self, migration: str, holder: Holder, *, ttl_ms: int, dead: Holder | None = None) -> Lease:
        """Take the lease."""
        with self._database.transaction(writes=True) as transaction:
            row = self._locked(transaction, migration)
            if row is None:
                raise MigrationNotFound(f"No migration is written down as {migration!r}.")
            last = _read(Holder, row["holder"]) if row["holder"] else None
            if last not in (None, holder, dead) and row["leased_until_ms"] > row["now_ms"]:
                name = last.name
                raise LeaseHeld(
                    f"Migration {migration} is led by {name}.",
                    holder=name,
                    guest_at="it is being moved by that process",
                    hint=f"'segue watch {migration}' shows it; its lease runs out in "
                    f"{(row['leased_until_ms'] - row['now_ms']) / 1000:.1f} s if it does not renew it.",
                )
            epoch, until_ms = row["epoch"] + 1, row["now_ms"] + ttl_ms
            self._change(transaction, migration, holder=_json(holder), epoch=epoch, leased_until_ms=until_ms)
        return Lease(migration=migration, holder=holder, epoch=epoch, until_ms=until_ms)

    def renew(self, lease: Lease, *, ttl_ms: int) -> Lease:
        """Hold it for so long from now."""
        with self._database.transaction(writes=True) as transaction:
            now_ms = self._check(transaction, lease)
            self._change(transaction, lease.migration, leased_until_ms=now_ms + ttl_ms)
        return replace(lease, until_ms=now_ms + ttl_ms)

    def release(self, lease: Lease) -> None:
        """Give it up."""
        with self._database.transaction(writes=True) as transaction:
            transaction.run(
                "UPDATE migrations SET leased_until_ms = 0 WHERE id = :id AND epoch = :epoch",
                id=lease.migration,
                epoch=lease.epoch,
            )

    def _check(self, transaction: Transaction, lease: Lease) -> int:
        """See that the lease is its holder's, and keep it so until the transaction ends; the database's time."""
        row = self._locked(transaction, lease.migration)
        if row is None:
            raise StoreError(f"Migration {lease.migration} is not written down any more.", hint="Was the database replaced?")
        if row["epoch"] != lease.epoch:
            raise LeaseLost(
                f"Another process has taken over migration {lease.migration}; this one acts no more.",
                hint=f"'segue status {lease.migration}' says how it goes.",
            )
        return int(row["now_ms"])

    def _locked(self, transaction: Transaction, migration: str) -> Row | None:
        """Who leads it, which nobody else changes until the transaction ends, and the database's time."""
        query = f"SELECT holder, epoch, leased_until_ms, {self._database.NOW_MS} AS now_ms FROM migrations WHERE id = :migration"
        return next(iter(transaction.run(query + self._database.LOCKED, migration=migration)), None)

    # what is written on the way

    def write(self, lease: Lease, changes: Sequence[Change]) -> None:
        """Write all of it or nothing."""
        with self._database.transaction(writes=True) as transaction:
            self._check(transaction, lease)
            for change in changes:
                self._write(change, transaction, lease.migration)

    @singledispatchmethod
    def _write(self, change: Change, _transaction: Transaction, _migration: str) -> None:
        raise TypeError(f"{change!r} cannot be written down")

    @_write.register
    def _(self, change: Transition, transaction: Transaction, migration: str) -> None:
        _insert(transaction, "transitions", {"migration": migration, **asdict(change)})
        values: dict[str, object] = {"state": change.state}
        [row] = transaction.run("SELECT state FROM migrations WHERE id = :migration", migration=migration)
        before = State(row["state"])
        if change.state in PHASES and not before.is_end:  # to look at an end once more is no progress on the way
            values["phase"] = change.state
        if not change.state.is_end:
            values |= {"outcome": None, "settled": False}
        self._change(transaction, migration, **values)

    @_write.register
    def _(self, change: Entry, transaction: Transaction, migration: str) -> None:
        _insert(transaction, "journal", {"migration": migration, **asdict(change), "detail": _text(change.detail)})
        if (change.action, change.step) == (Action.RESUME_DESTINATION, Step.INTENT):
            self._change(transaction, migration, told_to_run=True)

    @_write.register
    def _(self, change: Note, transaction: Transaction, migration: str) -> None:
        _insert(transaction, "notes", {"migration": migration, **asdict(change), "text": _text(change.text)})

    @_write.register
    def _(self, change: Sample, transaction: Transaction, migration: str) -> None:
        row = {"migration": migration, "at_ms": change.at_ms, "progress": _json(change.progress)}
        _insert(transaction, "samples", row)

    @_write.register
    def _(self, change: Settings, transaction: Transaction, migration: str) -> None:
        self._change(transaction, migration, settings=_json(change))

    @_write.register
    def _(self, change: Ended, transaction: Transaction, migration: str) -> None:
        self._change(transaction, migration, outcome=_json(change.outcome), settled=change.settled)

    def _change(self, transaction: Transaction, migration: str, **values: object) -> None:
        changes = ", ".join(f"{name} = :{name}" for name in values)
        transaction.run(f"UPDATE migrations SET {changes} WHERE id = :migration", migration=migration, **values)

    # what others want

    def wish(self, migration: str, wishes: Wishes) -> int:
        """Add to what is wanted of it."""
        with self._database.transaction(writes=True) as transaction:
            now = self._wishes(transaction, migration, lock=True)
            asked = {name: value for name, value in asdict(wishes).items() if value is not None and value is not False}
            now = replace(now, **(asked | {"revision": now.revision + 1}))
            self._change(transaction, migration, wishes=_json(now))
        return now.revision

    def wishes(self, migration: str) -> Wishes:
        """What is wanted of it now."""
        with self._database.transaction() as transaction:
            return self._wishes(transaction, migration, lock=False)

    def _wishes(self, transaction: Transaction, migration: str, *, lock: bool) -> Wishes:
        query = "SELECT wishes FROM migrations WHERE id = :migration" + (self._database.LOCKED if lock else "")
        rows = transaction.run(query, migration=migration)
        if not rows:
            raise MigrationNotFound(f"No migration is written down as {migration!r}.")
        return _read(Wishes, rows[0]["wishes"])

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()


def _read(kind: type[T], text: str) -> T:
    return msgspec.json.decode(text, type=kind)


def _json(value: DataclassInstance) -> str:
    return _text(json.dumps(asdict(value), ensure_ascii=False))


def _text(words: str) -> str:
    """As both databases take it: what a process said may hold NULs and broken UTF-8, and must not stop the writing."""
    return words.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def _insert(transaction: Transaction, table: str, row: Mapping[str, object]) -> None:
    names, places = ", ".join(row), ", ".join(f":{name}" for name in row)
    transaction.run(f"INSERT INTO {table} ({names}) VALUES ({places})", **row)


def _of(transaction: Transaction, table: str, migration: str) -> Sequence[Row]:
    return transaction.run(f"SELECT * FROM {table} WHERE migration = :migration ORDER BY number", migration=migration)


def _record(row: Row) -> Record:
    lease = None
    if row["holder"] is not None:
        holder = _read(Holder, row["holder"])
        lease = Lease(migration=row["id"], holder=holder, epoch=row["epoch"], until_ms=row["leased_until_ms"])
    return Record(
        spec=_read(MigrationSpec, row["spec"]),
        source=_read(HostAddress, row["source"]),
        destination=_read(HostAddress, row["destination"]),
        created_at_ms=row["created_at_ms"],
        state=State(row["state"]),
        phase=State(row["phase"]),
        told_to_run=bool(row["told_to_run"]),
        wishes=_read(Wishes, row["wishes"]),
        settings=_read(Settings, row["settings"]) if row["settings"] else None,
        outcome=_read(Outcome, row["outcome"]) if row["outcome"] else None,
        settled=bool(row["settled"]),
        lease=lease,
        led=bool(row["led"]) and lease is not None,
    )
