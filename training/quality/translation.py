"""How near a model comes that makes pictures of pictures: against the true ones, held out.

Through the runtime that serves, and beside what would be there without it: the picture that went
in, or its enlargement.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from service.runtime.manifest import GENERATOR, Quality
from service.runtime.model import Model
from training.data.degradations import enlarged
from training.data.pairs import examples, examples_of_sides, held_out
from training.previews import made_by, pixels
from training.quality.errors import QualityError
from training.quality.features import FeatureNetwork
from training.quality.pairs import compare_pairs
from training.recipe import Recipe
from training.tasks.task import Given

Pixels = NDArray[np.uint8]
Progress = Callable[[str, int, int], None]

MOST = 500


def measure_translation(
    recipe: Recipe, model: Model, network: FeatureNetwork, progress: Progress | None = None
) -> tuple[Quality, ...]:
    """Return PSNR, SSIM and the feature distance of a recipe's model, of each direction.

    Raises QualityError where nobody knows which pictures belong together, and DataError.
    """
    figures: list[Quality] = []
    if model.directions:
        source, target = examples_of_sides(recipe, MOST, matched=True)
        there, back = model.directions
        of_both = ((there, source, target), (back, target, source))
        for direction, start, end in of_both:
            figures += _figures(
                recipe, model, network, Given(start), pixels(end), direction, progress
            )
        return tuple(figures)
    given, wanted = examples(recipe, MOST)
    return tuple(_figures(recipe, model, network, given, pixels(wanted), GENERATOR, progress))


def simplest(given: Given, channels: int, factor: int) -> tuple[str, Pixels]:
    """Return what would be there without a model, and what that is called."""
    if factor > 1:
        return "cubic interpolation", pixels(enlarged(given.image, factor))
    same = pixels(given.image)
    if same.shape[-1] == 1 and channels == 3:
        same = same.repeat(3, 3)
    if given.mask is None:
        return "the picture that went in", same
    hole = given.mask.permute(0, 2, 3, 1).numpy() > 127
    known = np.where(hole, np.nan, same)
    mean = np.nanmean(known, axis=(1, 2), keepdims=True)
    return "the mean colour in the hole", np.where(hole, np.rint(mean), same).astype(np.uint8)


def _figures(
    recipe: Recipe,
    model: Model,
    network: FeatureNetwork,
    given: Given,
    wanted: Pixels,
    direction: str,
    progress: Progress | None,
) -> list[Quality]:
    manifest = model.manifest
    if manifest.input is None:
        raise QualityError(f"{manifest.name} makes no pictures of pictures")
    name, plain = simplest(given, manifest.image.channels, manifest.input.factor)

    made = made_by(model, given, direction)

    def tell(done: int, total: int) -> None:
        if progress:
            progress(f"looking at pairs{suffix}", done, total)

    suffix = f", {direction}" if model.directions else ""
    mine, simple = (compare_pairs(each, wanted, network, tell) for each in (made, plain))
    errors = [np.abs(each.astype(np.int16) - wanted).mean() / 255 for each in (made, plain)]
    held = held_out(recipe.data)
    values = {
        "PSNR": (mine.psnr.mean(), simple.psnr.mean()),
        "SSIM": (mine.ssim.mean(), simple.ssim.mean()),
        f"feature distance-{network.name}": (
            mine.feature_distance.mean(),
            simple.feature_distance.mean(),
        ),
        "error": (errors[0], errors[1]),
    }
    return [
        Quality(
            metric=f"{metric}{suffix}",
            value=float(value),
            feature_network=network.title if metric.startswith("feature") else None,
            resizing=network.resizing if metric.startswith("feature") else None,
            reference=f"{recipe.data.title}, {held.split}",
            samples=len(wanted),
            reference_samples=len(wanted),
            baseline=float(plain_value),
            baseline_name=name,
        )
        for metric, (value, plain_value) in values.items()
    ]
