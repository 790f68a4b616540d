"""Evaluation of image-to-image models on held-out pairs, through the runtime that serves them.

Every metric is reported with the value of a baseline that needs no model: the unchanged input,
cubic interpolation for upscaling, or a hole filled with the mean color for inpainting.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from service.runtime.models.model import Model
from service.runtime.models.parts.graphs import GENERATOR
from service.runtime.models.parts.measurements import Quality
from training.data.degradations import upscale
from training.data.pairs import example_pairs, held_out_options, unpaired_examples
from training.evaluation.errors import QualityError
from training.evaluation.evaluation import Progress
from training.evaluation.features.cache import cached_features
from training.evaluation.features.networks import FeatureNetwork
from training.evaluation.features.references import digest_of
from training.evaluation.metrics import get_metric, pair_metric_names
from training.evaluation.metrics.pairs import compare_pairs
from training.games.tasks.task import TaskInputs
from training.preview.image_to_image import channels_last, translate_images, visible_inputs
from training.recipe.schema import Recipe

Pixels = NDArray[np.uint8]

DEFAULT_PAIRS = 500
# The manifest's field `resizing` of metrics that are computed from pixels.
_NOT_RESIZED = "original pixels, no network"


@dataclass(frozen=True)
class DirectionResult:
    """The metrics of one direction of a model.

    `values` contains the values ``[N]`` of all pairs, by the metric's name. `figures` are their
    means. Images are ``[N, H, W, C] uint8``. Holes in `inputs` are white.
    """

    direction: str
    figures: tuple[Quality, ...]
    values: dict[str, NDArray[np.float64]]
    inputs: Pixels
    outputs: Pixels
    targets: Pixels


def evaluate_figures(
    recipe: Recipe, model: Model, network: FeatureNetwork, progress: Progress | None = None
) -> tuple[Quality, ...]:
    """Return the metrics of all directions of a recipe's model.

    Raises QualityError if the recipe has no pairs, and DataError.
    """
    directions = evaluate_directions(recipe, model, network, progress=progress)
    return tuple(figure for direction in directions for figure in direction.figures)


def evaluate_directions(
    recipe: Recipe,
    model: Model,
    network: FeatureNetwork,
    samples: int = DEFAULT_PAIRS,
    progress: Progress | None = None,
) -> tuple[DirectionResult, ...]:
    """Evaluate each direction of a recipe's model on up to `samples` pairs.

    Raises QualityError if the recipe has no pairs, and DataError.
    """
    if model.directions:
        source, target = unpaired_examples(recipe, samples, matched=True)
        forward, backward = model.directions
        return (
            _evaluate(recipe, model, network, TaskInputs(source), target, forward, progress),
            _evaluate(recipe, model, network, TaskInputs(target), source, backward, progress),
        )
    inputs, targets = example_pairs(recipe, samples)
    return (_evaluate(recipe, model, network, inputs, targets, GENERATOR, progress),)


def baseline_output(inputs: TaskInputs, channels: int, factor: int) -> tuple[str, Pixels]:
    """Return the name and the images ``[N, H, W, C]`` of the baseline."""
    if factor > 1:
        return "cubic interpolation", channels_last(upscale(inputs.image, factor))
    images = channels_last(inputs.image)
    if images.shape[-1] == 1 and channels == 3:
        images = images.repeat(3, 3)
    if inputs.mask is None:
        return "the input", images
    hole = inputs.mask.permute(0, 2, 3, 1).numpy() > 127
    known = np.where(hole, np.nan, images)
    mean = np.nanmean(known, axis=(1, 2), keepdims=True)
    filled = np.where(hole, np.rint(mean), images).astype(np.uint8)
    return "the mean color in the hole", filled


def _evaluate(
    recipe: Recipe,
    model: Model,
    network: FeatureNetwork,
    inputs: TaskInputs,
    target_tensor: Tensor,
    direction: str,
    progress: Progress | None,
) -> DirectionResult:
    manifest = model.manifest
    if manifest.input is None:
        raise QualityError(f"{manifest.name} is not an image-to-image model")
    targets = channels_last(target_tensor)
    baseline_name, baseline = baseline_output(
        inputs, manifest.image_spec.channels, manifest.input.factor
    )
    suffix = f", {direction}" if model.directions else ""

    def show(stage: str) -> Callable[[int, int], None]:
        return lambda done, total: progress(f"{stage}{suffix}", done, total) if progress else None

    outputs = translate_images(model, inputs, direction)
    features = cached_features(network, targets, show("computing features of targets"))
    values = compare_pairs(
        outputs, targets, network, show("comparing outputs and targets"), features
    )
    baseline_values = compare_pairs(
        baseline, targets, network, show(f"comparing {baseline_name} and targets"), features
    )
    digest = digest_of(targets)
    split = held_out_options(recipe.data).split_name
    figures = tuple(
        Quality(
            metric=f"{metric.result_key(network)}{suffix}",
            value=float(values[metric.name].mean()),
            feature_network=network.title if metric.names_network else None,
            resizing=network.resizing if metric.names_network else _NOT_RESIZED,
            reference=f"{recipe.data.dataset_title}, split {split}",
            reference_sha256=digest,
            samples=len(targets),
            reference_samples=len(targets),
            baseline=float(baseline_values[metric.name].mean()),
            baseline_name=baseline_name,
        )
        for metric in map(get_metric, pair_metric_names())
    )
    return DirectionResult(direction, figures, values, visible_inputs(inputs), outputs, targets)
