"""How things look: progress on stderr, results on stdout, JSON where it was asked for.

A terminal gets a line that is drawn again and again; anything else gets a plain line a second and at every change of phase.
What may live here: turning values of the core into text. rich is loaded only where it draws.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Final, Protocol

from segue import units
from segue.core import convergence
from segue.core.downtime import Client
from segue.core.model import JobStatus, Outcome, OutcomeKind, Progress
from segue.core.phases import State

if TYPE_CHECKING:
    from rich.live import Live

PERCENT_OF: Final = "of the guest's memory is on the destination in its newest version, at best so far"
PLAIN_EVERY_MS: Final = 1000
_NO_TEXT: Final = re.compile("[\ud800-\udfff]")


class Display(Protocol):
    """Shows a migration while it runs. `close` is called once, whatever happened."""

    def state(self, state: State) -> None:
        """A phase was entered."""

    def progress(self, sample: Progress) -> None:
        """One more sample."""

    def note(self, text: str) -> None:
        """Something a person should read: a decision, a cancel that is under way."""

    def close(self) -> None:
        """The end."""


class _Track:
    """What the displays share: the phase, and a percentage that never runs backwards."""

    def __init__(self) -> None:
        self.phase: State = State.BEGIN
        self.percent = 0

    def enter(self, state: State) -> None:
        self.phase = state

    def take(self, sample: Progress) -> None:
        self.percent = convergence.percent_held(self.percent, sample)

    def line(self, sample: Progress) -> str:
        eta = convergence.eta_ms(sample)
        if sample.status is JobStatus.SETUP and sample.disk_total_bytes:
            percent = sample.disk_copied_bytes * 100 // sample.disk_total_bytes
            left = units.format_bytes(sample.disk_total_bytes - sample.disk_copied_bytes)
            return f"{percent:3d} % of disks, {left} left, {units.format_duration_ms(sample.elapsed_ms)}"
        parts = [
            f"{self.percent:3d} % of memory",
            f"{units.format_bytes(sample.ram_remaining_bytes)} left",
            units.format_rate(sample.throughput_bps),
            f"dirty {units.format_rate(sample.dirty_bps)}",
            f"iteration {sample.iteration}",
            units.format_duration_ms(sample.elapsed_ms),
        ]
        if sample.throttle_percent:
            parts.append(f"guest slowed by {sample.throttle_percent} %")
        if sample.status in (JobStatus.ACTIVE, JobStatus.POSTCOPY) and sample.ram_remaining_bytes and sample.throughput_bps:
            parts.append(f"about {units.format_duration_ms(eta)} to go" if eta is not None else "no end in sight at these rates")
        return ", ".join(parts)


class PlainDisplay:
    """Lines on stderr: one at every change of phase, and one a second of samples."""

    def __init__(self) -> None:
        self._track = _Track()
        self._next_ms = 0

    def state(self, state: State) -> None:
        """One line a phase."""
        if state is not self._track.phase and not state.is_end:
            _say(state)
        self._track.enter(state)

    def progress(self, sample: Progress) -> None:
        """At most one line a second, and the last sample."""
        self._track.take(sample)
        if sample.elapsed_ms >= self._next_ms or sample.status is JobStatus.COMPLETED:
            self._next_ms = sample.elapsed_ms + PLAIN_EVERY_MS
            _say(f"{self._track.phase}: {self._track.line(sample)}")

    def note(self, text: str) -> None:
        """One line."""
        _say(text)

    def close(self) -> None:
        """Nothing to put back."""


class TerminalDisplay:
    """One live line with a bar, on stderr; notes scroll above it."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.live import Live

        self._track = _Track()
        self._title = title
        self._text = ""
        self._console = Console(stderr=True, highlight=False)
        self._live: Live = Live(console=self._console, refresh_per_second=10, transient=True)
        self._live.start()
        self._draw()

    def _draw(self) -> None:
        from rich.table import Table
        from rich.text import Text

        done = BAR_CELLS * self._track.percent // 100
        bar = Text("━" * done, style="green") + Text("━" * (BAR_CELLS - done), style="bright_black")
        grid = Table.grid(padding=(0, 1))
        grid.add_row(Text(self._title, style="bold"), Text(str(self._track.phase), style="cyan"), bar)
        rows = Table.grid()
        rows.add_row(grid)
        rows.add_row(Text(self._text, style="dim"))
        self._live.update(rows)

    def state(self, state: State) -> None:
        """Shown beside the bar."""
        self._track.enter(state)
        self._draw()

    def progress(self, sample: Progress) -> None:
        """Redraw."""
        self._track.take(sample)
        self._text = self._track.line(sample)
        self._draw()

    def note(self, text: str) -> None:
        """Above the live line, and it stays."""
        self._live.console.print(text, style="yellow")

    def close(self) -> None:
        """The live line vanishes; the result follows on stdout."""
        self._live.stop()


