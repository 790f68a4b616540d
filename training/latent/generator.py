"""A model's generator in the space in which images are inverted: w with styles, else z."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from service.runtime.errors import UserError
from service.runtime.models.model import Model
from service.runtime.models.parts.graphs import GENERATOR, MAPPING, SYNTHESIS, TRANSFORM
from training.latent.differentiable.graph import differentiable_graph

# Latents whose mean and standard deviation describe the space.
STATISTICS_LATENTS = 10_000
_MAPPING_ROWS = 500

Latents = NDArray[np.float32]
# Inputs of the generator beside the latent, such as the class, one row per image.
Conditions = Mapping[str, NDArray[np.generic]]


class NoLatentSpace(UserError):
    """The model is an image-to-image model: it has no latent that an image could be inverted to."""


class LatentGenerator(nn.Module):
    """Maps latents to images with gradients.

    A latent is ``w [N, layers, w_dim]`` for a model with styles, and ``z [N, z_dim]`` for others.
    The class is part of w, and an input beside z.
    """

    def __init__(self, model: Model) -> None:
        """Prepare the graphs of a model. Raises NoLatentSpace and GraphNotDifferentiable."""
        super().__init__()
        manifest = model.manifest
        if manifest.latent is None:
            raise NoLatentSpace(
                f"{manifest.name} is an image-to-image model: it has no latent space"
            )
        self.model, self.manifest = model, manifest
        self.space = manifest.latent_space_name
        self.role = SYNTHESIS if manifest.styles else GENERATOR
        dimension = manifest.latent_dimension
        styles = manifest.styles
        self.shape = (len(styles.layers), dimension) if styles else (dimension,)
        self.graph = differentiable_graph(model.folder / manifest.graphs[self.role].file)

    def draw(
        self, seeds: Sequence[int], classes: Sequence[int] | None = None
    ) -> tuple[Latents, Conditions]:
        """Return the latents of seeds, at the default truncation, and their conditions.

        `classes` are indices; by default seed s has class s modulo the number of classes.
        """
        feeds = self.model.feeds(seeds, classes)
        if self.space == "w":
            parts = [
                self.model.run(
                    MAPPING, {k: v[start : start + _MAPPING_ROWS] for k, v in feeds.items()}
                )
                for start in range(0, len(seeds), _MAPPING_ROWS)
            ]
            return np.concatenate([part["w"] for part in parts]), {}
        return feeds["z"], {name: feed for name, feed in feeds.items() if name != "z"}

    def pixels(self, latents: Latents, conditions: Conditions) -> NDArray[np.uint8]:
        """Return the images ``[N, H, W, C] uint8``, as they are served."""
        feeds = {self.space: latents, **conditions}
        rows = self.model.plan.max_rows
        parts = [
            self.model.run(self.role, {k: v[start : start + rows] for k, v in feeds.items()})
            for start in range(0, len(latents), rows)
        ]
        return np.concatenate([part["pixels"] for part in parts])

    def forward(self, latents: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """Return the images ``[N, C, H, W]``; black is -1, white is 1. They are not clipped."""
        inputs = {self.space: latents, **conditions}
        if TRANSFORM in self.graph.inputs:
            inputs[TRANSFORM] = torch.eye(3, device=latents.device).expand(len(latents), 3, 3)
        images: Tensor = self.graph(**inputs)["pixels"]
        return images.permute(0, 3, 1, 2) / 127.5 - 1

    def statistics(self) -> tuple[Latents, Latents]:
        """Return the mean and the standard deviation of the latents, ``[w_dim]`` or ``[z_dim]``.

        Classes have equal shares.
        """
        latents, _ = self.draw(range(STATISTICS_LATENTS))
        vectors = latents[:, 0] if self.space == "w" else latents
        deviation = vectors.std(0)
        # A value that is the same in all latents must not be amplified.
        return vectors.mean(0), np.maximum(deviation, 1e-3 * deviation.max() + 1e-8)


def to_images(pixels: NDArray[np.uint8]) -> Tensor:
    """Return pixels ``[N, H, W, C] uint8`` as images ``[N, C, H, W]`` in [-1, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def tensors(conditions: Conditions) -> dict[str, Tensor]:
    """Return conditions as tensors."""
    return {name: torch.from_numpy(np.ascontiguousarray(each)) for name, each in conditions.items()}
