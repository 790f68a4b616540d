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


class LabelEmbedding(nn.Module):
    """A learned vector for each class, and between them for a blend; nothing without conditioning.

    Where networks take `class_index`, that is the classes ``[N] int64``, or the weights of all
    classes ``[N, classes] float``: a row that is 1 for one class and 0 for the others is that
    class, to the last bit. Training has the former, graphs that are served the latter.
    """

    def __init__(self, conditioning: Conditioning) -> None:
        super().__init__()
        self.embed: nn.Embedding | None = None
        if conditioning.classes:
            self.embed = nn.Embedding(conditioning.classes, conditioning.width)

    def lookup(self, class_index: Tensor | None) -> Tensor | None:
        """Return ``[N, width]`` for classes or their weights, or None without conditioning."""
        if self.embed is None:
            return None
        if class_index is None:
            raise ValueError("a class-conditional network needs class_index")
        return select_class_rows(self.embed.weight, class_index)


def select_class_rows(table: Tensor, class_index: Tensor) -> Tensor:
    """Return the rows ``[N, D]`` of `table` ``[classes, D]`` for classes or weights of all."""
    return class_index @ table if class_index.is_floating_point() else table[class_index]


class LabelConcat(LabelEmbedding):
    """Joins the class to a vector: ``[N, D]`` to ``[N, D + width]``."""

    def forward(self, vector: Tensor, class_index: Tensor | None) -> Tensor:
        label = self.lookup(class_index)
        return vector if label is None else torch.cat([vector, label], dim=1)


class LabelChannels(LabelEmbedding):
    """Joins the class to a picture as channels: ``[N, C, H, W]`` to ``[N, C + width, H, W]``."""

    def forward(self, images: Tensor, class_index: Tensor | None) -> Tensor:
        label = self.lookup(class_index)
        if label is None:
            return images
        planes = label[:, :, None, None].expand(-1, -1, *images.shape[2:])
        return torch.cat([images, planes], dim=1)


class LabelProjection(LabelEmbedding):
    """Scores features by the class: the dot product of its vector and ``[N, width]``, ``[N]``.

    Projection discriminator: Miyato and Koyama 2018, arXiv:1802.05637, equation 4. Zero without
    conditioning.
    """

    def forward(self, features: Tensor, class_index: Tensor | None) -> Tensor:
        label = self.lookup(class_index)
        if label is None:
            return features.new_zeros(len(features))
        return (features * label).sum(1)
