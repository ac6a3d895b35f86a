"""``segue history`` and ``segue status``: migrations that were, and those that are under way or wait for somebody."""

from __future__ import annotations

from typing import Annotated

import typer

from segue.cli import render, written
from segue.cli.written import Json


def history(
    *,
    guest: Annotated[str, typer.Option(help="Only of this guest.")] = "",
    host: Annotated[str, typer.Option(help="Only from or to this host.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest first.")] = 20,
    as_json: Json = False,
) -> None:
    """List migrations, the newest first.

    \b
    Examples:
      segue history --guest web1
      segue history --host alpha --limit 100 --json
    """  # noqa: D301  # \b is click's mark for "keep these lines"
    with written.opened() as store:
        records = store.find(guest=guest, host=host, limit=limit)
    if as_json:
        for record in records:
            render.print_json(written.facts(record))
    else:
        render.table(written.HEADINGS, [written.row(record) for record in records], none="nothing is written down")


def status(
    migration: Annotated[str, typer.Argument(metavar="[ID]", help="One migration; default: all that are not settled.")] = "",
    *,
    as_json: Json = False,
) -> None:
    """Show what is under way, and what waits for somebody to recover it.

    Exit status 1 when something waits.

    \b
    Examples:
      segue status
      segue status 3f2a --json
    """  # noqa: D301  # \b is click's mark for "keep these lines"
    from segue.engine.outside import is_led

    with written.opened() as store:
        records = [store.load(migration)] if migration else store.find(unsettled=True, limit=1000)
    if as_json:
        for record in records:
            render.print_json(written.facts(record))
    else:
        render.table(written.HEADINGS, [written.row(record) for record in records], none="nothing is under way")
    if any(not record.settled and not is_led(record) for record in records):
        raise typer.Exit(1)
