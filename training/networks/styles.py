"""What generators with a style space share: z becomes w, and each layer takes a w of its own."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class StyleMix(NamedTuple):
    """Second latents ``[N, z_dim]``, whose styles take over from layer `crossover` ``[N]`` on.

    Style mixing regularisation (Karras et al. 2018, arXiv:1812.04948, section 3.1): neighbouring
    styles are not to count on each other. A crossover at the number of layers mixes nothing.
    """

    z: Tensor
    crossover: Tensor


class StyleGenerator(nn.Module):
    """Latents ``[N, z_dim]`` and classes ``[N]`` to pictures ``[N, C, H, W]``, near [-1, 1].

    `mapping` makes w ``[N, w_dim]`` of them, and `synthesis` a picture of w ``[N, layers, w_dim]``;
    it knows its `layers`, and at which resolution each acts (`layer_resolutions`).
    """

    def __init__(self, mapping: nn.Module, synthesis: nn.Module, w_dim: int) -> None:
        super().__init__()
        self.mapping = mapping
        self.synthesis = synthesis
        self.w_dim = w_dim

    @property
    def layers(self) -> int:
        """How many styles a picture takes."""
        return len(self.layer_resolutions)

    @property
    def layer_resolutions(self) -> list[int]:
        """The side at which each layer acts, in pixels."""
        resolutions: list[int] = self.synthesis.layer_resolutions  # type: ignore[assignment]
        return resolutions

    def styles(
        self, z: Tensor, class_index: Tensor | None = None, mix: StyleMix | None = None
    ) -> Tensor:
        """Return w ``[N, layers, w_dim]``, that of one latent in every layer unless mixed."""
        w: Tensor = self.mapping(z, class_index)[:, None].expand(-1, self.layers, -1)
        if mix is None:
            return w
        other = self.mapping(mix.z, class_index)[:, None]
        layer = torch.arange(self.layers, device=z.device)
        return torch.where((layer < mix.crossover[:, None])[:, :, None], w, other)

    def forward(
        self,
        z: Tensor,
        class_index: Tensor | None = None,
        mix: StyleMix | None = None,
        *,
        with_styles: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return the pictures; with `with_styles` also the w that they were made of."""
        w = self.styles(z, class_index, mix)
        images: Tensor = self.synthesis(w)
        return (images, w) if with_styles else images
