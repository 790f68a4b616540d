"""What a run is measured by while it trains: the true pictures, and what a generator makes of its
own.

From noise, and between two sets, pictures are held against those that the run learns from: a
held-out split that chose the best checkpoint would be held out no longer. Pairs are another matter.
A generator descends how far it is from the very pairs that it learns, so that they say how well it
knows them by heart: the last checkpoint would be the best, and no patience would end. Pairs are
therefore held-out ones, from the other end than those that `ganymede evaluate` takes and half of
them at most: as many are left that have chosen nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from service.runtime.models.manifest import GENERATOR
from training.data.images import DataOptions, ImageData, center_crops, load_images
from training.data.pairs import held_out_options, validation_pairs
from training.evaluation.during_training import EvaluateOptions
from training.evaluation.errors import QualityError
from training.evaluation.features.networks import open_network
from training.evaluation.features.references import RealImages, open_reference
from training.evaluation.metrics import pair_metric_names, validate_features
from training.evaluation.metrics.pairs import compare_pairs
from training.games.options import UnpairedOptions
from training.games.tasks.task import Given
from training.preview.image_to_image import pixels
from training.recipe.schema import Recipe

Pixels = NDArray[np.uint8]
# Makes the pictures ``[N, H, W, C]`` of seeds; of other pictures, in a direction.
FromSeeds = Callable[[Sequence[int]], Pixels]
FromPictures = Callable[[Given, str], Pixels]

# As many as `ganymede evaluate` wants.
_LEAST = 10
# Of two directions; the end of an interval is of one.
_AVERAGED = ("kernel_distance", "frechet_distance", "precision", "recall")


class ValidationMetric:
    """How near made pictures come to real ones, as a set."""

    def __init__(self, options: EvaluateOptions, real: RealImages) -> None:
        """Look at the real pictures, or find what was seen of them before. Raises QualityError."""
        if len(real.images) < _LEAST:
            raise QualityError(
                f"evaluate: {real.title} has {len(real.images)} pictures; {_LEAST} are needed"
            )
        self._network = open_network(options.network)
        features = real.features(real.rows(options.reference_samples), self._network)
        # In random order: metrics that need equal counts use the first rows.
        self._real = features[np.random.default_rng(0).permutation(len(features))]

    def of(self, made: Pixels) -> dict[str, float]:
        """Return the figures of ``[N, H, W, C] uint8``."""
        return validate_features(self._network.features(made), self._real)


class NoiseValidation:
    """Measures a generator from noise."""

    def __init__(self, options: EvaluateOptions, data: DataOptions) -> None:
        """Look at the pictures that are learnt from, or at held-out ones.

        Raises QualityError, DataError.
        """
        real = _learnt(data)
        if options.against == "held_out":
            reference = open_reference(data)
            if not reference.held_out:
                raise _nothing_held_out(data)
            real = reference.against
        self._samples = options.samples
        self._likeness = ValidationMetric(options, real)

    def measure(self, make: FromSeeds) -> dict[str, float]:
        """Return the figures of the pictures that seeds become."""
        return self._likeness.of(make(range(self._samples)))


class PairedValidation:
    """Measures a generator that makes of a picture the one that belongs to it."""

    def __init__(self, recipe: Recipe, options: EvaluateOptions, *, confirms: bool = False) -> None:
        """Look at the true pictures, or find what was seen of them before.

        `confirms`: at those of the other held-out half, which choose nothing. Raises QualityError,
        DataError.
        """
        data, held = recipe.data, held_out_options(recipe.data)
        if options.against == "held_out" and held.split == data.split:
            raise _nothing_held_out(data)
        learnt = held.split == data.split or (options.against == "training" and not confirms)
        half: Literal["first", "last"] = "first" if confirms else "last"
        self._given, wanted = validation_pairs(recipe, options.samples, None if learnt else half)
        self._wanted = pixels(wanted)
        self._network = open_network(options.network)
        real = _real(data if learnt else held, ImageData(self._wanted, None, ()))
        self.title = real.title
        self._features = real.features(np.arange(len(self._wanted)), self._network)

    def measure(self, make: FromPictures) -> dict[str, float]:
        """Return the means over all pairs."""
        made = make(self._given, GENERATOR)
        values = compare_pairs(made, self._wanted, self._network, target_features=self._features)
        return {name: float(values[name].mean()) for name in pair_metric_names()}


class UnpairedValidation:
    """Measures generators between two sets.

    What each makes of pictures of the one set is held, as a set, against the real ones of the
    other.
    """

    def __init__(self, recipe: Recipe, options: EvaluateOptions, *, confirms: bool = False) -> None:
        """Look at the real pictures of both, or find what was seen of them before.

        `confirms`: at held-out ones, whatever the options say. Raises QualityError, DataError.
        """
        assert recipe.source is not None  # noqa: S101 - the recipe sees to it
        assert isinstance(recipe.game, UnpairedOptions)  # noqa: S101 - as its caller does
        sides = (recipe.source, recipe.data)
        if confirms or options.against == "held_out":
            held = [held_out_options(each) for each in sides]
            for each, other in zip(sides, held, strict=True):
                if each.split == other.split and not confirms:
                    raise _nothing_held_out(each)
            source, target = (_real(each, load_images(each)) for each in held)
        else:
            source, target = (_learnt(each) for each in sides)
        self.title = " and ".join(dict.fromkeys((source.title, target.title)))
        there, back = recipe.game.directions
        self._ways = {
            there: (_some(source, options.samples), ValidationMetric(options, target)),
            back: (_some(target, options.samples), ValidationMetric(options, source)),
        }

    def measure(self, make: FromPictures) -> dict[str, float]:
        """Return the figures of each direction as ``figure/direction``, and their means."""
        ways = {
            direction: likeness.of(make(given, direction))
            for direction, (given, likeness) in self._ways.items()
        }
        each = {
            f"{name}/{way}": value for way, found in ways.items() for name, value in found.items()
        }
        means = {
            name: float(np.mean([found[name] for found in ways.values()])) for name in _AVERAGED
        }
        return means | each


def picture_gauge(
    recipe: Recipe, options: EvaluateOptions, *, confirms: bool = False
) -> PairedValidation | UnpairedValidation:
    """Return what measures the generators of a recipe from pictures.

    `confirms`: by pictures that have chosen no checkpoint by the recipe's own options. Raises
    QualityError, DataError.
    """
    if isinstance(recipe.game, UnpairedOptions):
        return UnpairedValidation(recipe, options, confirms=confirms)
    return PairedValidation(recipe, options, confirms=confirms)


def _learnt(data: DataOptions) -> RealImages:
    """Return what is learnt from: its middle, where it is stored larger for random crops."""
    return _real(data, center_crops(load_images(data), data.resolution))


def _real(data: DataOptions, pictures: ImageData) -> RealImages:
    return RealImages(f"{data.title}, split {data.split}", data.split, pictures)


def _some(real: RealImages, count: int) -> Given:
    """Return pictures to make others of, always the same ones."""
    some = torch.from_numpy(real.images.pixels[real.rows(count)])
    return Given(some.permute(0, 3, 1, 2).contiguous())


def _nothing_held_out(data: DataOptions) -> QualityError:
    return QualityError(f"evaluate.against: {data.title} has no held-out pictures")
