"""The tables. What may live here: tables and the revision that they stand for; `upgrades` brings an older database up to it.

Values that nothing is searched by are JSON of the frozen values in `segue.core`; times are milliseconds since 1970.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Index, Integer, MetaData, String, Table, Text

REVISION: Final = "0002"
"""The newest of `upgrades`."""

metadata: Final = MetaData()


def _of_a_migration() -> Column[str]:
    return Column("migration", String(64), ForeignKey("migrations.id"), nullable=False)


def _number() -> Column[int]:
    """The order of writing."""
    return Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)


migrations: Final = Table(
    "migrations",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("guest", Text, nullable=False),
    Column("source_name", Text, nullable=False),
    Column("destination_name", Text, nullable=False),
    Column("spec", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("destination", Text, nullable=False),
    Column("state", String(32), nullable=False),
    Column("phase", String(32), nullable=False),
    Column("told_to_run", Boolean, nullable=False),
    Column("wishes", Text, nullable=False),
    Column("settings", Text),
    Column("outcome", Text),
    Column("settled", Boolean, nullable=False),
    Column("holder", Text),
    Column("epoch", BigInteger, nullable=False),
    Column("leased_until_ms", BigInteger, nullable=False),
    Index("migrations_by_time", "created_at_ms"),
    Index("migrations_by_guest", "guest"),
)

transitions: Final = Table(
    "transitions",
    metadata,
    _number(),
    _of_a_migration(),
    Column("at_ms", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("state", String(32), nullable=False),
    Index("transitions_of", "migration"),
)

journal: Final = Table(
    "journal",
    metadata,
    _number(),
    _of_a_migration(),
    Column("at_ms", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("action", String(32), nullable=False),
    Column("step", String(16), nullable=False),
    Column("detail", Text, nullable=False),
    Index("journal_of", "migration"),
)

notes: Final = Table(
    "notes",
    metadata,
    _number(),
    _of_a_migration(),
    Column("at_ms", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("text", Text, nullable=False),
    Index("notes_of", "migration"),
)

samples: Final = Table(
    "samples",
    metadata,
    _number(),
    _of_a_migration(),
    Column("at_ms", BigInteger, nullable=False),
    Column("progress", Text, nullable=False),
    Index("samples_of", "migration"),
)
