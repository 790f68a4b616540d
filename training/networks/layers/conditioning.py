"""Layers that condition a network on the class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Conditioning:
    """Number of classes and width of their embedding; both are 0 for an unconditional network."""

    classes: int
    width: int

    @classmethod
    def of(cls, classes: int, width: int) -> Conditioning:
        """Return the conditioning on `classes` classes; 0 means unconditional."""
        return cls(classes, width) if classes else UNCONDITIONAL


UNCONDITIONAL = Conditioning(0, 0)


class LabelEmbedding(nn.Module):
    """A learned embedding per class. Without conditioning, it has no parameters.

    `class_index` contains either class indices ``[N] int64`` (training) or weights over all classes
    ``[N, classes] float`` (exported graphs, which blend embeddings). A one-hot row gives
    bit-identical results to the index of its class.
    """

    def __init__(self, conditioning: Conditioning) -> None:
        super().__init__()
        self.embed: nn.Embedding | None = None
        if conditioning.classes:
            self.embed = nn.Embedding(conditioning.classes, conditioning.width)

    def lookup(self, class_index: Tensor | None) -> Tensor | None:
        """Return the embeddings ``[N, width]``, or None without conditioning.

        Raises ValueError if the network is conditional and `class_index` is None.
        """
        if self.embed is None:
            return None
        if class_index is None:
            raise ValueError("a class-conditional network needs class_index")
        return select_class_rows(self.embed.weight, class_index)


def select_class_rows(table: Tensor, class_index: Tensor) -> Tensor:
    """Select or blend rows of `table` ``[classes, D]`` by `class_index`: ``[N, D]``.

    `class_index` is ``[N] int64`` or weights ``[N, classes] float``.
    """
    return class_index @ table if class_index.is_floating_point() else table[class_index]


class LabelConcat(LabelEmbedding):
    """Concatenates the class embedding to a vector: ``[N, D]`` to ``[N, D + width]``."""

    def forward(self, vector: Tensor, class_index: Tensor | None) -> Tensor:
        label = self.lookup(class_index)
        return vector if label is None else torch.cat([vector, label], dim=1)


class LabelChannels(LabelEmbedding):
    """Appends the class embedding as constant channels: ``[N, C + width, H, W]``."""

    def forward(self, images: Tensor, class_index: Tensor | None) -> Tensor:
        label = self.lookup(class_index)
        if label is None:
            return images
        planes = label[:, :, None, None].expand(-1, -1, *images.shape[2:])
        return torch.cat([images, planes], dim=1)


class LabelProjection(LabelEmbedding):
    """Dot product of features ``[N, width]`` and the class embedding: ``[N]``.

    The conditional term of the projection discriminator (Miyato and Koyama 2018,
    arXiv:1802.05637, equation 4). Zero without conditioning.
    """

    def forward(self, features: Tensor, class_index: Tensor | None) -> Tensor:
        label = self.lookup(class_index)
        if label is None:
            return features.new_zeros(len(features))
        return (features * label).sum(1)
