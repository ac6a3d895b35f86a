"""``segue forecast``: say beforehand what a migration would come to."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from segue import units
from segue.cli import asking, render

if TYPE_CHECKING:
    from segue.core.forecast import Forecast, Prospect
    from segue.core.measured import Seen


@asking.of_migration
def forecast(
    *,
    asked: asking.Asked,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Say how long a migration would take, how long the guest would stand still, whether it converges at all, and what to choose.

    The guest is watched for seven seconds, and runs on as before. Nothing is moved. Exit status 1 where nothing that is allowed
    keeps what is promised, or something was not measured.

    \b
    Examples:
      segue forecast web1 beta
      segue forecast web1 beta --max-downtime 100ms --within 10min --postcopy
      segue forecast web1 beta --json
    """  # noqa: D301  # \b is click's mark for "keep these lines"
    import asyncio

    import segue
    from segue.core.deltas import come_first
    from segue.core.forecast import sentence

    migration = segue.migrate(**asked)
    record, outlook = asyncio.run(migration.forecast(tell=(lambda _: None) if as_json else render.say))
    expected, limits = outlook.expected, record.spec.limits
    said = sentence(expected, limits, deltas=come_first(record.spec, expected)) if expected else ""
    if as_json:
        render.print_json(
            {
                "guest": record.spec.guest,
                "source": record.spec.source,
                "destination": record.spec.destination,
                "sentence": said,
                "unmeasured": outlook.unmeasured,
                "seen": asdict(outlook.seen),
                "forecast": asdict(expected) if expected else None,
            }
        )
    else:
        for line in _seen(outlook.seen):
            typer.echo(line)
        for missing in outlook.unmeasured:
            render.say(f"not measured: {missing}")
        if expected is not None:
            typer.echo("")
            _table(expected)
            typer.echo(f"\n{said[:1].upper()}{said[1:]}.")
    raise typer.Exit(0 if expected is not None and expected.choice is not None else 1)


def _seen(seen: Seen) -> list[str]:
    lines = []
    if seen.touched is not None:
        lines.append(f"memory in use  {seen.touched.bytes.shown(units.format_bytes)}, {seen.touched.how}")
    if seen.windows:
        dirtied = ", ".join(f"{units.format_bytes(one.dirtied_bytes)} in {one.ms // 1000} s" for one in seen.windows)
        lines.append(f"dirtied        {dirtied}")
    if seen.path is not None:
        lines.append(f"the path       {seen.path.bps.shown(units.format_rate)}, {seen.path.how}")
    return lines


def _table(expected: Forecast) -> None:
    rows = [_row(prospect) for prospect in (expected.precopy, expected.throttled, expected.postcopy)]
    render.table(("WAY", "CONVERGES", "TAKES", "STANDS STILL", "SENDS"), rows, none="")
    typer.echo(f"\nPre-copy needs {expected.needed_downtime_ms.shown(units.format_duration_ms)} of standstill to converge.")


def _row(prospect: Prospect) -> tuple[str, ...]:
    way = f"{prospect.means} ({prospect.throttle_percent} %)" if prospect.throttle_percent else str(prospect.means)
    verdict = ("" if prospect.sure else "likely ") + ("yes" if prospect.converges else "no")
    if prospect.total_ms is None or prospect.downtime_ms is None or prospect.sent_bytes is None:
        return (way, verdict, "-", "-", "-")
    duration = units.format_duration_ms
    return (
        way,
        verdict,
        prospect.total_ms.shown(duration),
        prospect.downtime_ms.shown(duration),
        prospect.sent_bytes.shown(units.format_bytes),
    )
