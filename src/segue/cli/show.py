"""``segue show``: all that is written of one migration, in the order in which it happened."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segue import units
from segue.cli import render, written
from segue.cli.written import Id, Json
from segue.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segue.core.record import Record, Sample, Story


def show(
    migration: Id,
    *,
    plot: Annotated[bool, typer.Option("--plot", help="Draw it: what was left, how fast, and what was decided when.")] = False,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the same as a picture.")] = None,
    as_json: Json = False,
) -> None:
    """Show one migration: what was asked, what is in force, every phase, every action, what was seen, how it ended.

    \b
    Examples:
      segue show 3f2a
      segue show 3f2a --plot
      segue show 3f2a --svg 3f2a.svg
      segue show 3f2a --json
    """  # noqa: D301  # \b is click's mark for "keep these lines"
    with written.opened() as store:
        record = store.load(migration)
        story = store.story(record.id)
        samples = store.samples(record.id)
    if as_json:
        render.print_json({**written.facts(record), **asdict(story), "samples": [asdict(sample) for sample in samples]})
        return
    if plot or svg is not None:
        _draw(record, story, samples, in_terminal=plot, svg=svg)
        return
    for heading, value in _facts(record):
        typer.echo(f"{heading:12}{value}")
    typer.echo(f"{'samples':12}{len(samples)}\n")
    for line in _timeline(record, story):
        typer.echo(line)


def _draw(record: Record, story: Story, samples: Sequence[Sample], *, in_terminal: bool, svg: Path | None) -> None:
    """Draw it where it was asked for.

    Raises:
        UsageError: the file cannot be written.
    """
    from rich.console import Console

    from segue.cli import plot

    drawn = plot.plot(record, story, samples)
    if svg is not None:
        try:
            svg.write_text(plot.svg(drawn), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{svg} cannot be written: {error.strerror}.") from error
        render.say(f"the picture is in {svg}")
    if in_terminal:
        console = Console(highlight=False)
        for line in plot.terminal(drawn, width=console.width):
            console.print(line, no_wrap=True, crop=False)


def _facts(record: Record) -> list[tuple[str, str]]:
    spec, limits = record.spec, record.spec.limits
    asked = [
        f"downtime at most {limits.max_downtime_ms} ms",
        f"bandwidth {units.format_rate(limits.bandwidth_bps) if limits.bandwidth_bps else 'unlimited'}",
        f"post-copy {'preferred' if limits.prefer_postcopy else 'allowed' if limits.postcopy else 'not allowed'}",
        *written.promises(limits),
        *([f"policy {spec.policy.name}"] if spec.policy else []),
    ]
    facts = [
        ("migration", record.id),
        ("guest", f"{spec.guest} ({spec.driver}), {spec.source} → {spec.destination}, {spec.control}, {spec.transport}"),
        ("asked", ", ".join(asked)),
    ]
    if (now := record.settings) is not None:
        facts.append(("in force", f"{written.in_force(now)} (read back)"))
    facts.append(("state", f"{record.state}, {'settled' if record.settled else 'not settled'}"))
    if (outcome := record.outcome) is not None:
        facts += [
            ("outcome", f"{outcome.outcome}; it runs on {outcome.owner or 'no host that is proven'}"),
            ("took", units.format_duration_ms(outcome.total_ms)),
            *(
                ("downtime" if not number else "", f"{whose}: {figure}")
                for number, (whose, figure) in enumerate(render.downtime(outcome))
            ),
            ("sent", f"{units.format_bytes(outcome.bytes_sent)} in {outcome.iterations} iterations"),
        ]
        if outcome.error:
            facts.append(("error", outcome.error))
        if outcome.hint:
            facts.append(("to do", outcome.hint))
        facts += [("said", quote) for quote in outcome.quotes]
    return facts


def _timeline(record: Record, story: Story) -> list[str]:
    """Everything that happened, each with its time and how long after the beginning."""
    lines = [
        *((one.at_ms, f"── {one.state}") for one in story.transitions),
        *((one.at_ms, f"   {one.action} {one.step}{f': {one.detail}' if one.detail else ''}") for one in story.entries),
        *((one.at_ms, f"   {one.text}") for one in story.notes),
    ]
    leaders = f" (leader {record.lease.epoch})" if record.lease is not None and record.lease.epoch > 1 else ""
    began = record.created_at_ms
    heading = f"began {written.clock(began)}{leaders}; milliseconds since then"
    return [heading, *(f"{at_ms - began:8d}  {text}" for at_ms, text in sorted(lines, key=lambda line: line[0]))]