BAR_CELLS: Final = 40


class JsonDisplay:
    """One JSON object a sample on stdout; notes go to stderr."""

    def __init__(self) -> None:
        self._track = _Track()

    def state(self, state: State) -> None:
        """Part of the next sample."""
        self._track.enter(state)

    def progress(self, sample: Progress) -> None:
        """All of the sample, with what was derived from it."""
        self._track.take(sample)
        derived = {"percent": self._track.percent, "percent_of": PERCENT_OF, "eta_ms": convergence.eta_ms(sample)}
        print_json({"phase": self._track.phase, **derived, **asdict(sample)})

    def note(self, text: str) -> None:
        """For people."""
        _say(text)

    def close(self) -> None:
        """Nothing to put back."""


def display(title: str, *, as_json: bool) -> Display:
    """The display that fits where stdout and stderr go."""
    if as_json:
        return JsonDisplay()
    return TerminalDisplay(title) if sys.stderr.isatty() else PlainDisplay()


def summary(outcome: Outcome) -> str:
    """The end of a migration in one or two sentences."""
    if outcome.outcome is not OutcomeKind.MOVED:
        lines = [f"{outcome.guest} {outcome.outcome}: {outcome.error}"]
        lines += [f"  to do: {outcome.hint}"] if outcome.hint else []
        return "\n".join([*lines, *(f"  | {cell(quote)}" for quote in outcome.quotes)])
    downtimes = ", ".join(f"{heading} {value}" for heading, value in downtime(outcome) if value != NOT_KNOWN)
    text = (
        f"{outcome.guest} moved from {outcome.source} to {outcome.destination} in {units.format_duration_ms(outcome.total_ms)}: "
        f"{units.format_bytes(outcome.bytes_sent)} sent, {outcome.iterations} iterations. "
        f"Downtime: {downtimes or 'nobody says'}. "
        f"It {outcome.rests or 'runs'} on {outcome.owner}, and {'runs ' * bool(outcome.rests)}nowhere else."
    )
    return f"{text} {outcome.error}".strip()


def downtime(outcome: Outcome) -> list[tuple[str, str]]:
    """The three downtimes and the parts of the switchover: whose figure it is, and the figure. They are never mixed."""
    figures = [
        ("by the hypervisor", _ms(outcome.downtime_ms)),
        ("by the guest's own clock", _ms(outcome.guest_lost_ms)),
        ("by a client", _client(outcome.client)),
    ]
    if (parts := outcome.switchover) is not None:
        shown = {
            "last pass": parts.last_pass_ms,
            "device state": parts.device_state_ms,
            "last pass and device state": parts.copying_ms if parts.last_pass_ms is None else None,
            "resume": parts.resume_ms,
            "first answer": parts.first_answer_ms,
        }
        heard = [f"{name} {ms} ms" for name, ms in shown.items() if ms is not None]
        figures.append(("in parts", " + ".join(heard) or NOT_KNOWN))
    return figures


NOT_KNOWN: Final = "not known"


def _ms(ms: int | None) -> str:
    return NOT_KNOWN if ms is None else f"{ms} ms"


def _client(client: Client | None) -> str:
    if client is None:
        return NOT_KNOWN
    if client.downtime_ms is None:
        return f"not known ({client.probe} never answered)"
    still = ", and it is silent still" if client.silent else ""
    return f"{client.downtime_ms} ms without an answer to {client.probe}{still}"


def print_json(value: object) -> None:
    """One JSON object on one line of stdout, at once; bytes of a name that are no text come as escapes."""
    text = json.dumps(value, ensure_ascii=False)
    sys.stdout.write(_NO_TEXT.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")
    sys.stdout.flush()


def cell(text: str) -> str:
    """Text on one line: what cannot be printed, or would break the line, is shown as an escape."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, none: str) -> None:
    """A table on stdout: columns as wide as their longest cell, so that it can be piped and cut.

    Args:
        headings: one for each column.
        rows: cells in the order of the headings.
        none: what to say on stderr where there are no rows.
    """
    if not rows:
        _say(none)
        return
    rows = [[cell(text) for text in row] for row in rows]
    widths = [max(len(row[column]) for row in [headings, *rows]) for column in range(len(headings))]
    for row in [headings, *rows]:
        sys.stdout.write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")


def _say(text: str) -> None:
    sys.stderr.write(f"segue: {text}\n")
    sys.stderr.flush()


say: Final[Callable[[str], None]] = _say
