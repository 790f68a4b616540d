"""Inversion by optimization: gradient steps on the latent, through the generator's graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from service.runtime.latent.seeds import Distribution
from training.latent.generator import Conditions, LatentGenerator, Latents, tensors, to_images
from training.latent.inversion.losses import for_features, pixel_loss
from training.latent.inversion.passes import (
    Inversion,
    Pixels,
    conditions_of,
    has_class_choice,
    squared_errors,
)
from training.networks.pretrained.perceptual import PerceptualFeatures

# The limits of the latent by distribution, in its own units.
_LIMITS: dict[Distribution, float] = {"uniform": 1.0, "truncated-normal": 2.0}
# Shares of the steps in which the rate rises from 0 and falls to 0 (Karras et al. 2020,
# arXiv:1912.04958, appendix D).
_WARM_UP, _COOL_DOWN = 0.05, 0.25
_ROWS = 16

# Called with the number of finished steps of all images, or of samples, and their total.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class OptimizationSettings:
    """Steps and weights of an optimization.

    `prior` is the weight of the term that keeps the latent near the distribution of latents: the
    mean square of its distance from the mean, in standard deviations, beyond that of a sample.
    `layers` is the weight of the spread of w over the layers; directions and style mixing work
    better on styles that are similar in all layers.
    """

    steps: int = 200
    learning_rate: float = 0.05
    pixel: float = 1.0
    feature: float = 0.5
    prior: float = 0.02
    layers: float = 0.01


def best_of_samples(
    generator: LatentGenerator,
    start: Latents,
    targets: Pixels,
    samples: int,
    class_index: int | None = None,
    progress: Progress | None = None,
) -> Inversion:
    """Return for each image the nearest of `samples` samples and the mean latent, by pixels.

    With `class_index`, samples have this class; by default, seed s has its class as always.
    `progress` is called with the number of samples.
    """
    choices = [class_index]
    if has_class_choice(generator.manifest) and class_index is None:
        choices = list(range(len(generator.manifest.classes)))
    best: Inversion | None = None
    for choice in choices:
        classes = None if choice is None else [choice] * len(targets)
        latents = np.repeat(start[None], len(targets), 0)
        pixels = generator.pixels(latents, conditions_of(generator, len(targets), classes))
        middle = Inversion(latents, pixels, _as_array(classes))
        best = middle if best is None else best.better_of(middle, targets)
    assert best is not None  # noqa: S101 - there is at least one choice
    for first in range(0, samples, _ROWS):
        seeds = range(first, min(first + _ROWS, samples))
        classes = None if class_index is None else [class_index] * len(seeds)
        latents, conditions = generator.draw(seeds, classes)
        pixels = generator.pixels(latents, conditions)
        rows = [int(squared_errors(pixels, target[None]).argmin()) for target in targets]
        used = None
        if has_class_choice(generator.manifest):
            used = _as_array(classes or generator.model.classes_of(seeds))
        nearest = Inversion(latents[rows], pixels[rows], None if used is None else used[rows])
        best = best.better_of(nearest, targets)
        if progress:
            progress(seeds.stop, samples)
    return best


def _as_array(classes: Sequence[int] | None) -> NDArray[np.int64] | None:
    return None if classes is None else np.asarray(classes, np.int64)


def optimize(
    generator: LatentGenerator,
    mean: Latents,
    deviation: Latents,
    targets: Pixels,
    start: Inversion,
    settings: OptimizationSettings,
    progress: Progress | None = None,
) -> Inversion:
    """Improve the latents of `start` in gradient steps (Adam), and return the best of all steps.

    The best step has the smallest pixel and feature loss; it may be the start.
    """
    features = PerceptualFeatures()
    parts = []
    for first in range(0, len(targets), _ROWS):
        rows = slice(first, first + _ROWS)
        classes = None if start.classes is None else start.classes[rows]
        conditions = conditions_of(
            generator,
            len(targets[rows]),
            None if classes is None else [int(each) for each in classes],
        )

        def show(step: int, before: int = first, count: int = len(targets[rows])) -> None:
            if progress:
                done = before * settings.steps + count * step
                progress(done, len(targets) * settings.steps)

        latents = _Optimization(generator, mean, deviation, features, settings).run(
            targets[rows], start.latents[rows], conditions, show
        )
        parts.append(Inversion(latents, generator.pixels(latents, conditions), classes))
    return Inversion(
        np.concatenate([part.latents for part in parts]),
        np.concatenate([part.pixels for part in parts]),
        start.classes,
    )


class _Optimization:
    """The optimization of one batch of latents."""

    def __init__(
        self,
        generator: LatentGenerator,
        mean: Latents,
        deviation: Latents,
        features: PerceptualFeatures,
        settings: OptimizationSettings,
    ) -> None:
        self.generator, self.features, self.settings = generator, features, settings
        self.mean, self.deviation = torch.from_numpy(mean), torch.from_numpy(deviation)
        latent = generator.manifest.latent
        distribution = latent.distribution if latent else "normal"
        self.limit = _LIMITS.get(distribution) if generator.space == "z" else None

    def run(
        self,
        targets: Pixels,
        start: Latents,
        conditions: Conditions,
        show: Callable[[int], None],
    ) -> Latents:
        settings, given = self.settings, tensors(conditions)
        target = to_images(targets)
        with torch.no_grad():
            wanted = self.features(for_features(target))
        first = torch.from_numpy(start)
        # In units of standard deviations, one learning rate fits all dimensions.
        value = ((first - self.mean) / self.deviation).requires_grad_()
        optimizer = torch.optim.Adam([value], settings.learning_rate, betas=(0.9, 0.999))
        best, least = first.clone(), torch.full((len(target),), math.inf)
        for step in range(settings.steps + 1):
            latent = value * self.deviation + self.mean
            images = self.generator(latent, given)
            distance = settings.pixel * pixel_loss(images, target)
            distance = distance + settings.feature * self._feature_loss(images, wanted)
            with torch.no_grad():
                # The latent of the first step is taken as it is, without rounding errors.
                current = first if step == 0 else latent
                better = distance < least
                least = torch.where(better, distance, least)
                best = torch.where(better.reshape(-1, *[1] * (best.dim() - 1)), current, best)
            if step == settings.steps:
                break
            optimizer.param_groups[0]["lr"] = settings.learning_rate * _rate(step, settings.steps)
            optimizer.zero_grad(set_to_none=True)
            (distance + self._prior(value)).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if self.limit is not None:
                with torch.no_grad():
                    bound = self.limit
                    inside = (value * self.deviation + self.mean).clamp(-bound, bound)
                    value.copy_((inside - self.mean) / self.deviation)
            show(step + 1)
        return best.detach().numpy().copy()

    def _feature_loss(self, images: Tensor, wanted: list[Tensor]) -> Tensor:
        """Return the squared feature distance of each image, ``[N]``."""
        distances = [
            (ours - theirs).square().sum(1).flatten(1).mean(1)
            for ours, theirs in zip(self.features(for_features(images)), wanted, strict=True)
        ]
        return torch.stack(distances).mean(0)

    def _prior(self, value: Tensor) -> Tensor:
        """Return what keeps each latent near the distribution of latents, ``[N]``."""
        square = value.square().flatten(1).mean(1)
        loss = self.settings.prior * F.relu(square - 1)
        if self.generator.space == "w":
            spread = (value - value.mean(1, keepdim=True)).square().flatten(1).mean(1)
            loss = loss + self.settings.layers * spread
        return loss


def _rate(step: int, steps: int) -> float:
    """Return the learning rate as a share: it rises from 0, and falls to 0 along a cosine."""
    done = (step + 1) / steps
    falling = min((1 - step / steps) / _COOL_DOWN, 1.0)
    return min(done / _WARM_UP, 1.0) * (0.5 - 0.5 * math.cos(math.pi * falling))
