"""Brings a database to the newest revision of the tables, with Alembic.

What may live here: `upgrade`, and one script a revision: together they are what the tables look like.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool


def upgrade(dialect: str, connect: Callable[[], Any], alone: Sequence[str]) -> None:
    """Bring the database up; what is not there is made, in one transaction.

    Args:
        dialect: SQLAlchemy's name of the kind of database, and of what speaks to it.
        connect: makes a connection.
        alone: statements with which the transaction begins; after them no other process makes tables.

    Raises:
        Exception: the driver's own.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    engine = create_engine(f"{dialect}://", creator=connect, poolclass=NullPool)
    try:
        with engine.begin() as connection:
            for statement in alone:
                connection.exec_driver_sql(statement)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except DBAPIError as error:
        raise error.orig or error from error
