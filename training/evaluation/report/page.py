"""The report: one HTML file with everything in it, readable without a network, and JSON beside it.

Pictures and curves stand in the file itself; there is no script.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.runtime.files import replacing
from service.runtime.images.encoding import to_image
from service.runtime.models.manifest import Quality
from training.evaluation.report.charts import Line, chart
from training.evaluation.report.figure_text import direction, said
from training.evaluation.report.tables import basis, common_basis, interval, verdicts
from training.evaluation.results import Evaluation, Neighbours, Shown

# Small pictures are enlarged by whole numbers to about this many pixels a side.
_SIDE = 64
_CURVES = {
    "losses": ("loss_discriminator", "loss_generator"),
    "scores": ("real_score", "fake_score"),
    "diversity": ("diversity", "duplicates"),
    "quality": ("kernel_distance", "frechet_distance"),
    "feature distance": ("feature_distance",),
    "PSNR in dB": ("psnr", "shown_psnr"),
    "SSIM": ("ssim",),
}
_CSS = """
:root { color-scheme: light dark; --line: #8886; --dim: #888; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 3rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; font-variant-numeric: tabular-nums; }
.note, figcaption { color: var(--dim); font-size: .85rem; }
.beware { border-left: 3px solid #c70; padding-left: .8rem; }
figure { margin: 1rem 0; } img { image-rendering: pixelated; max-width: 100%; }
.side { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; }
svg { max-width: 100%; height: auto; }
"""


def write_report(path: Path, found: Sequence[tuple[Evaluation, Shown]]) -> None:
    """Write ``path`` and the same figures as JSON beside it; both are whole or not there."""
    title = " and ".join(evaluation.subject for evaluation, _ in found)
    body = [f"<h1>Quality of {escape(title)}</h1>"]
    if len(found) > 1:
        body += _comparison([evaluation for evaluation, _ in found])
    for evaluation, shown in found:
        body += _section(evaluation, shown)
    write_page(path, f"Quality of {title}", body)
    figures = [json.loads(e.model_dump_json(exclude_none=True)) for e, _ in found]
    with replacing(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(figures if len(found) > 1 else figures[0], indent=2) + "\n")


def write_page(path: Path, title: str, body: Iterable[str]) -> None:
    """Write an HTML page of `body`, whole or not at all."""
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_CSS}</style></head><body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def rows(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table; what the cells hold is escaped."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in lines
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def picture(image: Image.Image, caption: str = "") -> str:
    """Return a picture with its bytes in it."""
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    data = base64.b64encode(out.getvalue()).decode()
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{data}" '
        f'width="{image.width}" height="{image.height}">{below}</figure>'
    )


def _comparison(evaluations: Sequence[Evaluation]) -> list[str]:
    metrics = list(dict.fromkeys(f.metric for each in evaluations for f in each.figures))

    def cell(evaluation: Evaluation, metric: str) -> str:
        found = next((f for f in evaluation.figures if f.metric == metric), None)
        return said(metric, found.value) if found else ""

    table = rows(
        ["figure", "", *(each.subject for each in evaluations)],
        ([m, direction(m), *(cell(each, m) for each in evaluations)] for m in metrics),
    )
    said_of = "".join(f"<li>{escape(str(verdict))}</li>" for verdict in verdicts(evaluations))
    return [
        "<h2>Side by side</h2>",
        *_told(common_basis(evaluations)),
        table,
        f"<ul>{said_of}</ul>",
    ]


def _told(lines: Iterable[str]) -> list[str]:
    """Return lines of text, those to beware of marked."""
    return [
        f'<p class="{"beware" if line.startswith("beware") else "note"}">{escape(line)}</p>'
        for line in lines
    ]


def _section(evaluation: Evaluation, shown: Shown) -> list[str]:
    parts = [f"<h2>{escape(evaluation.subject)}</h2>", *_told(basis(evaluation))]
    parts.append(
        rows(
            ["figure", "", "value", "95% interval", "real pictures", "samples", "how to read it"],
            [_line(figure) for figure in evaluation.figures],
        )
    )
    if evaluation.per_class:
        parts += ["<h3>By class</h3>", _by_class(evaluation)]
    parts.append("<h3>Pictures</h3>")
    caption = f"the first {len(shown.samples)} samples, none left out"
    parts.append(
        '<div class="side">'
        + picture(sheet(shown.samples, shown.in_a_row), caption)
        + picture(sheet(shown.real), "real pictures, drawn at random")
        + "</div>"
    )
    parts.append(
        '<div class="side">'
        + picture(sheet(shown.best), "the most real, by Kynkäänniemi's realism")
        + picture(sheet(shown.worst), "the least real")
        + "</div>"
    )
    if shown.nearest:
        parts += [
            "<h3>Nearest training pictures</h3>",
            '<p class="note">Samples on the left, those nearest to a training picture first, and '
            "the training pictures nearest to them. Distances are in units of that below which "
            "two pictures are the same to the eye.</p>",
            _nearest(shown.nearest),
        ]
    if evaluation.curve:
        parts += ["<h3>Number of samples</h3>", _count_curve(evaluation)]
    curves = list(log_curves(shown.log))
    if curves:
        parts += ["<h3>Training</h3>", '<div class="side">', *curves, "</div>"]
    return parts


def _line(figure: Quality) -> list[str]:
    real = said(figure.metric, figure.real)
    if real and figure.real_samples != figure.samples:
        real += f" ({figure.real_samples or 0:,})"
    note = figure.note or ""
    if figure.feature_network and "Ganymede's classifier" in figure.feature_network:
        note = f"by {figure.feature_network}"
    return [
        figure.metric,
        direction(figure.metric),
        said(figure.metric, figure.value),
        interval(figure),
        real,
        f"{figure.samples:,}",
        note,
    ]


def _by_class(evaluation: Evaluation) -> str:
    return rows(
        [
            "class",
            "kernel distance ↓",
            "of real pictures",
            "precision ↑",
            "recall ↑",
            "obedience ↑",
        ],
        (
            [
                name,
                f"{each.kernel_distance:.5f} ({each.low:.5f} to {each.high:.5f})",
                said("KID", each.real),
                said("precision", each.precision),
                said("recall", each.recall),
                said("class obedience", each.obedience),
            ]
            for name, each in evaluation.per_class.items()
        ),
    )


def _count_curve(evaluation: Evaluation) -> str:
    points = evaluation.curve
    lines = [
        Line(evaluation.subject, [(p.samples, p.made) for p in points]),
        Line("real pictures", [(p.samples, p.real) for p in points if p.real is not None]),
    ]
    return chart(lines, across="samples", up="Fréchet distance", from_zero=True)


def log_curves(log: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Draw what a run's log has of losses, scores, diversity and quality."""
    for title, names in _CURVES.items():
        lines = [
            Line(name, [(entry["images"], entry[name]) for entry in log if name in entry])
            for name in names
        ]
        lines = [line for line in lines if len(line.points) > 1]
        if lines:
            yield chart(lines, across="images", up=title)


def _nearest(neighbours: Sequence[Neighbours]) -> str:
    cells = []
    for each in neighbours:
        strip = sheet(np.concatenate([each.made[None], each.training]), 1 + len(each.training))
        cells.append(picture(strip, f"{each.distance:.1f}"))
    return '<div class="side">' + "".join(cells) + "</div>"


def sheet(pixels: NDArray[np.uint8], in_a_row: int | None = None) -> Image.Image:
    """Lay ``[N, H, W, C] uint8`` out in rows, small ones enlarged, none touching another."""
    zoom = max(_SIDE // pixels.shape[1], 1)
    pixels = pixels.repeat(zoom, axis=1).repeat(zoom, axis=2)
    pixels = np.pad(pixels, ((0, 0), (0, 2), (0, 2), (0, 0)), constant_values=255)
    count, height, width, channels = pixels.shape
    in_a_row = in_a_row or math.ceil(math.sqrt(count))
    lines = math.ceil(count / in_a_row)
    blank = np.full((lines * in_a_row - count, height, width, channels), 255, np.uint8)
    tiles = np.concatenate([pixels, blank]).reshape(lines, in_a_row, height, width, channels)
    return to_image(tiles.swapaxes(1, 2).reshape(lines * height, in_a_row * width, channels))
