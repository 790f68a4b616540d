"""Layers that condition a network on the class, or on the embedding of a text."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Conditioning:
    """What a network is conditioned on; an unconditional network has neither classes nor text.

    `classes` is the number of classes, `text` the dimension of sentence embeddings, and `width` the
    width of the learned embedding of either.
    """

    classes: int
    width: int
    text: int = 0

    @classmethod
    def of(cls, classes: int, width: int) -> Conditioning:
        """Return the conditioning on `classes` classes; 0 means unconditional."""
        return cls(classes, width) if classes else UNCONDITIONAL

    @classmethod
    def of_text(cls, dimension: int, width: int) -> Conditioning:
        """Return the conditioning on sentence embeddings ``[N, dimension]``."""
        return cls(0, width, dimension)


UNCONDITIONAL = Conditioning(0, 0)


class LabelEmbedding(nn.Module):
    """A learned embedding per class, or of texts. Without conditioning, it has no parameters.

    `class_index` contains either class indices ``[N] int64`` (training) or weights over all classes
    ``[N, classes] float`` (exported graphs, which blend embeddings). A one-hot row gives
    bit-identical results to the index of its class. For texts, it contains sentence embeddings
    ``[N, text] float``, which are scaled to a mean square of 1 and mapped linearly. The zero
    vector, the embedding of an empty text, stays zero.
    """

    def __init__(self, conditioning: Conditioning) -> None:
        super().__init__()
        self.embed: nn.Embedding | None = None
        self.text = conditioning.text
        if conditioning.classes or conditioning.text:
            # One row per class, or per component of a sentence embedding.
            rows = conditioning.classes or conditioning.text
            self.embed = nn.Embedding(rows, conditioning.width)

    def lookup(self, class_index: Tensor | None) -> Tensor | None:
        """Return the embeddings ``[N, width]``, or None without conditioning.

        Raises ValueError if the network is conditional and `class_index` is None.
        """
        if self.embed is None:
            return None
        if class_index is None:
            raise ValueError("a conditional network needs class_index")
        if self.text:
            # Divided by the square root, so that the result has about the mean square of the rows.
            return normalized(class_index) @ self.embed.weight / math.sqrt(self.text)
        return select_class_rows(self.embed.weight, class_index)


def select_class_rows(table: Tensor, class_index: Tensor) -> Tensor:
    """Select or blend rows of `table` ``[classes, D]`` by `class_index`: ``[N, D]``.

    `class_index` is ``[N] int64`` or weights ``[N, classes] float``.
    """
    return class_index @ table if class_index.is_floating_point() else table[class_index]


def concat_label(z: Tensor, label: Tensor | None) -> Tensor:
    """Concatenate latents ``[N, D]`` and class embeddings ``[N, E]``, if there are any."""
    return z if label is None else torch.cat([z, label], dim=1)


def normalized(x: Tensor) -> Tensor:
    """Scale rows of ``[N, D]`` to a mean square of 1."""
    # In ONNX Runtime, a matrix product gives bit-identical rows for every batch size. A mean over
    # the second axis does not, because it sums a single row in a different order.
    count = x.shape[1]
    mean_square = x.square() @ x.new_full((count, 1), 1 / count)
    # Not an addition: for a row of zeros, ONNX Runtime computed NaN from the sum.
    return x * torch.rsqrt(mean_square.clamp_min(1e-8))


class LabelConcat(LabelEmbedding):
    """Concatenates the class embedding to a vector: ``[N, D]`` to ``[N, D + width]``."""

    def forward(self, vector: Tensor, class_index: Tensor | None) -> Tensor:
        return concat_label(vector, self.lookup(class_index))


class LabelChannels(LabelEmbedding):
    """Appends the class embedding as constant channels: ``[N, C + width, …]``."""

    def forward(self, images: Tensor, class_index: Tensor | None) -> Tensor:
        label = self.lookup(class_index)
        if label is None:
            return images
        size = images.shape[2:]
        planes = label.reshape(*label.shape, *[1] * len(size)).expand(-1, -1, *size)
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
