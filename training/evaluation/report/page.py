"""HTML reports: one self-contained file without scripts and external resources."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.runtime.files import replacing
from service.runtime.images.encoding import to_image
from training.evaluation.report.document import Chart, ChartGroup, Line, Note, Section

if TYPE_CHECKING:
    from training.evaluation.evaluation import Comparison, EvaluationResult

# Smaller images are enlarged by an integer factor, to approximately this side in pixels.
_MIN_SIDE = 64
_LOG_CHARTS = {
    "losses": ("loss_discriminator", "loss_generator"),
    "scores": ("real_score", "fake_score"),
    "diversity": ("diversity", "duplicates"),
    "quality": ("kernel_distance", "frechet_distance"),
    "feature distance": ("feature_distance",),
    "PSNR (dB)": ("psnr", "shown_psnr"),
    "SSIM": ("ssim",),
}


def write_report(
    path: Path, results: Sequence[EvaluationResult], comparison: Comparison | None = None
) -> None:
    """Write the report of one result, or of several results and their comparison.

    Also writes JSON to the same path with the suffix ``.json``. Existing files are replaced
    atomically.
    """
    sections: list[Section] = []
    if comparison is not None:
        verdicts = [Note(str(verdict)) for verdict in comparison.verdicts]
        summary = comparison.summary
        sections.append(Section(summary.title, [*summary.parts, *verdicts]))
        sections += comparison.details
    for result in results:
        sections += [result.summary(), *result.details()]
    write_page(path, f"Quality of {' and '.join(result.title for result in results)}", sections)
    content = [result.to_json() for result in results]
    with replacing(path.with_suffix(".json")) as temporary:
        text = json.dumps(content if len(content) > 1 else content[0], indent=2)
        temporary.write_text(text + "\n")


def write_page(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write sections as an HTML page. An existing file is replaced atomically."""
    from jinja2 import Environment, FileSystemLoader  # noqa: PLC0415 - the extra `quality`

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True
    )
    environment.filters |= {"data_url": _data_url, "svg": _svg}
    page = environment.get_template("report.html.j2").render(title=title, sections=sections)
    with replacing(path) as temporary:
        temporary.write_text(page + "\n", encoding="utf-8")


def log_charts(log: Sequence[Mapping[str, Any]]) -> list[Section]:
    """Return a section with the losses, scores and metrics of a run's log; empty without a log."""
    charts = []
    for title, names in _LOG_CHARTS.items():
        lines = [
            Line(name, [(entry["images"], entry[name]) for entry in log if name in entry])
            for name in names
        ]
        if lines := [line for line in lines if len(line.points) > 1]:
            charts.append(Chart(lines, x_label="images", y_label=title))
    return [Section("Training", [ChartGroup(charts)], level=3)] if charts else []


def image_grid(pixels: NDArray[np.uint8], columns: int | None = None) -> Image.Image:
    """Arrange ``[N, H, W, C] uint8`` in rows with gaps. Small images are enlarged."""
    zoom = max(_MIN_SIDE // pixels.shape[1], 1)
    pixels = pixels.repeat(zoom, axis=1).repeat(zoom, axis=2)
    pixels = np.pad(pixels, ((0, 0), (0, 2), (0, 2), (0, 0)), constant_values=255)
    count, height, width, channels = pixels.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    blank = np.full((rows * columns - count, height, width, channels), 255, np.uint8)
    tiles = np.concatenate([pixels, blank]).reshape(rows, columns, height, width, channels)
    return to_image(tiles.swapaxes(1, 2).reshape(rows * height, columns * width, channels))


def _data_url(image: Image.Image) -> str:
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def _svg(chart: Chart) -> str:
    from markupsafe import Markup  # noqa: PLC0415 - a dependency of Jinja2

    from training.evaluation.report.charts import draw_chart  # noqa: PLC0415 - the extra `quality`

    # Safe to include unescaped: matplotlib escapes the text of a chart.
    return Markup(draw_chart(chart))  # noqa: S704


def warnings_and_notes(lines: Iterable[str], warnings: Iterable[str]) -> list[Note]:
    """Return `lines` as notes, followed by `warnings` as highlighted notes."""
    return [*map(Note, lines), *(Note(text, is_warning=True) for text in warnings)]
