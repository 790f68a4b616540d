"""Pictures in pairs: what goes in, and what should come out of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.images import DataOptions, ImageData, center_crops, load_images
from training.data.sampler import ShuffledBatches
from training.data.sources import DataError, stem
from training.games.options import PairedOptions
from training.games.tasks.task import Given, ImageTask
from training.recipe.schema import Recipe

# What is shown of a run, and in the preview of a model.
EXAMPLES = 24
_STREAM = 3
_OTHER_SEED = 7919


@dataclass(frozen=True)
class MatchedImages:
    """Pictures of a second set, and those that belong to them, row by row."""

    source: ImageData
    target: ImageData


class PairedBatches:
    """An endless sequence of batches of pairs, addressed by number.

    Everything random is a function of (seed, number).
    """

    def __init__(
        self, recipe: Recipe, task: ImageTask, pictures: ImageData, matched: MatchedImages | None
    ) -> None:
        self._task, self._seed = task, recipe.train.seed
        sets = [pictures] if matched is None else [matched.target, matched.source]
        # Sets of the same length under the same seed: the same rows, crops and flips.
        self._batches = [
            ShuffledBatches(
                each,
                recipe.train.batch,
                recipe.data.resolution,
                flip=recipe.data.flip,
                seed=recipe.train.seed,
            )
            for each in sets
        ]

    def __getitem__(self, number: int) -> tuple[Given, Tensor]:
        """Return batch `number`: what goes in, and the pictures ``[B, C, H, W] uint8``."""
        wanted, *source = (batches[number][0] for batches in self._batches)
        rng = np.random.default_rng([self._seed, _STREAM, number])
        return self._task.give(wanted, rng, source[0] if source else None), wanted


class UnpairedBatches:
    """An endless sequence of batches of two sets, none of whose pictures belong together.

    Addressed by number; everything random is a function of (seed, number).
    """

    def __init__(self, recipe: Recipe, pictures: ImageData, source: ImageData) -> None:
        self._batches = [
            ShuffledBatches(
                each,
                recipe.train.batch,
                recipe.data.resolution,
                flip=options.flip,
                # Sets of one size are not to go through their pictures in one order.
                seed=recipe.train.seed + i * _OTHER_SEED,
            )
            for i, (each, options) in enumerate(
                ((source, recipe.source or recipe.data), (pictures, recipe.data))
            )
        ]

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        """Return batch `number` of the source and of `data`, ``[B, C, H, W] uint8`` each."""
        source, pictures = (batches[number][0] for batches in self._batches)
        return source, pictures


def load_matched_source(recipe: Recipe, pictures: ImageData) -> MatchedImages | None:
    """Match the second set of a recipe's pictures, where it has one. Raises DataError."""
    if recipe.source is None or not isinstance(recipe.game, PairedOptions):
        return None
    return match_by_name(load_images(recipe.source), pictures)


def match_by_name(source: ImageData, pictures: ImageData) -> MatchedImages:
    """Put pictures with the same file name, whatever its folder and format, beside each other.

    Raises DataError where none have.
    """
    rows = {stem(name): row for row, name in enumerate(source.names)}
    met = [
        (rows[key], row) for row, name in enumerate(pictures.names) if (key := stem(name)) in rows
    ]
    if not met:
        first = PurePosixPath(pictures.names[0]).name
        raise DataError(f"no two pictures of data and source have the same name, as {first}")
    of_source, of_pictures = (np.array(each) for each in zip(*met, strict=True))
    return MatchedImages(_rows(source, of_source), _rows(pictures, of_pictures))


def held_out_options(options: DataOptions) -> DataOptions:
    """Return the split `test` of the same pictures, whole; the same split where it has none.

    Of what is held out, both halves: there they may well belong together.
    """
    whole = options.model_copy(
        update={"crop": "centre", "resolution": options.stored or options.resolution, "half": None}
    )
    test = whole.model_copy(update={"split": "test", "limit": None})
    try:
        names, trained = test.open().names, options.open().names
    except DataError:
        return whole
    # Data without splits have the same pictures in each.
    return test if set(names).isdisjoint(trained) else whole


