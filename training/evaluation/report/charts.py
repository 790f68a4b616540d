"""Line charts as SVG: a handful of lines over one axis, for reports that carry all they need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from math import isfinite

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 440, 240, 62, 12, 26, 42
# Of lines with no more points than this, each point is marked.
_MARKED = 20
_COLOURS = ("#2a78d6", "#e07b39", "#3a9d5d", "#b4559e")


@dataclass(frozen=True)
class Line:
    """A name and its points, from left to right."""

    name: str
    points: Sequence[tuple[float, float]]
    # Points alone: what lies between two of them is not known.
    dots: bool = False


def chart(
    lines: Sequence[Line],
    across: str,
    up: str,
    *,
    from_zero: bool = False,
    log_across: bool = False,
) -> str:
    """Draw lines with their axes and a legend; points that are not finite are left out.

    `log_across` is for positive values.
    """
    kept = [
        replace(line, points=[p for p in line.points if all(map(isfinite, p))]) for line in lines
    ]
    points = [point for line in kept for point in line.points]
    if not points:
        return ""
    left, right = _span([x for x, _ in points])
    low, high = _span([y for _, y in points] + ([0.0] if from_zero else []))

    def share(x: float) -> float:
        if log_across:
            return math.log(x / left) / math.log(right / left)
        return (x - left) / (right - left)

    def place(x: float, y: float) -> tuple[str, str]:
        at = _LEFT + share(x) * (_WIDTH - _LEFT - _RIGHT)
        down = _HEIGHT - _BOTTOM - (y - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)
        return f"{at:.1f}", f"{down:.1f}"

    drawn = [_axes(left, right, low, high, across, up)]
    for number, line in enumerate(kept):
        colour = _COLOURS[number % len(_COLOURS)]
        places = [place(x, y) for x, y in line.points]
        if not line.dots:
            path = " ".join(",".join(at) for at in places)
            drawn.append(
                f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>'
            )
        if line.dots or len(places) <= _MARKED:
            drawn += [f'<circle cx="{x}" cy="{y}" r="2.6" fill="{colour}"/>' for x, y in places]
        left_of_name = _LEFT + 4 + number * 175
        drawn.append(f'<text x="{left_of_name}" y="16" fill="{colour}">{escape(line.name)}</text>')
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" font-size="12" role="img" '
        f'font-family="system-ui, sans-serif" aria-label="{escape(up)}">{"".join(drawn)}</svg>'
    )


def _axes(left: float, right: float, low: float, high: float, across: str, up: str) -> str:
    bottom, edge = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    grey = 'fill="#888"'
    return (
        f'<path d="M{_LEFT},{_TOP} V{bottom} H{edge}" fill="none" stroke="#8888"/>'
        f'<text x="{_LEFT}" y="{bottom + 16}" {grey}>{number_text(left)}</text>'
        f'<text x="{edge}" y="{bottom + 16}" {grey} text-anchor="end">{number_text(right)}</text>'
        f'<text x="{(_LEFT + edge) / 2}" y="{_HEIGHT - 8}" {grey} text-anchor="middle">'
        f"{escape(across)}</text>"
        f'<text x="{_LEFT - 6}" y="{bottom}" {grey} text-anchor="end">{number_text(low)}</text>'
        f'<text x="{_LEFT - 6}" y="{_TOP + 8}" {grey} text-anchor="end">{number_text(high)}</text>'
        f'<text x="14" y="{(_TOP + bottom) / 2}" {grey} text-anchor="middle" '
        f'transform="rotate(-90 14 {(_TOP + bottom) / 2})">{escape(up)}</text>'
    )


def number_text(value: float) -> str:
    """Write a number of an axis: whole ones with commas, others with three digits."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Return the least and the largest, apart even where they are equal."""
    low, high = min(values), max(values)
    if low == high:
        margin = abs(low) / 2 or 0.5
        return low - margin, high + margin
    return low, high
