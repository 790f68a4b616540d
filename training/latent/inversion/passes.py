"""Inversion by an encoder: passes from the mean latent, of which the best is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.runtime.models.manifest import Manifest
from service.runtime.models.parts.graphs import encoder_output
from service.runtime.onnx.sessions import Session
from training.latent.generator import Conditions, LatentGenerator, Latents

Pixels = NDArray[np.uint8]
# Maps the inputs of the encoder graph to the new latent.
RunEncoder = Callable[[dict[str, NDArray[Any]]], Latents]


@dataclass(frozen=True)
class Inversion:
    """The latents of images, and the images that the generator makes of them.

    `classes` are the class indices that were used, for models whose class is no part of the latent.
    """

    latents: Latents
    pixels: Pixels
    classes: NDArray[np.int64] | None = None

    def better_of(self, other: Inversion, targets: Pixels) -> Inversion:
        """Return the better reconstruction of each image, by mean squared error."""
        better = squared_errors(other.pixels, targets) < squared_errors(self.pixels, targets)
        classes = self.classes
        if classes is not None and other.classes is not None:
            classes = np.where(better, other.classes, classes)
        return Inversion(
            _select(better, other.latents, self.latents),
            _select(better, other.pixels, self.pixels),
            classes,
        )


def session_encoder(session: Session, space: str) -> RunEncoder:
    """Return the function that runs an exported encoder in ONNX Runtime."""
    return lambda feeds: session.run(feeds)[encoder_output(space)]


def invert_by_passes(
    generator: LatentGenerator,
    encoder: RunEncoder,
    start: Latents,
    targets: Pixels,
    passes: int,
    classes: Sequence[int] | None = None,
) -> list[Inversion]:
    """Return the best inversion of `targets` ``[N, H, W, C]`` after each number of passes.

    The first entry is the start, without any pass. It is not among those that the others are the
    best of, as in `service.runtime.generation.inversion_plan`, so that figures are those of
    requests. `classes` are the class indices of the images.
    """
    conditions = conditions_of(generator, len(targets), classes)
    shown = class_inputs(conditions)
    latents = np.repeat(start[None], len(targets), 0)
    used = None if classes is None else np.asarray(classes, np.int64)
    current = Inversion(latents, generator.pixels(latents, conditions), used)
    history = [current]
    for number in range(passes):
        feeds: dict[str, NDArray[Any]] = {
            "image": targets,
            "reconstruction": current.pixels,
            generator.space: current.latents,
            **shown,
        }
        latents = encoder(feeds)
        current = Inversion(latents, generator.pixels(latents, conditions), used)
        history.append(history[-1].better_of(current, targets) if number else current)
    return history


def conditions_of(
    generator: LatentGenerator, count: int, classes: Sequence[int] | None
) -> Conditions:
    """Return the inputs beside the latent for `count` images: classes, default truncation."""
    if generator.space == "w":
        return {}
    feeds = generator.model.feeds(range(count), classes)
    return {name: feed for name, feed in feeds.items() if name != "z"}


def class_inputs(conditions: Conditions) -> dict[str, NDArray[np.generic]]:
    """Return the class input among the conditions, which the encoder takes, too."""
    return {name: feed for name, feed in conditions.items() if name.startswith("class_")}


def has_class_choice(manifest: Manifest) -> bool:
    """Return whether the class is an input beside the latent, so that it must be chosen."""
    return manifest.styles is None and bool(manifest.classes)


def squared_errors(pixels: Pixels, targets: Pixels) -> NDArray[np.float64]:
    """Return the mean squared error of each image, in levels of 255."""
    axes = tuple(range(1, targets.ndim))
    difference = pixels.astype(np.float32) - targets.astype(np.float32)
    errors: NDArray[np.float64] = np.square(difference).mean(axes, dtype=np.float64)
    return errors


def psnr(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the peak signal-to-noise ratio in dB; equal images have that of half a level."""
    ratios: NDArray[np.float64] = 10 * np.log10(255**2 / np.maximum(errors, 0.25))
    return ratios


def _select(mask: NDArray[np.bool_], a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """Return the rows of `a` where the mask is set, and those of `b` elsewhere."""
    return np.where(mask.reshape(-1, *[1] * (a.ndim - 1)), a, b)
