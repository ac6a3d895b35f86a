"""A migration drawn from what was written of it: in the terminal, or as a picture that needs nothing else.

Three curves over one time: what is left to send, how fast it is sent, how fast the guest writes; the two rates share a scale, for
what matters is which of them is higher. Below them stands what happened when. What may live here: values from samples, text and
SVG from values. No library is used: four rows of blocks, and lines that are joined, need none.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

from segue import units
from segue.cli.render import cell
from segue.core.phases import State
from segue.core.policy import Decision

if TYPE_CHECKING:
    from rich.text import Text

    from segue.core.record import Record, Sample, Story

_SHOWN: Final = frozenset({State.PERFORM, State.POSTCOPY, State.FINISH, State.CANCELLING, State.FAILING})
"""States that are worth a mark besides the last one: the others follow each other within milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One quantity over time.

    Attributes:
        name: for people.
        points: milliseconds since it began, and the value then; in order of time.
        top: the upper end of its scale.
        words: a value for people.
        colour: of the terminal; its look in the picture has the same name.
    """

    name: str
    points: tuple[tuple[int, int], ...]
    top: int
    words: Callable[[int], str]
    colour: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Something that happened at one moment: ms since it began, and what."""

    at_ms: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """All that is drawn. `until_ms` is the end of the time axis."""

    title: str
    curves: tuple[Curve, ...]
    marks: tuple[Mark, ...]
    until_ms: int


def plot(record: Record, story: Story, samples: Sequence[Sample]) -> Plot:
    """What there is to draw of a migration."""
    began = record.created_at_ms
    looks = [(max(0, one.at_ms - began), one.progress) for one in samples if one.progress.ram_total_bytes]
    rates = max((max(look.throughput_bps, look.dirty_bps) for _, look in looks), default=0)
    left = tuple((at, look.ram_remaining_bytes) for at, look in looks)
    most = max((value for _, value in left), default=0)
    curves = (
        Curve(name="left to send", points=left, top=_above(most), words=units.format_bytes, colour="blue"),
        Curve(
            name="throughput",
            points=tuple((at, look.throughput_bps) for at, look in looks),
            top=_above(rates),
            words=units.format_rate,
            colour="green",
        ),
        Curve(
            name="dirty rate",
            points=tuple((at, look.dirty_bps) for at, look in looks),
            top=_above(rates),
            words=units.format_rate,
            colour="magenta",
        ),
    )
    last = story.transitions[-1].state if story.transitions else State.BEGIN
    decided = tuple(f"{one}: " for one in Decision)
    marks = [
        *(Mark(at_ms=one.at_ms - began, text=one.state) for one in story.transitions if one.state in _SHOWN or one.state is last),
        *(Mark(at_ms=one.at_ms - began, text=one.text) for one in story.notes if one.text.startswith(decided)),
    ]
    marks.sort(key=lambda mark: mark.at_ms)
    spec = record.spec
    return Plot(
        title=f"{cell(spec.guest)}: {cell(spec.source)} → {cell(spec.destination)}, {record.id}",
        curves=curves,
        marks=tuple(marks),
        until_ms=max((1, *(at for at, _ in looks), *(mark.at_ms for mark in marks))),
    )


def _above(value: int) -> int:
    """A round number of bytes that is not less: what stands at the top of a scale."""
    unit = units.KIB
    while value > 1000 * unit:
        unit *= 1024
    step = next(step for step in (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100, 120, 150, 200, 250, 300, 400,
                                  500, 600, 800, 1000) if value <= step * unit)  # fmt: skip
    return step * unit


# the terminal

PANEL_ROWS: Final = {"left to send": 8}
OTHER_ROWS: Final = 4
LABELS: Final = 13
_BLOCKS: Final = " ▁▂▃▄▅▆▇█"


