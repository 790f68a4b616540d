"""How a class reaches a network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Conditioning:
    """`classes` of them, each embedded in `width` values; none of either without conditioning."""

    classes: int
    width: int

    @classmethod
    def of(cls, classes: int, width: int) -> Conditioning:
        """Return the conditioning on `classes`, 0 for none."""
        return cls(classes, width) if classes else UNCONDITIONAL


UNCONDITIONAL = Conditioning(0, 0)


class JoinedLabel(nn.Module):
    """Joins the class's embedding to a vector: ``[N, D]`` to ``[N, D + width]``.

    Unconditional, it gives the vector back and takes no class.
    """

    def __init__(self, conditioning: Conditioning) -> None:
        super().__init__()
        self.embed: nn.Embedding | None = None
        if conditioning.classes:
            self.embed = nn.Embedding(conditioning.classes, conditioning.width)

    def forward(self, vector: Tensor, class_index: Tensor | None) -> Tensor:
        if self.embed is None:
            return vector
        if class_index is None:
            raise ValueError("a class-conditional network needs class_index")
        return torch.cat([vector, self.embed(class_index)], dim=1)


class LabelPlanes(nn.Module):
    """Joins the class to a picture as channels: ``[N, C, H, W]`` to ``[N, C + width, H, W]``."""

    def __init__(self, conditioning: Conditioning) -> None:
        super().__init__()
        self.embed: nn.Embedding | None = None
        if conditioning.classes:
            self.embed = nn.Embedding(conditioning.classes, conditioning.width)

    def forward(self, images: Tensor, class_index: Tensor | None) -> Tensor:
        if self.embed is None:
            return images
        if class_index is None:
            raise ValueError("a class-conditional network needs class_index")
        planes = self.embed(class_index)[:, :, None, None].expand(-1, -1, *images.shape[2:])
        return torch.cat([images, planes], dim=1)