def example_pairs(recipe: Recipe, count: int | None = EXAMPLES) -> tuple[Given, Tensor]:
    """Return pairs of held-out pictures, always the same ones; all where `count` is None.

    Pictures are ``[N, C, H, W] uint8``. Those that were trained on stand in where none are held
    out. Raises DataError.
    """
    source, pictures = _matched(recipe, _kept_out)
    return _given(recipe, source, pictures, _shown_rows(len(pictures), count))


def validation_pairs(
    recipe: Recipe, count: int, half: Literal["first", "last"] | None
) -> tuple[Given, Tensor]:
    """Return pairs to choose between checkpoints by, always the same ones, `count` at most.

    They are of a `half` of the held-out ones, in the order in which `examples` takes the first; or,
    without one, of those that are trained on. Pictures are ``[N, C, H, W] uint8``. Raises
    DataError.
    """
    source, pictures = _matched(recipe, _kept_out if half else _learnt)
    order = _order(len(pictures))
    if half:
        cut = len(order) // 2 or 1
        order = order[::-1][:cut] if half == "last" else order[: len(order) - cut or 1]
    return _given(recipe, source, pictures, np.sort(order[:count]))


def unpaired_examples(
    recipe: Recipe, count: int = EXAMPLES, *, matched: bool = False
) -> tuple[Tensor, Tensor]:
    """Return held-out pictures of the source and of `data`, always the same ones.

    ``[N, C, H, W] uint8`` each; they belong together where pictures have the same names. Raises
    DataError, also where they have to be `matched` and are not.
    """
    assert recipe.source is not None  # noqa: S101 - the recipe sees to it
    source, pictures = (
        load_images(held_out_options(recipe.source)),
        load_images(held_out_options(recipe.data)),
    )
    if matched or {stem(name) for name in source.names} & {stem(name) for name in pictures.names}:
        met = match_by_name(source, pictures)
        source, pictures = met.source, met.target
        rows = _shown_rows(len(source), count)
        return _tensor(source, rows), _tensor(pictures, rows)
    count = min(count, len(source), len(pictures))
    return (
        _tensor(source, _shown_rows(len(source), count)),
        _tensor(pictures, _shown_rows(len(pictures), count)),
    )


def _kept_out(options: DataOptions) -> ImageData:
    return load_images(held_out_options(options))


def _learnt(options: DataOptions) -> ImageData:
    return center_crops(load_images(options), options.resolution)


def _matched(
    recipe: Recipe, pictures_of: Callable[[DataOptions], ImageData]
) -> tuple[ImageData | None, ImageData]:
    """Return the source, where a recipe has one, and the pictures that belong to it."""
    pictures = pictures_of(recipe.data)
    if recipe.source is None:
        return None, pictures
    matched = match_by_name(pictures_of(recipe.source), pictures)
    return matched.source, matched.target


def _given(
    recipe: Recipe, source: ImageData | None, pictures: ImageData, rows: NDArray[np.int64]
) -> tuple[Given, Tensor]:
    wanted = _tensor(pictures, rows)
    rng = np.random.default_rng([0, _STREAM])
    given = recipe.picture_task.give(wanted, rng, _tensor(source, rows) if source else None)
    return given, wanted


def _order(total: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).permutation(total)


def _shown_rows(total: int, count: int | None) -> NDArray[np.int64]:
    return np.sort(_order(total)[:count]) if count else np.arange(total)


def _tensor(pictures: ImageData, rows: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(pictures.pixels[rows]).permute(0, 3, 1, 2).contiguous()


def _rows(pictures: ImageData, rows: NDArray[np.int64]) -> ImageData:
    return replace(
        pictures,
        pixels=pictures.pixels[rows],
        labels=None,
        names=tuple(pictures.names[row] for row in rows),
    )
