"""Chooses among the plausible networks of a checkpoint by images of the original.

An image-to-image model is compared on an input and its output: the score is the error in levels of
255. A noise model is compared by statistics of its samples, because the latents of the original
samples are unknown: the score is the distance of the means of the statistics, in standard
deviations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.runtime.images.decoding import ImageDecodeError, decode_image
from training.importers.errors import ModelImportError
from training.importers.formats.base import ConvertedModel
from training.importers.preview.variants import Pixels, Property, Variant, Variants

Array = NDArray[np.float64]
_MAX_PIXELS = 2**26
_SAMPLES = 64
# The search keeps this many networks, and changes one property of each in a round.
_BEAM = 4
_MAX_ROUNDS = 5
_MIN_TILES = 8
# Scores are accepted up to this multiple of the distances between samples of one network.
_TOLERANCE = 1.5
_MAX_GAP = 4
_RESAMPLES = 400
# The share of resampled comparisons that the best network has to win.
_CONFIDENCE = 0.95
# Errors in levels: below it, two outputs are equal; above it, an output is of another network.
_EQUAL, _UNLIKE = 0.5, 25.0
# The output has to fit at least this much better than the second best.
_MARGIN = 0.8
# Samples that differ less than this from those of another value show no difference.
_NO_DIFFERENCE = 0.02
# A value replaces the assumed one if its score is lower than this share of the other score.
_IMPROVES = 0.98


@dataclass(frozen=True)
class Original:
    """Images of the original network: samples, or an input with its output. ``[N, H, W, C]``."""

    outputs: Pixels
    inputs: Pixels | None = None


@dataclass(frozen=True)
class Score:
    """How far images are from the original: lower is better.

    `draws` are resampled values. Images of the same network have a value of at most `limit`.
    """

    value: float
    draws: Array
    limit: float = 0.0

    def is_better_than(self, other: Score) -> bool:
        """True if the difference exceeds the uncertainty of both scores."""
        if len(self.draws) == 0:
            return self.value < _MARGIN * other.value and other.value - self.value > _EQUAL
        return float((self.draws < other.draws).mean()) >= _CONFIDENCE


def choose(variants: Variants, original: Original, report: Callable[[str], object]) -> Variant:
    """Return the network whose images are most like the original's, and report all scores.

    Raises ModelImportError if the images do not tell two values of a property apart although their
    images differ, or if no network is like the original.
    """
    comparison = _Comparison(variants, original)
    current = comparison.search()
    undecided = []
    for prop in variants.properties(current):
        choices = comparison.choices(current, prop)
        chosen = current.settings.get(prop.name, prop.values[0])
        report(f"{prop.subject}: {comparison.shown(choices, chosen)}")
        if rivals := comparison.rivals(choices, chosen):
            undecided.append(f"{prop.subject} ({chosen} or {' or '.join(rivals)})")
    score = comparison.score(current)
    if score.value > score.limit:
        expected = "samples" if original.inputs is None else "an input and its output"
        raise ModelImportError(
            f"--like: no choice is like the original: the best score is {score.value:.2f}, at most "
            f"{score.limit:.2f} is expected for {expected} of this network"
        )
    if undecided:
        raise ModelImportError(
            f"--like: the images do not tell the {'; the '.join(undecided)}: set the option, or "
            "compare the sheets of --preview"
        )
    return current


class _Comparison:
    """Compares networks with the original, each once."""

    def __init__(self, variants: Variants, original: Original) -> None:
        self.variants, self.original = variants, original
        self._scores: dict[int, tuple[Variant, Score]] = {}

    def choices(self, current: Variant, prop: Property) -> dict[str, Variant]:
        """Return the network with each value of a property."""
        chosen = current.settings.get(prop.name, prop.values[0])
        others = self.variants.others(current, prop)
        return {chosen: current} | {other.settings[prop.name]: other for other in others}

    def shown(self, choices: Mapping[str, Variant], chosen: str) -> str:
        """Return the chosen value and all scores, best first."""
        scores = {value: self.score(variant).value for value, variant in choices.items()}
        texts = [f"{value} {score:.2f}" for value, score in sorted(scores.items(), key=_second)]
        return f"{chosen} (scores: {', '.join(texts)})"

    def rivals(self, choices: Mapping[str, Variant], chosen: str) -> list[str]:
        """Return the values that fit about as well as the chosen one, and whose images differ."""
        score = self.score(choices[chosen])
        images = choices[chosen].images(_SAMPLES, self.original.inputs).astype(float)
        rivals = []
        for value, other in choices.items():
            if value == chosen or score.is_better_than(self.score(other)):
                continue
            others = other.images(_SAMPLES, self.original.inputs).astype(float)
            same_shape = images.shape == others.shape
            if same_shape and np.abs(images - others).mean() < _NO_DIFFERENCE * 255:
                continue
            rivals.append(value)
        return rivals

    def score(self, variant: Variant) -> Score:
        """Return the score of a network."""
        # The network is stored as well, so that its id stays its own.
        if id(variant) not in self._scores:
            self._scores[id(variant)] = (variant, self._score(variant))
        return self._scores[id(variant)][1]

    def _score(self, variant: Variant) -> Score:
        original = self.original
        images = variant.images(_SAMPLES, original.inputs)
        if original.inputs is not None:
            if images.shape != original.outputs.shape:
                return Score(float("inf"), np.zeros(0))
            difference = images.astype(float) - original.outputs
            error = float(np.sqrt(np.square(difference).mean()))
            return Score(error, np.zeros(0), _UNLIKE)
        tiles = split_tiles(original.outputs, images.shape[1:3])
        if tiles is None:
            return Score(float("inf"), np.full(_RESAMPLES, np.inf))
        if len(tiles) < _MIN_TILES:
            raise ModelImportError(
                f"--like: the image contains {len(tiles)} samples of {images.shape[2]}×"
                f"{images.shape[1]} pixels; at least {_MIN_TILES} are needed to compare"
            )
        found = statistics(images)
        expected = statistics(_with_channels(tiles, images.shape[3]))
        # All scores have the scale of the original and of one network.
        reference = statistics(self.variants.base().images(_SAMPLES))
        scale = np.concatenate([expected, reference]).std(0) + 0.05
        rng = np.random.default_rng(0)
        draws = [
            _distance(_resampled(found, rng), _resampled(expected, rng), scale)
            for _ in range(_RESAMPLES)
        ]
        # The distances between samples of the network itself.
        own = [
            _distance(_resampled(found, rng), _resampled(found, rng, len(expected)), scale)
            for _ in range(_RESAMPLES)
        ]
        limit = _TOLERANCE * float(np.quantile(own, 0.95))
        return Score(_distance(found, expected, scale), np.array(draws), limit)

    def search(self) -> Variant:
        """Return the best network: changes properties of the best few, until none improves."""
        best = [self.variants.base()]
        for _ in range(_MAX_ROUNDS):
            if self.score(best[0]).value <= self.score(best[0]).limit / _TOLERANCE:
                break
            tried = {id(each): each for each in best}
            for variant in best:
                for prop in self.variants.properties(variant):
                    tried |= {id(each): each for each in self.choices(variant, prop).values()}
            # The sort is stable: without a clear improvement, assumed values remain.
            ranked = sorted(tried.values(), key=lambda each: self.score(each).value)
            improves = self.score(ranked[0]).value < _IMPROVES * self.score(best[0]).value
            if not improves:
                break
            best = ranked[:_BEAM]
        return best[0]


def _second(pair: tuple[str, float]) -> float:
    return pair[1]


def _resampled(rows: Array, rng: np.random.Generator, count: int | None = None) -> Array:
    return rows[rng.integers(len(rows), size=count or len(rows))]


def _distance(a: Array, b: Array, scale: Array) -> float:
    means = (a.mean(0) - b.mean(0)) / scale
    spreads = (a.std(0) - b.std(0)) / scale if min(len(a), len(b)) > 7 else np.zeros(1)
    return float(np.sqrt(np.square(means).mean() + np.square(spreads).mean()))


def split_tiles(images: Pixels, size: tuple[int, int]) -> Pixels | None:
    """Split grids of samples ``[N, H, W, C]`` into samples of a size.

    Grids have no gap, or one of up to four pixels between the samples and around them, as those of
    torchvision. Returns None if the samples of the grid have another size.
    """
    height, width = size
    for gap in range(_MAX_GAP + 1):
        for margin in dict.fromkeys((gap, 0)):
            rows, columns = (
                (length - 2 * margin + gap) / (side + gap)
                for length, side in zip(images.shape[1:3], (height, width), strict=True)
            )
            if rows < 1 or columns < 1 or rows % 1 or columns % 1:
                continue
            tiles = [
                image[y : y + height, x : x + width]
                for image in images
                for y in range(margin, images.shape[1] - height + 1 - margin, height + gap)
                for x in range(margin, images.shape[2] - width + 1 - margin, width + gap)
            ]
            # Grids are often not full.
            full = [tile for tile in tiles if tile.std() > 0] or tiles
            return np.stack(full)
    return None


def _with_channels(tiles: Pixels, channels: int) -> Pixels:
    if tiles.shape[3] == channels:
        return tiles
    gray: Pixels = tiles[..., :3].astype(float).mean(-1, keepdims=True).round().astype(np.uint8)
    if channels == 1:
        return gray
    colors: Pixels = tiles if tiles.shape[3] >= 3 else gray.repeat(3, -1)
    if channels == 3:
        return colors[..., :3]
    opaque = np.full((*tiles.shape[:3], 1), 255, np.uint8)
    return np.concatenate([colors[..., :3], opaque], -1)


def statistics(images: Pixels) -> Array:
    """Return the statistics of each image: ``[N, F]`` for images ``[N, H, W, C]``.

    Means and deviations of the channels, quantiles, clipped pixels, a coarse layout, and the energy
    of differences at three scales.
    """
    values = images.astype(np.float64) / 255
    luma = values[..., :3].mean(-1)
    parts = [
        values.mean((1, 2)),
        values.std((1, 2)),
        np.quantile(luma, (0.05, 0.25, 0.5, 0.75, 0.95), axis=(1, 2)).T,
        ((luma < 0.03).mean((1, 2)), (luma > 0.97).mean((1, 2))),
        _layout(luma),
    ]
    scaled = luma
    for _ in range(3):
        if min(scaled.shape[1:]) < 4:
            break
        for axis in (1, 2):
            energy = np.square(np.diff(scaled, axis=axis)).mean((1, 2))
            parts.append(0.2 * np.log(energy + 1e-5)[:, None])
        scaled = _halved(scaled)
    return np.concatenate(
        [np.stack(part, 1) if isinstance(part, tuple) else part for part in parts], 1
    )


def _layout(luma: Array) -> Array:
    rows = np.array_split(luma, 4, axis=1)
    cells = [cell.mean((1, 2)) for row in rows for cell in np.array_split(row, 4, axis=2)]
    return np.stack(cells, 1)


def _halved(luma: Array) -> Array:
    height, width = (length // 2 * 2 for length in luma.shape[1:])
    even = luma[:, :height, :width]
    halved: Array = even.reshape(len(luma), height // 2, 2, width // 2, 2).mean((2, 4))
    return halved


def read_original(paths: Sequence[Path], converted: ConvertedModel) -> Original:
    """Return the images of `--like`: samples, or an input and its output.

    Raises ModelImportError if the number of images, or the size of the input, does not fit.
    """
    spec = converted.input
    if len(paths) != (1 if spec is None else 2):
        expected = "one image of samples"
        if spec is not None:
            expected = "an input and its output: --like INPUT --like OUTPUT"
        raise ModelImportError(f"--like: got {len(paths)} images; expected {expected}")
    images = []
    for path in paths:
        try:
            images.append(decode_image(path.read_bytes(), max_pixels=_MAX_PIXELS).pixels[None])
        except (ImageDecodeError, OSError) as error:
            raise ModelImportError(f"--like {path}: {error}") from error
    height, width = images[0].shape[1:3]
    if spec is None:
        sample = converted.image
        if split_tiles(images[0], (sample.height, sample.width)) is None:
            raise ModelImportError(
                f"--like {paths[0]}: expected a grid of {sample.width}×{sample.height} samples, "
                f"got {width}×{height} pixels"
            )
        return Original(images[0])
    if height % spec.multiple or width % spec.multiple or min(height, width) < (spec.least or 1):
        raise ModelImportError(
            f"--like {paths[0]}: the input has {width}×{height} pixels; expected multiples of "
            f"{spec.multiple}, at least {spec.least or spec.multiple}"
        )
    outputs = _with_channels(images[1], converted.image.channels)
    return Original(outputs, _with_channels(images[0], spec.channels))
