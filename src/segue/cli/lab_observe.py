"""``segue lab observe``: the auditor on the command line."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from segue import units
from segue.cli import render

if TYPE_CHECKING:
    from segue.lab.observe import Report


def observe(
    name: Annotated[str, typer.Argument(help="A guest of the lab.")],
    *,
    duration: Annotated[str, typer.Option("--for", metavar="TIME", help="How long (bare: seconds); default: until Ctrl-C.")] = "",
    lab: Annotated[str, typer.Option("--lab", envvar="SEGUE_LAB", help="Which lab.")] = "segue",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Watch a guest from outside, and say what it lost, what it lived through twice, and how many copies ran.

    Exit status 1 when anything is wrong.

    \b
    Examples:
      segue lab observe web1 --for 10s          while another terminal moves it
      segue lab observe web1 --json
    """  # noqa: D301  # \b is click's mark for "keep these lines"
    seconds = units.parse_duration_ms(duration, bare="s") / 1000 if duration else None
    report = asyncio.run(_watch(name, lab, seconds))
    if as_json:
        render.print_json({**asdict(report), "clean": report.clean})
    else:
        render.table(("WHAT", "SEEN"), rows(report), none="nothing")
    raise typer.Exit(0 if report.clean else 1)


async def _watch(name: str, lab: str, seconds: float | None) -> Report:
    from segue.lab import Lab
    from segue.lab.observe import observe as watching

    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with watching(Lab.load(lab), name) as watch:
        render.say(f"watching {name}{f' for {seconds:g} s' if seconds else ', Ctrl-C ends it'}")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await ended.wait()
        return await watch.report()


def rows(report: Report) -> list[tuple[str, str]]:
    """The report as a person reads it."""
    disk = report.disk
    return [
        ("watched", units.format_duration_ms(report.window_ms)),
        ("longest silence to clients", f"{report.client_gap_ms} ms ({report.answers} of {report.probes} probes answered)"),
        ("longest silence of ticks", f"{report.tick_gap_ms} ms as they arrived, {report.guest_gap_ms} ms by the guest's clock"),
        ("the guest's clock", "not known" if report.guest_lost_ms is None else f"fell behind by {report.guest_lost_ms} ms"),
        ("ticks", f"{report.ticks}: {report.ticks_lost} lost, {report.ticks_repeated} repeated"),
        ("memory", f"{report.memory_errors} errors"),
        (
            "disk",
            f"{disk.written} records: {disk.lost} lost, {disk.doubled} doubled, {disk.out_of_order} out of order, "
            f"{disk.chain_breaks} breaks in the chain"
            if disk
            else "none",
        ),
        ("copies at one time", f"{report.copies}, on {', '.join(report.hosts) or 'no host'}"),
        ("runs now on", report.running_on or "no host"),
    ]
