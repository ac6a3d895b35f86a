"""``./run demo``: four moves of three running guests between two real hosts, each watched by the auditor, and a table at the end.

(1) a bare QEMU guest; (2) a libvirt guest under managed direct control, and back peer-to-peer; (3) a guest that writes memory
faster than the link carries it. The moves are made by ``segue migrate`` itself, as a user would make them, from the lab's admin
host. Everything is taken down at the end, also on Ctrl-C and on failure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from segue import units
from segue.cli import render
from segue.cli.main import explain
from segue.core.model import JobStatus, Progress
from segue.core.phases import State
from segue.core.policy import Decision
from segue.errors import LabError, SegueError
from segue.lab import Lab, down, guests, up
from segue.lab.guests import GuestSpec
from segue.lab.observe import Report, observe

NAME: Final = "demo"
LINK: Final = "1gbit"
SEGUE: Final = str(Path(sys.executable).with_name("segue"))

BARE: Final = GuestSpec(
    name="bare", host="alpha", kind="qemu", touch_bytes=64 * units.MIB, set_bytes=8 * units.MIB, rate="4", disk=True
)
MANAGED: Final = GuestSpec(
    name="managed", host="alpha", kind="libvirt", touch_bytes=64 * units.MIB, set_bytes=8 * units.MIB, rate="4", disk=True
)
# 96 MiB written over and over at 160 MiB/s, all of each page, over a link that carries 114: what is left never fits into the
# allowed downtime, and deltas do not make it less.
BUSY: Final = GuestSpec(
    name="busy",
    host="alpha",
    kind="libvirt",
    memory_bytes=320 * units.MIB,
    touch_bytes=128 * units.MIB,
    set_bytes=96 * units.MIB,
    rate="160",
    fill="whole",
    disk=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One move of the demo: what a user would type after ``segue migrate GUEST DESTINATION``."""

    guest: str
    destination: str
    what: str
    options: tuple[str, ...] = ()


