"""What is wrong with a database, in words, and what to do about it.

What may live here: the tables from what the system, SQLite, PostgreSQL and its client say to a sentence. A number wins over a
text: texts come in the language of the server.
"""

from __future__ import annotations

import errno
from typing import Final

from segue.errors import StoreError

_Words = tuple[str, str]
"""The end of "The database NAME …", and the hint."""

_ELSEWHERE: Final = "or name another place with SEGUE_STATE"
_LOCKED: Final = ("is locked by another process", "Look who has it open ('fuser -v' names them), and try again.")
_FULL: Final = ("cannot be written: the disk is full", f"Make room, {_ELSEWHERE}.")
_READ_ONLY: Final = ("is read-only", f"Give this user the right to write it, {_ELSEWHERE}.")
_DENIED: Final = ("cannot be opened: no permission", f"Give this user the right to write it, and its directory, {_ELSEWHERE}.")
_NO_PLACE: Final = ("cannot be made: what should be its directory is none", "Name another place with SEGUE_STATE.")
_BROKEN: Final = ("cannot be read or written: the disk has errors, or is full", "Look at the kernel's log and at df.")
_SHUT: Final = ("cannot be opened", "Look at the permissions of its directory.")
_DAMAGED: Final = (
    "is damaged",
    "Move it away with its -wal and -shm, and Segue makes a new one; "
    "'sqlite3 FILE .recover' may save what is written in it. 'segue guests' shows where each guest is.",
)
_NO_DATABASE: Final = ("is not a database", f"Move that file away, {_ELSEWHERE}.")
_SILENT: Final = ("does not answer", "Is the server up, and does its firewall let this machine through?")
_PASSWORD: Final = ("refuses the password", "Put the right one into SEGUE_STATE, or into ~/.pgpass.")
_REFUSED: Final = ("does not let this user in", "Look at the server's pg_hba.conf, and at the user in SEGUE_STATE.")
_MISSING: Final = ("is not there", "Make it: createuser and createdb, on the server.")
_RIGHTS: Final = ("does not give this user the rights that it needs", "Make the user the owner of the database.")
_CROWDED: Final = ("takes no more connections", "Try again later, or raise its max_connections.")

SYSTEM: Final[dict[int, _Words]] = {
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EROFS: _READ_ONLY,
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EEXIST: _NO_PLACE,
    errno.ENOTDIR: _NO_PLACE,
    errno.ENOENT: _NO_PLACE,
    errno.EIO: _BROKEN,
}
"""By errno: before SQLite has opened the file."""

SQLITE: Final[dict[int, _Words]] = {
    3: _DENIED,
    5: _LOCKED,
    6: _LOCKED,
    8: _READ_ONLY,
    10: _BROKEN,
    11: _DAMAGED,
    13: _FULL,
    14: _SHUT,
    26: _NO_DATABASE,
}
"""By the primary result code (https://sqlite.org/rescode.html)."""

POSTGRESQL: Final[dict[str, _Words]] = {
    "08": _SILENT,
    "25006": _READ_ONLY,
    "25P03": ("ended this session, which stood still for too long", "Try again."),
    "3D000": _MISSING,
    "42501": _RIGHTS,
    "53100": _FULL,
    "53300": _CROWDED,
    "55P03": _LOCKED,
    "57014": ("did not answer in time", "Look what holds it up: SELECT * FROM pg_stat_activity."),
    "57P": _SILENT,
}
"""By SQLSTATE, or the beginning of it (PostgreSQL, appendix A)."""

CLIENT: Final[dict[str, _Words]] = {
    "password authentication failed": _PASSWORD,
    "no password supplied": _PASSWORD,
    "pg_hba.conf": _REFUSED,
    "authentication failed": _REFUSED,
    "does not exist": _MISSING,
    "too many clients": _CROWDED,
    "remaining connection slots": _CROWDED,
    "failed to resolve host": _SILENT,
    "connection": _SILENT,
}
"""By what psycopg says while it connects, which comes without a number. The first that fits."""


def in_words(name: str, error: Exception) -> StoreError:
    """One sentence of what is wrong with the database of that name, and what to do."""
    said = str(error).strip().partition("\n")[0] or type(error).__name__
    words, hint = _look_up(error, said) or (f"cannot be used: {said}", f"Look at it with its own tools, {_ELSEWHERE}.")
    return StoreError(f"The database {name} {words}.", hint=hint)


def _look_up(cause: BaseException, said: str) -> _Words | None:
    if isinstance(cause, UnicodeError):
        return f"cannot hold that text: {said}", "Rename what has it in its name."
    if isinstance(cause, ValueError):
        return f"holds what this Segue does not understand: {said}", f"If a newer one wrote it, use that one, {_ELSEWHERE}."
    if isinstance(cause, OSError):
        return SYSTEM.get(cause.errno or 0)
    if (code := getattr(cause, "sqlite_errorcode", None)) is not None:
        return SQLITE.get(code & 0xFF)
    if state := getattr(cause, "sqlstate", None):
        return next((words for beginning, words in POSTGRESQL.items() if state.startswith(beginning)), None)
    return next((words for sign, words in CLIENT.items() if sign in said), None)
