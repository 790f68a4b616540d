"""The report of a model from pictures to pictures: one HTML file, and JSON beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.runtime.files import replacing
from training.evaluation.features.networks import FeatureNetwork
from training.evaluation.image_to_image.comparison import Member, PairedVerdict
from training.evaluation.image_to_image.evaluation import Way
from training.evaluation.report.figure_text import direction, said
from training.evaluation.report.page import log_curves, picture, rows, sheet, write_page

_SHOWN = 24
_SHOWN_ENDS = 8


def told(ways: Sequence[Way], network: FeatureNetwork) -> dict[str, Any]:
    """Return the means, and what they are the means of, pair by pair, for scripts."""
    return {
        "figures": [
            figure.model_dump(mode="json", exclude_none=True)
            for way in ways
            for figure in way.figures
        ],
        "each": {
            way.direction: {
                "PSNR": way.each.psnr.tolist(),
                "SSIM": way.each.ssim.tolist(),
                f"feature distance-{network.name}": way.each.feature_distance.tolist(),
            }
            for way in ways
        },
    }


def basis(ways: Sequence[Way], network: FeatureNetwork) -> list[str]:
    """Return what every figure rests on; a line each."""
    return [
        *(
            f"{figure.samples:,} pairs of {figure.reference} "
            f"(sha256 {(figure.reference_sha256 or '')[:12]})"
            + (f", {way.direction}" if len(ways) > 1 else "")
            for way in ways
            for figure in way.figures[:1]
        ),
        f"feature distances by {network.title}, resized: {network.resizing}; PSNR, SSIM and error "
        "on the pixels as they are",
    ]


def write_translation_report(
    path: Path,
    title: str,
    ways: Sequence[Way],
    network: FeatureNetwork,
    log: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write ``path`` and the figures as JSON beside it; both are whole or not there."""
    body = [f"<h1>Quality of {escape(title)}</h1>"]
    body += [f'<p class="note">{escape(line)}</p>' for line in basis(ways, network)]
    for way in ways:
        body += _section(way, titled=len(ways) > 1)
    if curves := list(log_curves(log)):
        body += ["<h2>Training</h2>", '<div class="side">', *curves, "</div>"]
    write_page(path, f"Quality of {title}", body)
    with replacing(path.with_suffix(".json")) as temporary:
        figures = {"subject": title, **told(ways, network)}
        temporary.write_text(json.dumps(figures, indent=2) + "\n")


def write_comparison_report(
    path: Path,
    groups: Sequence[Sequence[Member]],
    found: Sequence[PairedVerdict],
    network: FeatureNetwork,
) -> None:
    """Write ``path``: models beside each other, picture by picture; whole or not there."""
    body = ["<h1>Comparison</h1>"]
    for group in groups:
        titles = [member.title for member in group]
        body += [f"<h2>{escape(' · '.join(titles))}</h2>"]
        body += [f'<p class="note">{escape(line)}</p>' for line in basis([group[0].way], network)]
        plain = group[0].way.figures[0].baseline_name or ""
        body += [
            rows(
                ["figure", "", *titles, plain],
                (
                    [
                        same[0].metric,
                        direction(same[0].metric),
                        *(said(figure.metric, figure.value) for figure in same),
                        said(same[0].metric, same[0].baseline),
                    ]
                    for same in zip(*(member.figures for member in group), strict=True)
                ),
            ),
            f'<p class="note">Side by side: what goes in, {escape(", ".join(titles))}, '
            "and what should have come.</p>",
            picture(
                _strips(
                    [member.way for member in group], np.arange(_SHOWN)[: len(group[0].way.made)]
                ),
                "the first, none left out",
            ),
        ]
    body += [f"<p>{escape(str(verdict))}</p>" for verdict in found]
    write_page(path, "Comparison", body)


def _section(way: Way, *, titled: bool) -> list[str]:
    name = way.figures[0].baseline_name or ""
    ranked = np.argsort(way.each.feature_distance)
    return [
        f"<h2>{escape(way.direction)}</h2>" if titled else "<h2>Figures</h2>",
        rows(
            ["figure", "", "value", name, "pairs"],
            (
                [
                    figure.metric,
                    direction(figure.metric),
                    said(figure.metric, figure.value),
                    said(figure.metric, figure.baseline),
                    f"{figure.samples:,}",
                ]
                for figure in way.figures
            ),
        ),
        '<p class="note">Side by side: what goes in, what comes out, and what should have.</p>',
        picture(_strips([way], np.arange(min(_SHOWN, len(way.made)))), "the first, none left out"),
        '<div class="side">',
        picture(_strips([way], ranked[:_SHOWN_ENDS], 1), "the nearest by features"),
        picture(_strips([way], ranked[::-1][:_SHOWN_ENDS], 1), "the farthest"),
        "</div>",
    ]


def _strips(ways: Sequence[Way], chosen: NDArray[np.intp], in_a_row: int = 3) -> Image.Image:
    """Lay what went in, what each of `ways` made of it and the true one side by side."""
    first = ways[0]
    given, wanted = first.given[chosen], first.wanted[chosen]
    factor = wanted.shape[1] // given.shape[1]
    given = given.repeat(factor, axis=1).repeat(factor, axis=2)
    if given.shape[-1] == 1:
        given = given.repeat(wanted.shape[-1], axis=-1)
    strips = np.stack([given, *(way.made[chosen] for way in ways), wanted], axis=1)
    return sheet(strips.reshape(-1, *wanted.shape[1:]), strips.shape[1] * in_a_row)