def terminal(drawn: Plot, *, width: int) -> list[Text]:
    """The plot as lines of that many columns, at least 40.

    A column is as high as the most that was seen in its time: the saw-tooth of what is left keeps its teeth.
    """
    from rich.text import Text

    columns = max(40, width) - LABELS - 1
    lines = [Text(drawn.title, style="bold")]
    for curve in drawn.curves:
        lines += [Text(""), Text(f"{'':{LABELS}} {curve.name}", style="bold")]
        rows = PANEL_ROWS.get(curve.name, OTHER_ROWS)
        heights = [round(8 * rows * value / curve.top) for value in _columns(curve, drawn.until_ms, columns)]
        for row in reversed(range(rows)):
            label = curve.words(curve.top) if row == rows - 1 else "0" if not row else ""
            blocks = "".join(_BLOCKS[max(0, min(8, height - 8 * row))] for height in heights).rstrip()
            lines.append(Text(f"{label:>{LABELS - 1}} │") + Text(blocks, style=curve.colour))
    lines.append(Text(f"{'':{LABELS}}└" + "─" * columns))
    lines.append(Text(_time_axis(drawn.until_ms, columns)))
    lines += _marks(drawn, columns, width=max(40, width))
    return lines


def _columns(curve: Curve, until_ms: int, columns: int) -> list[int]:
    """The most in each column's time; where nothing was seen in it, what was seen last."""
    found: list[int | None] = [None] * columns
    for at, value in curve.points:
        column = min(columns - 1, at * columns // until_ms)
        found[column] = max(value, found[column] or 0)
    last = max((index for index, value in enumerate(found) if value is not None), default=-1)
    values: list[int] = []
    seen = 0
    for index, held in enumerate(found):
        seen = seen if held is None else held
        values.append(seen if index <= last else 0)
    return values


def _time_axis(until_ms: int, columns: int) -> str:
    axis = [" "] * (columns + LABELS + 1)
    for part in range(5):
        words = units.format_duration_ms(until_ms * part // 4)
        middle = LABELS + 1 + (columns - 1) * part // 4
        start = min(max(LABELS, middle - len(words) // 2), len(axis) - len(words))
        axis[start : start + len(words)] = words
    return "".join(axis).rstrip()


def _marks(drawn: Plot, columns: int, *, width: int) -> list[Text]:
    """Numbers below the axis, on a next row where they would touch, and what each of them stands for."""
    from rich.text import Text

    rows: list[str] = []
    for number, mark in enumerate(drawn.marks, start=1):
        column = LABELS + 1 + min(columns - len(str(number)), max(0, mark.at_ms) * columns // drawn.until_ms)
        level = next((level for level, row in enumerate(rows) if len(row) < column), len(rows))
        rows[level:] = [(rows[level] if level < len(rows) else "").ljust(column) + str(number), *rows[level + 1 :]]
    lines = [*(Text(row, style="yellow") for row in rows), Text("")]
    for number, mark in enumerate(drawn.marks, start=1):
        head = f"{number:3}  {units.format_duration_ms(max(0, mark.at_ms)):>9}  "
        wrapped = textwrap.wrap(cell(mark.text), width - len(head)) or [""]
        lines.append(Text(head, style="yellow") + Text(wrapped[0]))
        lines += [Text(" " * len(head) + more) for more in wrapped[1:]]
    return lines


# the picture

SVG_WIDTH: Final = 960
SVG_LEFT: Final = 110
SVG_RIGHT: Final = 28
SVG_TOP: Final = 62
SVG_GAP: Final = 42
SVG_HEIGHTS: Final = {"left to send": 190}
SVG_OTHER: Final = 110
SVG_LINE: Final = 19
_STYLE: Final = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 } .soft { fill: #59636e } .title { font-size: 17px; font-weight: 600 }
  .name { font-weight: 600 } .page { fill: #ffffff } .grid { stroke: #d1d9e0; stroke-width: 1 } .mark { stroke: #9a6700;
  stroke-width: 1; stroke-dasharray: 3 3 } .badge { fill: #9a6700 } .number { fill: #ffffff; font-size: 11px; font-weight: 600 }
  .curve { fill-opacity: .16; stroke-width: 1.6; stroke-linejoin: round }
  .blue { fill: #0969da; stroke: #0969da } .green { fill: #1a7f37; stroke: #1a7f37 } .magenta { fill: #bf3989; stroke: #bf3989 }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc } .soft { fill: #9198a1 } .page { fill: #0d1117 } .grid { stroke: #2f3742 } .mark { stroke: #d29922 }
    .badge { fill: #d29922 } .number { fill: #0d1117 }
    .blue { fill: #4493f8; stroke: #4493f8 } .green { fill: #3fb950; stroke: #3fb950 } .magenta { fill: #db61a2; stroke: #db61a2 }
  }
"""


def svg(drawn: Plot) -> str:
    """The plot as one SVG file: no script, no font, nothing from elsewhere; light and dark as the reader has it."""
    wrapped = [textwrap.wrap(cell(mark.text), 108) or [""] for mark in drawn.marks]
    panels = sum(_height(curve) + SVG_GAP for curve in drawn.curves)
    height = SVG_TOP + panels + 20 + SVG_LINE * sum(map(len, wrapped)) + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SVG_WIDTH} {height}" width="{SVG_WIDTH}" role="img">',
        f"<style>{_STYLE}</style>",
        f'<rect class="page" width="{SVG_WIDTH}" height="{height}"/>',
        f'<text class="title" x="24" y="32">{escape(drawn.title)}</text>',
    ]
    y = SVG_TOP
    for curve in drawn.curves:
        parts += _panel(drawn, curve, y + SVG_GAP - 16)
        y += _height(curve) + SVG_GAP
    bottom = y - 16
    for part in range(6):
        at = drawn.until_ms * part // 5
        anchor = "end" if part == 5 else "middle"
        words = units.format_duration_ms(at)
        parts.append(f'<text class="soft" x="{_svg_x(drawn, at):.1f}" y="{bottom + 17}" text-anchor="{anchor}">{words}</text>')
    parts += _svg_marks(drawn, wrapped, top=SVG_TOP + SVG_GAP - 16, bottom=bottom)
    return "\n".join([*parts, "</svg>", ""])


def _height(curve: Curve) -> int:
    return SVG_HEIGHTS.get(curve.name, SVG_OTHER)


def _svg_x(drawn: Plot, at_ms: int) -> float:
    return SVG_LEFT + (SVG_WIDTH - SVG_LEFT - SVG_RIGHT) * max(0, at_ms) / drawn.until_ms


def _panel(drawn: Plot, curve: Curve, top: int) -> list[str]:
    """One curve over its grid; what lies below it is filled."""
    height = _height(curve)
    parts = [f'<text class="name" x="{SVG_LEFT}" y="{top - 8}">{curve.name}</text>']
    for share in (0.0, 0.5, 1.0):
        y = top + height * (1 - share)
        words = curve.words(round(curve.top * share)) if share else "0"
        parts.append(f'<line class="grid" x1="{SVG_LEFT}" y1="{y:.1f}" x2="{SVG_WIDTH - SVG_RIGHT}" y2="{y:.1f}"/>')
        parts.append(f'<text class="soft" x="{SVG_LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">{words}</text>')
    if curve.points:
        line = " ".join(f"{_svg_x(drawn, at):.1f},{top + height * (1 - value / curve.top):.1f}" for at, value in curve.points)
        first, last = (_svg_x(drawn, curve.points[end][0]) for end in (0, -1))
        base = top + height
        parts.append(
            f'<polygon class="curve {curve.colour}" style="stroke:none" points="{first:.1f},{base} {line} {last:.1f},{base}"/>'
        )
        parts.append(f'<polyline class="curve {curve.colour}" style="fill:none" points="{line}"/>')
    return parts


def _svg_marks(drawn: Plot, wrapped: Sequence[Sequence[str]], *, top: int, bottom: int) -> list[str]:
    """A dashed line for each moment, its number on top, and what it stands for below; numbers that would touch go up a step."""
    parts, taken = [], list[tuple[float, float]]()
    y = bottom + 50
    for number, (mark, lines) in enumerate(zip(drawn.marks, wrapped, strict=True), start=1):
        x = _svg_x(drawn, mark.at_ms)
        badge = top - 26.0
        while any(abs(x - other) < 19 and badge == level for other, level in taken):
            badge -= 18
        taken.append((x, badge))
        parts.append(f'<line class="mark" x1="{x:.1f}" y1="{badge:.1f}" x2="{x:.1f}" y2="{bottom}"/>')
        parts += _badge(x, badge, number)
        parts += _badge(32, y - 4.5, number)
        when = units.format_duration_ms(max(0, mark.at_ms))
        parts.append(f'<text class="soft" x="{SVG_LEFT - 10}" y="{y}" text-anchor="end">{when}</text>')
        for line in lines:
            parts.append(f'<text x="{SVG_LEFT}" y="{y}">{escape(line)}</text>')
            y += SVG_LINE
    return parts


def _badge(x: float, y: float, number: int) -> list[str]:
    return [
        f'<circle class="badge" cx="{x:.1f}" cy="{y:.1f}" r="8"/>',
        f'<text class="number" x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle">{number}</text>',
    ]
