"""Tables and images of the evaluation of an image-to-image model, and of comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.runtime.models.parts.measurements import Quality
from training.evaluation.evaluation import Comparison
from training.evaluation.features.networks import FeatureNetwork
from training.evaluation.image_to_image.comparison import (
    Member,
    compare_members,
    group_by_targets,
)
from training.evaluation.image_to_image.evaluation import DirectionResult
from training.evaluation.metrics import get_metric, pair_metric_names
from training.evaluation.report.document import (
    CaptionedImage,
    Gallery,
    Note,
    Part,
    Section,
    Table,
)
from training.evaluation.report.formatting import direction_arrow, format_value, metric_title
from training.evaluation.report.page import image_grid, log_charts

_SHOWN = 24
_SHOWN_EXTREMES = 8
# The number of sets of input, output and target per row.
_SETS = 3


@dataclass(frozen=True)
class ImageToImageEvaluation:
    """The evaluation of all directions of a model."""

    title: str
    digest: str | None
    directions: Sequence[DirectionResult]
    network: FeatureNetwork
    log: Sequence[Mapping[str, Any]] = ()

    @property
    def figures(self) -> tuple[Quality, ...]:
        """The metrics of all directions, in the form of a manifest's `quality`."""
        return tuple(figure for direction in self.directions for figure in direction.figures)

    def to_json(self) -> dict[str, Any]:
        """Return the metrics and their values for all pairs as a JSON object."""
        metrics = [get_metric(name) for name in pair_metric_names(per_pair=True)]
        return {
            "subject": self.title,
            "figures": [
                figure.model_dump(mode="json", exclude_none=True) for figure in self.figures
            ],
            "each": {
                result.direction: {
                    metric.result_key(self.network): result.values[metric.name].tolist()
                    for metric in metrics
                }
                for result in self.directions
            },
        }

    def summary(self) -> Section:
        """Return the metrics and the measurement conditions as a report section."""
        return Section(
            self.title, [*basis(self.directions, self.network), _metric_table(self.figures)]
        )

    def details(self) -> list[Section]:
        """Return report sections with images of each direction and the log of a run."""
        titled = len(self.directions) > 1
        sections = [
            Section(
                f"Images: {result.direction}" if titled else "Images",
                _example_images(result),
                level=3,
            )
            for result in self.directions
        ]
        return [*sections, *log_charts(self.log)]

    @classmethod
    def compare(cls, results: Sequence[ImageToImageEvaluation]) -> Comparison:
        """Compare models pair by pair. Raises QualityError if no two have the same targets."""
        groups = group_by_targets([(result.title, result.directions) for result in results])
        network = results[0].network
        parts: list[Part] = []
        for group in groups:
            parts += [*basis([group[0].result], network), _comparison_table(group)]
        return Comparison(
            Section("Comparison", parts),
            [verdict for group in groups for verdict in compare_members(group)],
            [Section(_titles(group), _compared_images(group), level=3) for group in groups],
        )


def basis(directions: Sequence[DirectionResult], network: FeatureNetwork) -> list[Note]:
    """Return the measurement conditions as text."""
    lines = []
    for result in directions:
        first = result.figures[0]
        suffix = f", {result.direction}" if len(directions) > 1 else ""
        lines.append(
            f"{first.samples:,} pairs of {first.reference} "
            f"(sha256 {(first.reference_sha256 or '')[:12]}){suffix}"
        )
    lines.append(
        f"features: {network.title}; resizing: {network.resizing}; PSNR, SSIM and the error are "
        "computed from the original pixels"
    )
    return [Note(line) for line in lines]


def _metric_table(figures: Sequence[Quality]) -> Table:
    return Table(
        ["metric", "", "value", str(figures[0].baseline_name), "pairs"],
        [
            [
                metric_title(figure.metric),
                direction_arrow(figure.metric),
                format_value(figure.metric, figure.value),
                format_value(figure.metric, figure.baseline),
                f"{figure.samples:,}",
            ]
            for figure in figures
        ],
        terminal_columns=4,
    )


def _comparison_table(group: Sequence[Member]) -> Table:
    rows = []
    for figures in zip(*(member.figures for member in group), strict=True):
        key = figures[0].metric
        values = (format_value(key, figure.value) for figure in figures)
        baseline = format_value(key, figures[0].baseline)
        rows.append([metric_title(key), direction_arrow(key), *values, baseline])
    name = str(group[0].result.figures[0].baseline_name)
    return Table(["metric", "", *(member.title for member in group), name], rows)


def _titles(group: Sequence[Member]) -> str:
    return " · ".join(member.title for member in group)


def _example_images(result: DirectionResult) -> list[Part]:
    ranked = np.argsort(result.values["feature_distance"])
    count = min(_SHOWN, len(result.outputs))
    return [
        Note("Side by side: input, output and target."),
        Gallery(
            [CaptionedImage(_grid([result], np.arange(count)), "the first pairs, not selected")]
        ),
        Gallery(
            [
                CaptionedImage(
                    _grid([result], ranked[:_SHOWN_EXTREMES], 1), "the lowest feature distance"
                ),
                CaptionedImage(
                    _grid([result], ranked[::-1][:_SHOWN_EXTREMES], 1),
                    "the highest feature distance",
                ),
            ]
        ),
    ]


def _compared_images(group: Sequence[Member]) -> list[Part]:
    results = [member.result for member in group]
    count = min(_SHOWN, len(results[0].outputs))
    names = ", ".join(member.title for member in group)
    grid = CaptionedImage(_grid(results, np.arange(count)), "the first pairs, not selected")
    return [Note(f"Side by side: input, {names}, target."), Gallery([grid])]


def _grid(
    results: Sequence[DirectionResult], rows: NDArray[np.intp], sets: int = _SETS
) -> Image.Image:
    """Arrange the input, the output of each result and the target side by side."""
    inputs, targets = results[0].inputs[rows], results[0].targets[rows]
    factor = targets.shape[1] // inputs.shape[1]
    inputs = inputs.repeat(factor, axis=1).repeat(factor, axis=2)
    if inputs.shape[-1] == 1:
        inputs = inputs.repeat(targets.shape[-1], axis=-1)
    strips = np.stack([inputs, *(result.outputs[rows] for result in results), targets], axis=1)
    return image_grid(strips.reshape(-1, *targets.shape[1:]), strips.shape[1] * sets)
