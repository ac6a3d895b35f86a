"""``segue watch``: follow a migration that another process leads."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from segue.cli import exit_codes, render, written
from segue.cli.written import Id, Json

if TYPE_CHECKING:
    from segue.core.ports import Store
    from segue.core.record import Record


def watch(migration: Id, *, as_json: Json = False) -> None:
    """Watch a migration until it ends; Ctrl-C ends the watching and nothing else. Exit status: how it ended.

    \b
    Examples:
      segue watch 3f2a
      segue watch 3f2a --json
    """  # noqa: D301  # \b is click's mark for "keep these lines"
    import asyncio

    with written.opened() as store:
        record = store.load(migration)
        try:
            record = asyncio.run(follow(store, record, as_json=as_json))
        except KeyboardInterrupt:
            render.say(f"it goes on: 'segue watch {record.id}' shows it again, 'segue cancel {record.id}' turns it back")
            raise typer.Exit(130) from None
    raise typer.Exit(told(record, as_json=as_json))


async def follow(store: Store, record: Record, *, as_json: bool) -> Record:
    """Show a migration until its end; returns it as it is then."""
    from segue.core.model import Progress
    from segue.core.record import Record
    from segue.engine import outside
    from segue.engine.runner import Told

    display = render.display(f"{record.spec.guest} → {record.spec.destination}", as_json=as_json)
    try:
        async for seen in outside.watch(store, record.id):
            match seen:
                case Record():
                    record = seen
                    display.state(seen.state)
                case Progress():
                    display.progress(seen)
                case Told():
                    display.note(seen.text)
    finally:
        display.close()
    return record


def told(record: Record, *, as_json: bool) -> int:
    """Print how it ended; the exit status that says the same."""
    outcome = record.outcome
    if outcome is None:
        raise AssertionError("it has ended")
    if as_json:
        render.print_json(asdict(outcome))
    else:
        typer.echo(render.summary(outcome))
    return exit_codes.of_outcome(outcome)
