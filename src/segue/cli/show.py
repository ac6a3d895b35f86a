"""``segue show``: all that is written of one migration, in the order in which it happened."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from segue import units
from segue.cli import render, written
from segue.cli.written import Id, Json

if TYPE_CHECKING:
    from segue.core.record import Record, Story


def show(migration: Id, *, as_json: Json = False) -> None:
    """Show one migration: what was asked, what is in force, every phase, every action, what was seen, how it ended.

    \b
    Examples:
      segue show 3f2a
      segue show 3f2a --json
    """  # noqa: D301  # \b is click's mark for "keep these lines"
    with written.opened() as store:
        record = store.load(migration)
        story = store.story(record.id)
        samples = store.samples(record.id)
    if as_json:
        render.print_json({**written.facts(record), **asdict(story), "samples": [asdict(sample) for sample in samples]})
        return
    for heading, value in _facts(record):
        typer.echo(f"{heading:12}{value}")
    typer.echo(f"{'samples':12}{len(samples)}\n")
    for line in _timeline(record, story):
        typer.echo(line)


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
