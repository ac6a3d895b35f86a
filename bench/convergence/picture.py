"""The grid as one picture: a row a cell, how long each contender took as a multiple of the physical bound, and who never arrived.

SVG written by hand: it needs no library, no font of its own, and follows the reader's light or dark scheme.
"""

from __future__ import annotations

import math
from typing import Final
from xml.sax.saxutils import escape

from convergence.report import CellResult, Judged, Row

WIDTH: Final = 1000
LEFT: Final = 190
RIGHT: Final = 130
ROW: Final = 46
TOP: Final = 108
MOST: Final = 32.0
"""The right end of the scale, in multiples of the bound."""
TICKS: Final = (1, 1.5, 2, 3, 5, 8, 12, 20, 32)

STYLE: Final = """
  text { font: 12px system-ui, sans-serif; fill: #24292f }
  .page { fill: #ffffff } .band { fill: #f6f8fa } .line { stroke: #d0d7de; stroke-width: 1 } .soft { fill: #57606a }
  .title { font-size: 17px; font-weight: 600 } .spread { stroke-width: 2; opacity: .45 }
  .segue { fill: #0969da; stroke: #0969da } .segue-postcopy { fill: #8250df; stroke: #8250df }
  .virsh { fill: #57606a; stroke: #57606a } .peer { fill: #bc4c00; stroke: #bc4c00 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .page { fill: #0d1117 } .band { fill: #161b22 } .line { stroke: #30363d } .soft { fill: #9198a1 }
    .segue { fill: #4493f8; stroke: #4493f8 } .segue-postcopy { fill: #ab7df8; stroke: #ab7df8 }
    .virsh { fill: #9198a1; stroke: #9198a1 } .peer { fill: #f0883e; stroke: #f0883e }
  }
"""
LETTERS: Final = {
    "segue-multifd": "4",
    "segue-postcopy-full": "f",
    "virsh": "v",
    "virsh-ac": "a",
    "virsh-postcopy": "p",
    "virsh-xbzrle": "x",
    "nova": "N",
    "ovirt-minimal": "m",
    "ovirt-suspend": "s",
    "ovirt-postcopy": "o",
    "proxmox": "P",
    "kubevirt": "K",
    "ganeti": "G",
    "ganeti-postcopy": "g",
}


def draw(judged: Judged) -> str:
    """The whole picture; cells on a link without a bound are measured by the quickest contender."""
    height = TOP + ROW * len(judged.cells) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">',
        f"<style>{STYLE}</style>",
        f'<rect class="page" width="{WIDTH}" height="{height}"/>',
        '<text class="title" x="20" y="30">Time to move a guest, as a multiple of what the link allows (less is better)</text>',
        *_legend(),
    ]
    parts += [
        f'<rect class="band" x="0" y="{TOP + ROW * number}" width="{WIDTH}" height="{ROW}"/>'
        for number in range(0, len(judged.cells), 2)
    ]
    parts += _axis(height)
    for number, result in enumerate(judged.cells):
        parts += _row(result, TOP + ROW * number + ROW / 2)
    return "\n".join([*parts, "</svg>", ""])


def _x(factor: float) -> float:
    """Where a multiple of the bound stands on the scale, which is logarithmic."""
    return LEFT + (WIDTH - LEFT - RIGHT) * math.log(min(max(factor, 0.95), MOST) / 0.95) / math.log(MOST / 0.95)


def _axis(height: int) -> list[str]:
    lines = []
    for tick in TICKS:
        x = _x(tick)
        lines.append(f'<line class="line" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{height - 30}"/>')
        lines.append(f'<text class="soft" x="{x:.1f}" y="{height - 12}" text-anchor="middle">{tick:g}x</text>')
    lines.append(f'<text class="soft" x="{WIDTH - RIGHT + 22}" y="{height - 12}">not converged</text>')
    return lines


def _legend() -> list[str]:
    marks = [
        ("segue", "●", "Segue"),
        ("segue-postcopy", "●", "Segue, post-copy allowed"),
        *((_look(name), letter, name) for name, letter in LETTERS.items()),
    ]
    parts, x, y = [], 20.0, 56.0
    for look, mark, words in marks:
        width = 22 + 7.0 * len(words)
        if x + width > WIDTH - 20:
            x, y = 20.0, y + 20
        parts.append(f'<text class="{look}" style="stroke:none;font-weight:700" x="{x:.0f}" y="{y:.0f}">{mark}</text>')
        parts.append(f'<text class="soft" x="{x + 14:.0f}" y="{y:.0f}">{escape(words)}</text>')
        x += width
    return parts


def _row(result: CellResult, y: float) -> list[str]:
    parts = [
        f'<text x="20" y="{y - 2:.1f}">{escape(result.cell.workload.name)}</text>',
        f'<text class="soft" x="20" y="{y + 13:.1f}">{escape(result.cell.link)}</text>',
    ]
    quickest = min((row.seconds.median for row in result.rows if row.seconds), default=1.0)
    bound_s = result.bound_s or quickest
    never = [row for row in result.rows if not row.converged]
    # Segue's own in the middle, above and below them the others, so that marks which fall together stay apart.
    for lane, row in enumerate(row for row in result.rows if row.seconds):
        parts += _mark(row, bound_s, y + _lane(row, lane))
    x = WIDTH - RIGHT + 22.0
    for row in never:
        look = _look(row.contender)
        parts.append(
            f'<text class="{look}" style="stroke:none;font-weight:700" x="{x:.1f}" y="{y + 4:.1f}">{_letter(row)}</text>'
        )
        x += 12
    return parts


def _lane(row: Row, number: int) -> float:
    if row.contender == "segue":
        return -3.0
    if row.contender == "segue-postcopy":
        return 6.0
    return (-13.0, 15.0)[number % 2]


def _mark(row: Row, bound_s: float, y: float) -> list[str]:
    if row.seconds is None:
        return []
    x, least, most = (_x(value / bound_s) for value in (row.seconds.median, row.seconds.least, row.seconds.most))
    told = f"{row.contender}: {row.seconds.median:.2f} s, {row.seconds.median / bound_s:.2f} times the bound"
    look = _look(row.contender)
    spread = f'<line class="{look} spread" x1="{least:.1f}" y1="{y:.1f}" x2="{most:.1f}" y2="{y:.1f}"/>'
    if row.contender not in LETTERS:
        return [spread, f'<circle class="{look}" cx="{x:.1f}" cy="{y:.1f}" r="5"><title>{escape(told)}</title></circle>']
    text = f'<text class="{look}" style="stroke:none;font-weight:700" x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle">'
    return [f"{text}{_letter(row)}<title>{escape(told)}</title></text>"]


def _look(contender: str) -> str:
    if contender == "segue-postcopy":
        return contender
    return next((tool for tool in ("segue", "virsh") if contender.startswith(tool)), "peer")


def _letter(row: Row) -> str:
    return LETTERS.get(row.contender, "●")
