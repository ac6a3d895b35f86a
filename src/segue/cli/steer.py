"""``segue cancel`` and ``segue tune``: ask something of a migration that another process leads."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from segue import units
from segue.cli import render, watch, written
from segue.cli.written import Id, Json
from segue.core.model import OnMiss


def cancel(migration: Id, *, as_json: Json = False) -> None:
    """Turn a migration back. Done when the guest is seen running on the source and nothing is left on the destination.

    Exit status 4 then; 0 when it was too late and the guest has moved; 3 when there is no way back any more.

    \b
    Examples:
      segue cancel 3f2a
    """  # noqa: D301  # \b is click's mark for "keep these lines"
    import asyncio

    from segue.engine import outside

    with written.opened() as store:
        record = store.load(migration)
        asyncio.run(outside.cancel(store, record.id))
        record = asyncio.run(watch.follow(store, record, as_json=as_json))
    raise typer.Exit(watch.told(record, as_json=as_json))


def tune(
    migration: Id,
    *,
    max_downtime: Annotated[
        str, typer.Option(metavar="TIME", help="The guest may stand still this long at the switchover (bare: ms).")
    ] = "",
    bandwidth: Annotated[str, typer.Option(metavar="RATE", help="At most this much, as 100MiB/s or 1gbit (bare: MiB/s).")] = "",
    within: Annotated[
        str, typer.Option(metavar="TIME", help="To be done by then, counted from its beginning (bare: seconds).")
    ] = "",
    max_slowdown: Annotated[
        str, typer.Option(metavar="PERCENT", help="The guest's CPUs may be slowed by so much at the most, as 30%.")
    ] = "",
    max_bytes: Annotated[str, typer.Option(metavar="SIZE", help="No more than this over the wire, all of it counted.")] = "",
    on_miss: Annotated[OnMiss | None, typer.Option(help="What to do when it is not done in that time or that much.")] = None,
    postcopy_now: Annotated[bool, typer.Option("--postcopy-now", help="Go over to post-copy now.")] = False,
    as_json: Json = False,
) -> None:
    """Change the limits of a migration that is under way, and show what is in force then, read back from the hypervisor.

    \b
    Examples:
      segue tune 3f2a --max-downtime 500ms
      segue tune 3f2a --bandwidth 50MiB/s
      segue tune 3f2a --within 10min --on-miss suspend
      segue tune 3f2a --postcopy-now
    """  # noqa: D301  # \b is click's mark for "keep these lines"
    import asyncio

    from segue.core.record import Wishes
    from segue.engine import outside

    wishes = Wishes(
        max_downtime_ms=units.parse_downtime_ms(max_downtime) if max_downtime else None,
        bandwidth_bps=units.parse_rate(bandwidth) if bandwidth else None,
        within_ms=units.parse_duration_ms(within, bare="s") if within else None,
        max_slowdown_percent=units.parse_percent(max_slowdown) if max_slowdown else None,
        max_bytes=units.parse_bytes(max_bytes) if max_bytes else None,
        on_miss=on_miss,
        postcopy_now=postcopy_now,
    )
    if wishes == Wishes():
        raise typer.BadParameter(
            "Say what to change: --max-downtime, --bandwidth, --within, --max-slowdown, --max-bytes, --on-miss or --postcopy-now."
        )
    with written.opened() as store:
        record = store.load(migration)
        settings = asyncio.run(outside.tune(store, record.id, wishes))
    if as_json:
        render.print_json({"id": record.id, **asdict(settings)})
        return
    typer.echo(f"{record.id}: {written.in_force(settings)}.")
