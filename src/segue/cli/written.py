"""What the verbs share that read what is written of migrations: the store, and how a migration looks in a row.

What may live here: opening the store for one verb, and the cells of a table.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segue import units

if TYPE_CHECKING:
    from segue.core.model import Limits
    from segue.core.ports import Store
    from segue.core.record import Record, Settings

Id = Annotated[str, typer.Argument(metavar="ID", help="A migration's id, or the beginning of it.")]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]


@contextlib.contextmanager
def opened() -> Iterator[Store]:
    """The store, closed at the end.

    Raises:
        StoreError: it cannot be used.
    """
    from segue.store import open_store

    store = open_store()
    try:
        yield store
    finally:
        store.close()


def clock(at_ms: int, *, date: bool = True) -> str:
    """A time as people here read it."""
    local = datetime.fromtimestamp(at_ms / 1000, tz=UTC).astimezone()
    return local.strftime("%Y-%m-%d %H:%M:%S" if date else "%H:%M:%S.") + ("" if date else f"{at_ms % 1000:03d}")


def promises(limits: Limits | Settings) -> list[str]:
    """What Segue keeps to by itself, in words."""
    from segue.core.model import OnMiss

    said = [
        f"within {units.format_duration_ms(limits.within_ms)}" if limits.within_ms else "no deadline",
        f"{units.format_bytes(limits.max_bytes)} at most" if limits.max_bytes else "",
        f"slowed by {limits.max_slowdown_percent} % at most" if limits.max_slowdown_percent else "",
        f"else {limits.on_miss}" if limits.within_ms or limits.max_bytes or limits.on_miss is not OnMiss.ABORT else "",
    ]
    return [words for words in said if words]


def in_force(settings: Settings) -> str:
    """The limits that are in force, in words."""
    rate = units.format_rate(settings.bandwidth_bps) if settings.bandwidth_bps else "unlimited"
    return ", ".join((f"downtime at most {settings.max_downtime_ms} ms", f"bandwidth {rate}", *promises(settings)))


HEADINGS = ("ID", "BEGAN", "GUEST", "FROM", "TO", "STATE", "LED BY", "LEFT TO DO")


def row(record: Record) -> tuple[str, ...]:
    """One migration in a table."""
    from segue.engine.outside import is_led

    led = is_led(record)
    return (
        record.id,
        clock(record.created_at_ms),
        record.spec.guest,
        record.spec.source,
        record.spec.destination,
        record.outcome.outcome if record.outcome is not None else record.state,
        record.lease.holder.name if led and record.lease is not None else "-",
        "-" if record.settled or led else f"segue recover {record.id}",
    )


def facts(record: Record) -> dict[str, Any]:
    """The same for JSON, with all that is written of it."""
    from dataclasses import asdict

    from segue.engine.outside import is_led

    return {**asdict(record), "id": record.id, "led": is_led(record)}
