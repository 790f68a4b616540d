"""Batches of input and target images for image-to-image models, paired and unpaired.

In every function `source` is the data set of `recipe.source` (inputs), if the recipe has one, and
`target` is that of `recipe.data`. Tasks such as upscaling derive the inputs from the targets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.data.images import DataOptions, ImageData, center_crops, load_images
from training.data.sampler import ShuffledBatches
from training.data.sources import DataError, stem
from training.games.tasks.task import ImageTask, TaskInputs

if TYPE_CHECKING:
    from training.recipe.schema import Recipe

# Number of examples in the sample sheet of a run and in the preview of a model.
EXAMPLES = 24
# Separates the random numbers of the inputs from the sampler's.
_INPUT_STREAM = 3
# Offset between the shuffling seeds of two unpaired sets.
_SET_SEED_OFFSET = 7919


@dataclass(frozen=True)
class MatchedImages:
    """Two data sets with the same number of images, where row i of both is a pair."""

    source: ImageData
    target: ImageData


class PairedBatches:
    """An endless sequence of batches of (input, target) pairs, indexed by batch number.

    All randomness is a function of (seed, batch number).
    """

    def __init__(
        self, recipe: Recipe, task: ImageTask, target: ImageData, matched: MatchedImages | None
    ) -> None:
        """Pair `matched` images, or derive the inputs from `target` where there is no source."""
        self._task, self._seed = task, recipe.train.seed
        sets = [target] if matched is None else [matched.target, matched.source]
        # Equal lengths and seeds give both sets the same rows, crops and flips.
        self._batches = [
            ShuffledBatches(
                data,
                recipe.train.batch,
                recipe.data.resolution,
                flip=recipe.data.flip,
                seed=recipe.train.seed,
            )
            for data in sets
        ]

    def __getitem__(self, number: int) -> tuple[TaskInputs, Tensor]:
        """Return batch `number`: the inputs, and the targets ``[B, C, H, W] uint8``."""
        target, *source = (batches[number][0] for batches in self._batches)
        rng = np.random.default_rng([self._seed, _INPUT_STREAM, number])
        return self._task.derive_inputs(target, rng, source[0] if source else None), target


class UnpairedBatches:
    """An endless sequence of batches of two unpaired data sets, indexed by batch number.

    All randomness is a function of (seed, batch number).
    """

    def __init__(self, recipe: Recipe, target: ImageData, source: ImageData) -> None:
        self._batches = [
            ShuffledBatches(
                data,
                recipe.train.batch,
                recipe.data.resolution,
                flip=options.flip,
                # Different seeds, so that sets of equal size are not shuffled alike.
                seed=recipe.train.seed + i * _SET_SEED_OFFSET,
            )
            for i, (data, options) in enumerate(
                ((source, recipe.source or recipe.data), (target, recipe.data))
            )
        ]

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        """Return batch `number` of (source, target), ``[B, C, H, W] uint8`` each."""
        source, target = (batches[number][0] for batches in self._batches)
        return source, target


def load_matched_source(recipe: Recipe, target: ImageData) -> MatchedImages | None:
    """Load a paired recipe's source and match it with `target`; None without a source.

    Raises DataError.
    """
    if recipe.source is None:
        return None
    return match_by_name(load_images(recipe.source), target)


def match_by_name(source: ImageData, target: ImageData) -> MatchedImages:
    """Pair images with the same file name, ignoring folder and suffix.

    Raises DataError if no names match.
    """
    source_rows = {stem(name): row for row, name in enumerate(source.names)}
    pairs = [
        (source_rows[key], row)
        for row, name in enumerate(target.names)
        if (key := stem(name)) in source_rows
    ]
    if not pairs:
        first = PurePosixPath(target.names[0]).name
        raise DataError(
            f"no image of data.path and source.path has the same name; source has no {first}"
        )
    matching_source, matching_target = (np.array(rows) for rows in zip(*pairs, strict=True))
    return MatchedImages(_rows(source, matching_source), _rows(target, matching_target))


def held_out_options(options: DataOptions) -> DataOptions:
    """Return options for the held-out images: the split `test`, uncropped.

    Data without a test split fall back to the training images. Both halves of `data.half` are
    included, since held-out images may be pairs.
    """
    uncropped = options.model_copy(
        update={"crop": "centre", "resolution": options.stored or options.resolution, "half": None}
    )
    test = uncropped.model_copy(update={"split": "test", "limit": None})
    try:
        if not options.has_splits():
            return uncropped
        test_names, training_names = test.open().names, options.open().names
    except DataError:
        return uncropped
    # The data have no test split if the options select another split explicitly.
    return test if set(test_names).isdisjoint(training_names) else uncropped


def example_pairs(recipe: Recipe, count: int | None = EXAMPLES) -> tuple[TaskInputs, Tensor]:
    """Return a fixed choice of held-out inputs and targets, ``[N, C, H, W] uint8`` each.

    Returns all of them if `count` is None. Without held-out images, training images are used.
    Raises DataError.
    """
    source, target = _load_matched(recipe, _load_held_out)
    return _make_pairs(recipe, source, target, _example_rows(len(target), count))


def validation_pairs(
    recipe: Recipe, count: int, half: Literal["first", "last"] | None
) -> tuple[TaskInputs, Tensor]:
    """Return up to `count` pairs ``[N, C, H, W] uint8`` for selecting checkpoints.

    The pairs are the same for every call. They come from one `half` of the held-out images in a
    fixed random order, in which `example_pairs` takes its images from the start. With `half` None
    they are training images. Raises DataError.
    """
    source, target = _load_matched(recipe, _load_held_out if half else _load_training)
    order = _fixed_order(len(target))
    if half:
        cut = len(order) // 2 or 1
        order = order[::-1][:cut] if half == "last" else order[: len(order) - cut or 1]
    return _make_pairs(recipe, source, target, np.sort(order[:count]))


def unpaired_examples(
    recipe: Recipe, count: int = EXAMPLES, *, matched: bool = False
) -> tuple[Tensor, Tensor]:
    """Return a fixed choice of held-out images of (source, target), ``[N, C, H, W] uint8`` each.

    The images are pairs if any file names match. Raises DataError, also if `matched` is True and no
    names match.
    """
    assert recipe.source is not None  # noqa: S101 - validated by the recipe
    source, target = _load_held_out(recipe.source), _load_held_out(recipe.data)
    if matched or {stem(name) for name in source.names} & {stem(name) for name in target.names}:
        pairs = match_by_name(source, target)
        rows = _example_rows(len(pairs.source), count)
        return _to_tensor(pairs.source, rows), _to_tensor(pairs.target, rows)
    count = min(count, len(source), len(target))
    return (
        _to_tensor(source, _example_rows(len(source), count)),
        _to_tensor(target, _example_rows(len(target), count)),
    )


def _load_held_out(options: DataOptions) -> ImageData:
    return load_images(held_out_options(options))


def _load_training(options: DataOptions) -> ImageData:
    return center_crops(load_images(options), options.resolution)


def _load_matched(
    recipe: Recipe, load: Callable[[DataOptions], ImageData]
) -> tuple[ImageData | None, ImageData]:
    """Load a recipe's source, or None if it has none, and the targets paired with it."""
    target = load(recipe.data)
    if recipe.source is None:
        return None, target
    matched = match_by_name(load(recipe.source), target)
    return matched.source, matched.target


def _make_pairs(
    recipe: Recipe, source: ImageData | None, target: ImageData, rows: NDArray[np.int64]
) -> tuple[TaskInputs, Tensor]:
    """Return the inputs and the targets of `rows`."""
    targets = _to_tensor(target, rows)
    rng = np.random.default_rng([0, _INPUT_STREAM])
    inputs = recipe.game.image_task().derive_inputs(
        targets, rng, _to_tensor(source, rows) if source else None
    )
    return inputs, targets


def _fixed_order(total: int) -> NDArray[np.int64]:
    """Return a permutation that is the same in every run."""
    return np.random.default_rng(0).permutation(total)


def _example_rows(total: int, count: int | None) -> NDArray[np.int64]:
    return np.sort(_fixed_order(total)[:count]) if count else np.arange(total)


def _to_tensor(data: ImageData, rows: NDArray[np.int64]) -> Tensor:
    """Return ``[N, C, H, W] uint8``."""
    return torch.from_numpy(data.pixels[rows]).permute(0, 3, 1, 2).contiguous()


def _rows(data: ImageData, rows: NDArray[np.int64]) -> ImageData:
    return replace(
        data,
        pixels=data.pixels[rows],
        labels=None,
        names=tuple(data.names[row] for row in rows),
    )
