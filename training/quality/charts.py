"""Line charts as SVG: a handful of lines over one axis, for reports that carry all they need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 440, 240, 62, 12, 26, 42
_COLOURS = ("#2a78d6", "#e07b39", "#3a9d5d", "#b4559e")


@dataclass(frozen=True)
class Line:
    """A name and its points, from left to right."""

    name: str
    points: Sequence[tuple[float, float]]


def chart(lines: Sequence[Line], across: str, up: str, *, from_zero: bool = False) -> str:
    """Draw lines with their axes and a legend; points that are not finite are left out."""
    kept = [(line.name, [p for p in line.points if all(map(math.isfinite, p))]) for line in lines]
    points = [point for _, some in kept for point in some]
    if not points:
        return ""
    left, right = _span([x for x, _ in points])
    low, high = _span([y for _, y in points] + ([0.0] if from_zero else []))

    def place(x: float, y: float) -> str:
        at = _LEFT + (x - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT)
        down = _HEIGHT - _BOTTOM - (y - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)
        return f"{at:.1f},{down:.1f}"

    drawn = [_axes(left, right, low, high, across, up)]
    for number, (name, some) in enumerate(kept):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(place(x, y) for x, y in some)
        drawn.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>'
        )
        if len(some) <= 20:
            drawn += [
                '<circle cx="{}" cy="{}" r="2.6" fill="{}"/>'.format(
                    *place(x, y).split(","), colour
                )
                for x, y in some
            ]
        drawn.append(
            f'<text x="{_LEFT + 4 + number * 175}" y="16" fill="{colour}">{escape(name)}</text>'
        )
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
