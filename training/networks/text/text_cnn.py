"""The discriminator of SeqGAN: a convolutional classifier of token sequences.

Kim 2014, arXiv:1408.5882, with a highway layer as in Yu et al. 2017, arXiv:1609.05473.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from training.networks.options import TextDiscriminatorOptions


class TextCNN(nn.Module):
    """Maps sequences to logits ``[N]``: positive means real.

    Sequences are tokens ``[N, T] int64``, or weights of all tokens ``[N, T, V]`` float32, so that
    a generator can be trained through the discriminator.
    """

    def __init__(
        self,
        vocabulary: int,
        embedding: int,
        widths: tuple[int, ...],
        filters: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.convolutions = nn.ModuleList(nn.Conv1d(embedding, filters, width) for width in widths)
        features = filters * len(widths)
        self.highway = nn.Linear(features, features)
        self.gate = nn.Linear(features, features)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(features, 1)
        # The gate is almost closed at first, as in the authors' code.
        nn.init.constant_(self.gate.bias, -2.0)

    def forward(self, sequences: Tensor) -> Tensor:
        if sequences.is_floating_point():
            embedded = sequences @ self.embedding.weight[: sequences.shape[2]]
        else:
            embedded = self.embedding(sequences)
        columns = embedded.transpose(1, 2)
        # The largest response of each filter over all positions.
        found = [F.relu(convolution(columns)).amax(2) for convolution in self.convolutions]
        features = torch.cat(found, 1)
        gate = self.gate(features).sigmoid()
        features = gate * F.relu(self.highway(features)) + (1 - gate) * features
        logits: Tensor = self.output(self.dropout(features))
        return logits.squeeze(1)


class TextCNNOptions(TextDiscriminatorOptions):
    """A convolutional discriminator of token sequences."""

    network: Literal["text_cnn"]
    embedding: PositiveInt = 64
    # The widths of the filters in tokens, and the number of filters of each width.
    widths: tuple[PositiveInt, ...] = Field(default=(1, 2, 3, 4, 5), min_length=1)
    filters: PositiveInt = 64
    dropout: float = Field(default=0.25, ge=0, lt=1)

    @model_validator(mode="after")
    def _widths_differ(self) -> TextCNNOptions:
        if len(set(self.widths)) < len(self.widths):
            raise ValueError(f"widths names a width twice: {', '.join(map(str, self.widths))}")
        return self

    def build(self, vocabulary: int, length: int) -> TextCNN:
        """Build the network for sequences of `length` tokens. Raises ValueError."""
        if max(self.widths) > length:
            raise ValueError(
                f"discriminator.widths: a filter of {max(self.widths)} tokens is wider than the "
                f"sequences, which have {length}"
            )
        return TextCNN(vocabulary, self.embedding, self.widths, self.filters, self.dropout)
