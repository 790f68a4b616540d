"""How near a model comes that makes pictures of pictures: against the true ones, held out.

Through the runtime that serves, and beside what would be there without it: the picture that went
in, or its enlargement.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from service.runtime.models.manifest import GENERATOR, Quality
from service.runtime.models.model import Model
from training.data.degradations import upscale
from training.data.pairs import example_pairs, held_out_options, unpaired_examples
from training.evaluation.errors import QualityError
from training.evaluation.features.networks import FeatureNetwork
from training.evaluation.features.references import digest_of
from training.evaluation.metrics.paired import PairFigures, compare_pairs
from training.games.tasks.task import Given
from training.preview.image_to_image import made_by, pixels, seen
from training.recipe.schema import Recipe

Pixels = NDArray[np.uint8]
Progress = Callable[[str, int, int], None]

# So many pairs, where there are as many and nothing else is said.
MOST = 500
# Of figures that look at the pixels themselves.
_AS_THEY_ARE = "pixels as they are, no network"


@dataclass(frozen=True)
class Way:
    """One direction of a model, measured.

    `figures` are the means of what `each` says pair by pair. Pictures are ``[N, H, W, C] uint8``;
    `given` has the size that went in, and holes in white.
    """

    direction: str
    figures: tuple[Quality, ...]
    each: PairFigures
    given: Pixels
    made: Pixels
    wanted: Pixels


def measure_translation(
    recipe: Recipe, model: Model, network: FeatureNetwork, progress: Progress | None = None
) -> tuple[Quality, ...]:
    """Return PSNR, SSIM and the feature distance of a recipe's model, of each direction.

    Raises QualityError where nobody knows which pictures belong together, and DataError.
    """
    ways = measure_ways(recipe, model, network, progress=progress)
    return tuple(figure for way in ways for figure in way.figures)


def measure_ways(
    recipe: Recipe,
    model: Model,
    network: FeatureNetwork,
    samples: int = MOST,
    progress: Progress | None = None,
) -> tuple[Way, ...]:
    """Measure each direction of a recipe's model by `samples` pairs, or all where there are fewer.

    Raises QualityError where nobody knows which pictures belong together, and DataError.
    """
    if model.directions:
        source, target = unpaired_examples(recipe, samples, matched=True)
        there, back = model.directions
        return (
            _way(recipe, model, network, Given(source), target, there, progress),
            _way(recipe, model, network, Given(target), source, back, progress),
        )
    given, wanted = example_pairs(recipe, samples)
    return (_way(recipe, model, network, given, wanted, GENERATOR, progress),)


def simplest(given: Given, channels: int, factor: int) -> tuple[str, Pixels]:
    """Return what would be there without a model, and what that is called."""
    if factor > 1:
        return "cubic interpolation", pixels(upscale(given.image, factor))
    same = pixels(given.image)
    if same.shape[-1] == 1 and channels == 3:
        same = same.repeat(3, 3)
    if given.mask is None:
        return "the picture that went in", same
    hole = given.mask.permute(0, 2, 3, 1).numpy() > 127
    known = np.where(hole, np.nan, same)
    mean = np.nanmean(known, axis=(1, 2), keepdims=True)
    return "the mean colour in the hole", np.where(hole, np.rint(mean), same).astype(np.uint8)


def _way(
    recipe: Recipe,
    model: Model,
    network: FeatureNetwork,
    given: Given,
    true: Tensor,
    direction: str,
    progress: Progress | None,
) -> Way:
    manifest = model.manifest
    if manifest.input is None:
        raise QualityError(f"{manifest.name} makes no pictures of pictures")
    wanted = pixels(true)
    name, plain = simplest(given, manifest.image.channels, manifest.input.factor)
    suffix = f", {direction}" if model.directions else ""

    def tell(stage: str) -> Callable[[int, int], None]:
        return lambda done, total: progress(f"{stage}{suffix}", done, total) if progress else None

    made = made_by(model, given, direction)
    mine = compare_pairs(made, wanted, network, tell("looking at what was made"))
    simple = compare_pairs(plain, wanted, network, tell(f"looking at {name}"))
    errors = [np.abs(each.astype(np.int16) - wanted).mean() / 255 for each in (made, plain)]
    values = {
        "PSNR": (mine.psnr.mean(), simple.psnr.mean()),
        "SSIM": (mine.ssim.mean(), simple.ssim.mean()),
        f"feature distance-{network.name}": (
            mine.feature_distance.mean(),
            simple.feature_distance.mean(),
        ),
        "error": (errors[0], errors[1]),
    }
    digest = digest_of(wanted)
    figures = tuple(
        Quality(
            metric=f"{metric}{suffix}",
            value=float(value),
            feature_network=network.title if metric.startswith("feature") else None,
            resizing=network.resizing if metric.startswith("feature") else _AS_THEY_ARE,
            reference=f"{recipe.data.title}, split {held_out_options(recipe.data).split}",
            reference_sha256=digest,
            samples=len(wanted),
            reference_samples=len(wanted),
            baseline=float(plain_value),
            baseline_name=name,
        )
        for metric, (value, plain_value) in values.items()
    )
    return Way(direction, figures, mine, seen(given), made, wanted)
