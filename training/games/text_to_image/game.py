"""The game of text-to-image models: a conditional GAN on sentence embeddings.

Reed et al. 2016, arXiv:1605.05396: the discriminator accepts real images with their captions, and
rejects generated images as well as real images with the captions of others (GAN-CLS, algorithm 1).
The generator is also trained on means of two captions, for which no real image exists (GAN-INT,
equation 5). Tao et al. 2022, arXiv:2008.05865 (DF-GAN): one conditional logit instead of two logits
(one-way output), and a gradient penalty at real images with matching captions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from training.device import Precision
from training.distributed import DistributedContext
from training.games.noise_to_image.game import NoiseToImage, RealBatch
from training.penalties import matching_aware_penalty
from training.recipe.schema import Recipe

if TYPE_CHECKING:
    from training.games.text_to_image.options import TextToImageOptions


class TextToImage(NoiseToImage):
    """The players; a batch's `condition` are the sentence embeddings ``[N, d]`` of its captions.

    An additional metric is `mismatched_score`, the mean score of real images with captions of other
    images.
    """

    options: TextToImageOptions

    def __init__(
        self,
        recipe: Recipe,
        options: TextToImageOptions,
        device: torch.device,
        precision: Precision,
        distributed: DistributedContext,
    ) -> None:
        super().__init__(recipe, options, device, precision, distributed)

    def generator_step(
        self, reals: RealBatch, rng: torch.Generator, number: int
    ) -> dict[str, Tensor]:
        """Descend the generator's objective, for captions and for means of two captions."""
        return super().generator_step(self._interpolated(reals, rng), rng, number)

    def _interpolated(self, reals: RealBatch, rng: torch.Generator) -> RealBatch:
        """Replace a share of the captions by the mean with another one (GAN-INT, β = 0.5)."""
        text, count = reals.condition, len(reals.images)
        assert text is not None  # noqa: S101 - set by `TextToImageSetup`
        other = text[torch.randperm(count, generator=rng).to(text.device)]
        chosen = torch.rand(count, generator=rng).to(text.device) < self.options.interpolated
        mixed = torch.where(chosen[:, None], (text + other) / 2, text)
        return reals._replace(condition=mixed)

    def _other_negatives(self, images: Tensor, reals: RealBatch) -> Mapping[str, Tensor]:
        """Return the logits of real images with captions of other images."""
        return {"mismatched": self._logits(self._D, images, reals.mismatched)}

    def _penalty(self, reals: RealBatch, fake: Tensor | None, between: Tensor | None) -> Tensor:
        penalty = super()._penalty(reals, fake, between)
        if self.options.matching_penalty:
            text = reals.condition
            assert text is not None  # noqa: S101 - set by `TextToImageSetup`
            steepness = matching_aware_penalty(
                lambda images, texts: self._logits(
                    self._networks["discriminator"], self._discriminator_input(images), texts
                ),
                reals.images,
                text,
                self.options.matching_power,
            )
            penalty = penalty + self.options.matching_penalty * steepness
        return penalty
