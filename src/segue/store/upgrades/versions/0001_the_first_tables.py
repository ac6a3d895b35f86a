"""The first tables: migrations, what happened to them, and what was measured."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

# What each table of things that happened holds beside its number, its migration and its time.
EVENTS: dict[str, dict[str, sa.types.TypeEngine[Any]]] = {
    "transitions": {"epoch": sa.BigInteger(), "state": sa.String(32)},
    "journal": {"epoch": sa.BigInteger(), "action": sa.String(32), "step": sa.String(16), "detail": sa.Text()},
    "notes": {"epoch": sa.BigInteger(), "text": sa.Text()},
    "samples": {"progress": sa.Text()},
}


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "migrations",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("guest", "source_name", "destination_name")),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("spec", "source", "destination")),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("phase", sa.String(32), nullable=False),
        sa.Column("told_to_run", sa.Boolean, nullable=False),
        sa.Column("wishes", sa.Text, nullable=False),
        sa.Column("settings", sa.Text),
        sa.Column("outcome", sa.Text),
        sa.Column("settled", sa.Boolean, nullable=False),
        sa.Column("holder", sa.Text),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("leased_until_ms", sa.BigInteger, nullable=False),
    )
    op.create_index("migrations_by_time", "migrations", ["created_at_ms"])
    op.create_index("migrations_by_guest", "migrations", ["guest"])
    for table, columns in EVENTS.items():
        op.create_table(
            table,
            sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
            sa.Column("migration", sa.String(64), sa.ForeignKey("migrations.id"), nullable=False),
            sa.Column("at_ms", sa.BigInteger, nullable=False),
            *(sa.Column(name, kind, nullable=False) for name, kind in columns.items()),
        )
        op.create_index(f"{table}_of", table, ["migration"])