MOVES: Final = (
    (BARE, Move(guest="bare", destination="beta", what="bare QEMU, through both monitors")),
    (MANAGED, Move(guest="managed", destination="beta", what="libvirt, managed direct")),
    (MANAGED, Move(guest="managed", destination="alpha", what="libvirt, peer-to-peer", options=("--control", "p2p"))),
    (BUSY, Move(guest="busy", destination="beta", what="libvirt, writes faster than the link", options=("--postcopy",))),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """How one move went: Segue's own outcome, and what the auditor saw of it."""

    move: Move
    outcome: dict[str, object]
    report: Report

    @property
    def good(self) -> bool:
        """The guest moved, and the auditor agrees."""
        return self.outcome["outcome"] == "moved" and self.report.clean and self.report.running_on == self.outcome["owner"]


async def migrate(lab: Lab, move: Move, *, quiet: bool) -> dict[str, object]:
    """Run ``segue migrate`` from the admin host, show its progress, and return its outcome.

    Raises:
        LabError: it ended without one.
    """
    argv = lab.enter_argv("admin", [SEGUE, "migrate", move.guest, move.destination, *move.options, "--json"])
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    if process.stdout is None or process.stderr is None:
        raise AssertionError("pipes were asked for")
    notes = asyncio.create_task(process.stderr.read())
    display = None if quiet else render.display(f"{move.guest} → {move.destination}", as_json=False)
    outcome: dict[str, object] = {}
    try:
        async for line in process.stdout:
            said = json.loads(line)
            if "outcome" in said:
                outcome = said
            elif display is not None:
                _show(display, said)
        said_on_stderr = (await notes).decode(errors="replace").strip()
        await process.wait()
    finally:
        if display is not None:
            display.close()
        if process.returncode is None:
            process.send_signal(signal.SIGINT)  # as a user would: it turns back
            await process.wait()
    if not outcome:
        raise LabError(f"segue migrate {move.guest} {move.destination} ended without an outcome. {said_on_stderr}")
    return outcome


def _show(display: render.Display, said: dict[str, object]) -> None:
    """Feed one sample of ``segue migrate --json`` to the display that ``segue migrate`` itself uses."""
    known = {name: said[name] for name in Progress.__slots__ if name in said}
    display.state(State(str(said["phase"])))
    display.progress(Progress(**{**known, "status": JobStatus(str(said["status"]))}))  # type: ignore[arg-type]


async def run(*, quiet: bool, say: Callable[[str], None]) -> list[Row]:
    """Bring the lab up, make the moves, take everything down."""
    lab = await up(name=NAME, hosts=2, rate_bps=units.parse_rate(LINK), say=say)
    rows: list[Row] = []
    try:
        say(f"guests: {BARE.name} (QEMU alone) and {MANAGED.name} (libvirt) boot on alpha")
        await asyncio.gather(guests.start(lab, BARE), guests.start(lab, MANAGED))
        for spec, move in MOVES:
            if spec.name not in guests.records(lab):
                await asyncio.gather(*(guests.stop(lab, name) for name in guests.records(lab)))
                say(f"guests: {spec.name} boots and begins to write {spec.rate} MiB/s")
                await guests.start(lab, spec)
            say(f"{move.guest} → {move.destination}: {move.what}")
            async with observe(lab, move.guest) as watch:
                outcome = await migrate(lab, move, quiet=quiet)
                rows.append(Row(move=move, outcome=outcome, report=await watch.report()))
            for decision in _strings(outcome.get("decisions")):
                say(f"  {decision}")
    finally:
        say("taking the lab down")
        await asyncio.shield(down(NAME))
    return rows


def _strings(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


HEADINGS: Final = (
    "GUEST",
    "MOVE",
    "HOW",
    "TOTAL",
    "DOWNTIME (QEMU)",
    "DOWNTIME (SEEN)",
    "SENT",
    "ITERATIONS",
    "TICKS LOST",
    "RECORDS LOST/DOUBLED",
    "COPIES",
    "OWNER",
)


def cells(row: Row) -> tuple[str, ...]:
    """One move as a line of the table."""
    outcome, report = row.outcome, row.report
    disk = report.disk
    downtime = outcome["downtime_ms"]
    return (
        row.move.guest,
        f"{outcome['source']} → {outcome['destination']}",
        f"{outcome['driver']} {outcome['control']}{' + post-copy' if _went_over(outcome.get('decisions')) else ''}",
        units.format_duration_ms(_int(outcome["total_ms"])),
        "not said" if downtime is None else f"{downtime} ms",
        f"{report.client_gap_ms} ms",
        units.format_bytes(_int(outcome["bytes_sent"])),
        str(outcome["iterations"]),
        str(report.ticks_lost),
        f"{disk.lost}/{disk.doubled}" if disk else "no disk",
        str(report.copies),
        str(outcome["owner"]) or "not proven",
    )


def _went_over(decisions: object) -> bool:
    return isinstance(decisions, list) and any(str(one).startswith(Decision.START_POSTCOPY) for one in decisions)


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0


def as_object(row: Row) -> dict[str, object]:
    """One move as an element of ``moves``."""
    report = row.report
    seen = {
        "what": row.move.what,
        "downtime_seen_ms": report.client_gap_ms,
        "tick_gap_ms": report.tick_gap_ms,
        "ticks_lost": report.ticks_lost,
        "ticks_repeated": report.ticks_repeated,
        "records_lost": report.disk.lost if report.disk else None,
        "records_doubled": report.disk.doubled if report.disk else None,
        "copies": report.copies,
        "good": row.good,
    }
    return {**row.outcome, **seen, "audit": asdict(report)}


def main() -> int:
    """Run the demo; exit status 0 when every guest moved and nothing of it was lost or done twice."""
    parser = argparse.ArgumentParser(prog="./run demo", description="Move running guests between two real hosts and prove it.")
    parser.add_argument("--json", action="store_true", help="one object with a list of moves, and no progress")
    words = parser.parse_args()

    async def interruptible() -> list[Row]:
        task = asyncio.ensure_future(run(quiet=words.json, say=render.say))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await task

    try:
        rows = asyncio.run(interruptible())
    except asyncio.CancelledError:
        render.say("interrupted; everything is taken down")
        return 130
    except SegueError as error:
        print(explain(error), file=sys.stderr)  # noqa: T201  # this is a program
        return error.exit_code
    good = all(row.good for row in rows)
    if words.json:
        render.print_json({"moves": [as_object(row) for row in rows], "good": good})
    else:
        render.table(HEADINGS, [cells(row) for row in rows], none="nothing moved")
        render.say("every guest arrived whole, and one copy ran at any time" if good else "NOT as it should be: see the table")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
