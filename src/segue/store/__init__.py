"""Where migrations are written down: SQLite in a file of one's own, or PostgreSQL by URL, with the same code.

What may live here: `open_store`, and where the file is when nobody says. SQLAlchemy is loaded when a store is opened.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from segue.errors import StoreError

if TYPE_CHECKING:
    from segue.core.ports import Store

VARIABLE: Final = "SEGUE_STATE"
FILE: Final = "segue.db"


def state_directory() -> Path:
    """Where the file is when ``$SEGUE_STATE`` does not say: /var/lib/segue for root, else below the user's own state (XDG).

    Raises:
        StoreError: this user has no home.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/segue")
    try:
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "segue"
    except RuntimeError as error:
        raise StoreError(
            "This user has no home directory to write migrations down in.", hint=f"Name a place: {VARIABLE}."
        ) from error


def open_store(where: str = "") -> Store:
    """Open the store, and make it when it is not there.

    Args:
        where: a directory, or the URL of a PostgreSQL database; default: ``$SEGUE_STATE``, else `state_directory`.

    Raises:
        StoreError: with what is wrong with it, and what to do.
    """
    from segue.store.database import postgresql, sqlite
    from segue.store.sql import SqlStore

    place = where or os.environ.get(VARIABLE) or str(state_directory())
    return SqlStore(postgresql(place) if "://" in place else sqlite(Path(place) / FILE))
