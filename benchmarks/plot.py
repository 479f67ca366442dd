"""Draws lines with their spread, as an SVG that is readable on light and dark pages."""

from collections.abc import Sequence
from math import ceil, floor, log10
from typing import NamedTuple
from xml.sax.saxutils import escape


class Point(NamedTuple):
    x: float
    low: float
    middle: float
    high: float


class Line(NamedTuple):
    name: str
    points: Sequence[Point]


class Panel(NamedTuple):
    """`y` names the quantity and its unit. The axis starts at 0."""

    y: str
    lines: Sequence[Line]


_WIDTH, _HEIGHT = 760, 260  # of a panel
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 30, 34, 44  # around what is drawn

# Medium tones, because the SVG can't know the background of the page.
_STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #747d87 }
.title { font-weight: 600 }
.axis { fill: none; stroke: #747d87 }
.grid { fill: none; stroke: #747d87; stroke-opacity: .25 }
.c0 { fill: #3b82d6; stroke: #3b82d6 }
.c1 { fill: #d9731a; stroke: #d9731a }
.line { fill: none; stroke-width: 2 }
.spread { fill-opacity: .18; stroke: none }
text.c0, text.c1 { stroke: none }
"""


def svg(title: str, x: str, panels: Sequence[Panel]) -> str:
    """The panels, one below the other, with the same x axis. `x` is the label of that axis."""
    height = _HEIGHT * len(panels)
    size = f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>\n{_STYLE}</style>",
    ]
    end = max(point.x for panel in panels for line in panel.lines for point in line.points)
    for number, panel in enumerate(panels):
        parts.append(f'<g transform="translate(0 {_HEIGHT * number})">')
        parts += _panel(panel, x, end)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel, x_label: str, end: float) -> list[str]:
    highest = max(point.high for line in panel.lines for point in line.points)
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    x_ticks, y_ticks = _ticks(end), _ticks(highest)
    x_end, y_end = max(end, x_ticks[-1]), max(highest, y_ticks[-1])

    def at_x(value: float) -> float:
        return _LEFT + value / x_end * (right - _LEFT)

    def at_y(value: float) -> float:
        return bottom - value / y_end * (bottom - _TOP)

    parts = [_text(_LEFT, 20, panel.y, kind="title")]
    for tick in y_ticks:
        y = at_y(tick)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>')
        parts.append(_text(_LEFT - 8, y + 4, _number(tick), anchor="end"))
    parts += [_text(at_x(tick), bottom + 18, _number(tick), anchor="middle") for tick in x_ticks]
    parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>')
    parts.append(_text((_LEFT + right) / 2, bottom + 37, x_label, anchor="middle"))
    for number, line in enumerate(panel.lines):
        colour = f"c{number}"
        places = [
            (at_x(point.x), at_y(point.low), at_y(point.middle), at_y(point.high))
            for point in line.points
        ]
        upper = [f"{x:.1f} {high:.1f}" for x, _, _, high in places]
        lower = [f"{x:.1f} {low:.1f}" for x, low, _, _ in reversed(places)]
        middle = [f"{x:.1f} {y:.1f}" for x, _, y, _ in places]
        parts.append(f'<path class="spread {colour}" d="M{"L".join(upper + lower)}Z"/>')
        parts.append(f'<path class="line {colour}" d="M{"L".join(middle)}"/>')
        parts += [
            f'<circle class="{colour}" r="2.5" cx="{x:.1f}" cy="{y:.1f}"/>' for x, _, y, _ in places
        ]
        # In the panel's headline, because names at the ends of the lines would overlap.
        name_x = right - 110 * (len(panel.lines) - 1 - number)
        parts.append(_text(name_x, 20, line.name, anchor="end", kind=colour))
    return parts


def _text(x: float, y: float, words: str, *, anchor: str = "start", kind: str = "") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _ticks(end: float, about: int = 5) -> list[float]:
    """Round numbers from 0 to `end` or just beyond it."""
    rough = end / about
    power = 10.0 ** floor(log10(rough))
    step = next(power * nice for nice in (1, 2, 2.5, 5, 10) if power * nice >= rough)
    return [step * n for n in range(ceil(end / step) + 1)]


def _number(value: float) -> str:
    for unit, name in ((1e6, " M"), (1e3, " k")):
        if value >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"
