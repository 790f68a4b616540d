"""Line charts as SVG, drawn by matplotlib."""

from __future__ import annotations

import io
from math import isfinite
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from training.evaluation.report.document import Chart

_SIZE_INCHES = (4.6, 2.6)
_COLORS = ("#2a78d6", "#e07b39", "#3a9d5d", "#b4559e")
# Colors that are readable on white and on black pages.
_GRAY = "#888888"
# The maximum number of points of a line with markers.
_MAX_MARKERS = 20
_STYLE: Any = {
    # Makes the bytes of a chart reproducible.
    "svg.hashsalt": "ganymede",
    # Keeps text as text elements, in the font of the page.
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.edgecolor": _GRAY,
    "axes.labelcolor": _GRAY,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "legend.frameon": False,
    "legend.labelcolor": "linecolor",
    "xtick.color": _GRAY,
    "ytick.color": _GRAY,
}
# Matplotlib would add its version and the date.
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def draw_chart(chart: Chart) -> str:
    """Return a chart as an SVG element. Points that are not finite are omitted."""
    with rc_context(_STYLE):
        figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
        axes = figure.add_subplot()
        for number, line in enumerate(chart.lines):
            points = [point for point in line.points if all(map(isfinite, point))]
            if not points:
                continue
            marked = line.scatter or len(points) <= _MAX_MARKERS
            axes.plot(
                [x for x, _ in points],
                [y for _, y in points],
                label=line.name,
                color=_COLORS[number % len(_COLORS)],
                linestyle="none" if line.scatter else "-",
                marker="o" if marked else None,
                markersize=3.5,
            )
        axes.set_xlabel(chart.x_label)
        axes.set_ylabel(chart.y_label)
        if chart.log_x:
            axes.set_xscale("log")
        if chart.from_zero:
            axes.set_ylim(bottom=0)
        if axes.lines:
            axes.legend()
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata=_NO_METADATA)
    # Remove the XML declaration and the document type, which are invalid inside HTML.
    return out.getvalue()[out.getvalue().index("<svg") :]
