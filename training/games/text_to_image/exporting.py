"""The graph and the preview of an exported text-to-image model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from service.runtime.latent import seeds as latents
from service.runtime.latent.seeds import Distribution
from service.runtime.models.model import Model
from service.runtime.models.parts.graphs import GENERATOR
from service.runtime.models.probe_inputs import probe_texts
from training.captions.encoders import open_encoder
from training.export.graphs import CHECKED_LATENTS, GraphSpec, served_pixels
from training.export.preview import Preview
from training.preview.captions import captioned_grid

_IMAGES_PER_PROMPT = 6


class ServedTextToImage(nn.Module):
    """Maps ``z`` [N, z_dim] and ``text`` [N, d] to ``pixels`` [N, H, W, C] uint8.

    The second output is the images before rounding, [N, C, H, W] in [-1, 1].
    """

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        return served_pixels(self.generator(z, text))


def text_to_image_graph_spec(
    generator: nn.Module, z_dim: int, dimension: int, distribution: Distribution
) -> GraphSpec:
    """Return the graph of a text-to-image generator in eval mode. One checked text is empty."""
    rows = range(CHECKED_LATENTS)
    text = torch.from_numpy(probe_texts(rows, dimension))
    text[1] = 0
    feeds = {"z": torch.from_numpy(latents.draw(rows, z_dim, distribution)), "text": text}
    module = ServedTextToImage(generator).eval()
    return GraphSpec(GENERATOR, module, feeds, ("pixels",), ("images",))


def generate_from_texts(
    model: Model, vectors: NDArray[np.float32], seeds: Sequence[int]
) -> NDArray[np.uint8]:
    """Return images ``[N, H, W, C] uint8`` of embeddings ``[N, d]``, one seed per row."""
    latent = model.manifest.latent
    assert latent is not None  # noqa: S101 - validated by the manifest
    z = latents.draw(seeds, latent.dimension, latent.distribution)
    rows = model.plan.max_rows
    parts = [
        model.run(GENERATOR, {"z": z[i : i + rows], "text": vectors[i : i + rows]})["pixels"]
        for i in range(0, len(z), rows)
    ]
    return np.concatenate(parts)


def prompts_preview(
    model: Model, encoder: str, prompts: Sequence[str], *, held_out: bool
) -> Preview:
    """Return images of `prompts` with their captions; the seeds of each prompt start at 0.

    `held_out` tells whether the prompts are held-out captions or those of training images.
    """
    vectors = open_encoder(encoder).embed(prompts).repeat(_IMAGES_PER_PROMPT, 0)
    images = generate_from_texts(model, vectors, [*range(_IMAGES_PER_PROMPT)] * len(prompts))
    origin = "held-out" if held_out else "training"
    return Preview(
        captioned_grid(images, prompts),
        "images of prompts that were not trained on" if held_out else "images of training prompts",
        f"Each row shows seeds 0 to {_IMAGES_PER_PROMPT - 1} of a prompt, without selection. The "
        f"prompts are captions of {origin} images, in random order.",
    )
