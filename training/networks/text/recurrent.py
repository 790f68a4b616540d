"""Recurrent generators of token sequences: LSTM (Hochreiter 1997) and GRU (arXiv:1406.1078).

The same step runs in training, in roll-outs and in the exported graph, so that the graph is the
network that was trained.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from training.networks.options import TextGeneratorOptions


class RecurrentGenerator(nn.Module):
    """Predicts the next token from the tokens before it.

    The state ``[N, state]`` contains the hidden states of all layers, and for an LSTM then the
    cell states. It is zero before the first token. `used` is the number of tokens that the corpus
    has; the network may have weights for more.
    """

    used: Tensor

    def __init__(
        self,
        vocabulary: int,
        cell: Literal["lstm", "gru"],
        embedding: int,
        hidden: int,
        layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.cell, self.hidden, self.depth = cell, hidden, layers
        self.embedding = nn.Embedding(vocabulary, embedding)
        network = nn.LSTM if cell == "lstm" else nn.GRU
        self.recurrent = network(embedding, hidden, layers, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden, vocabulary)
        self.register_buffer("used", torch.tensor(vocabulary))

    def train(self, mode: bool = True) -> RecurrentGenerator:
        """Switch the dropout. The recurrent layers, which have none, stay in training mode.

        cuDNN has no backward pass of recurrent layers in evaluation mode, in which SeqGAN trains
        the generator.
        """
        super().train(mode)
        self.recurrent.train()
        return self

    @property
    def state(self) -> int:
        """The number of values in the state of a sequence."""
        return self.hidden * self.depth * (2 if self.cell == "lstm" else 1)

    def initial_state(self, count: int) -> Tensor:
        """Return the state ``[count, state]`` before the first token."""
        return self.output.weight.new_zeros(count, self.state)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits ``[N, T, V]`` of the token after each of ``tokens [N, T] int64``."""
        hidden, _ = self.recurrent(self.dropout(self.embedding(tokens)))
        logits: Tensor = self.output(self.dropout(hidden))
        return logits

    def step(self, token: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits ``[N, V]`` of the next token, and the new state ``[N, state]``.

        ``token [N] int64`` is the last token, and ``state [N, state]`` the state before it.
        """
        x: Tensor = self.embedding(token)
        parts = torch.split(state, self.hidden, 1)
        hidden, cells = [], []
        for layer in range(self.depth):
            if self.cell == "lstm":
                x, c = self._lstm(layer, x, parts[layer], parts[self.depth + layer])
                cells.append(c)
            else:
                x = self._gru(layer, x, parts[layer])
            hidden.append(x)
        return self.output(x), torch.cat([*hidden, *cells], 1)

    def _gates(self, layer: int, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return the contributions of input and hidden state to the gates of a layer."""
        weights = self.recurrent
        return (
            F.linear(
                x, getattr(weights, f"weight_ih_l{layer}"), getattr(weights, f"bias_ih_l{layer}")
            ),
            F.linear(
                h, getattr(weights, f"weight_hh_l{layer}"), getattr(weights, f"bias_hh_l{layer}")
            ),
        )

    def _lstm(self, layer: int, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        of_input, of_hidden = self._gates(layer, x, h)
        i, f, g, o = (of_input + of_hidden).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c

    def _gru(self, layer: int, x: Tensor, h: Tensor) -> Tensor:
        of_input, of_hidden = self._gates(layer, x, h)
        r_input, z_input, n_input = of_input.chunk(3, 1)
        r_hidden, z_hidden, n_hidden = of_hidden.chunk(3, 1)
        r, z = (r_input + r_hidden).sigmoid(), (z_input + z_hidden).sigmoid()
        n = (n_input + r * n_hidden).tanh()
        return (1 - z) * n + z * h


class RecurrentGeneratorOptions(TextGeneratorOptions):
    """A recurrent generator of token sequences."""

    network: Literal["recurrent"]
    cell: Literal["lstm", "gru"] = "lstm"
    embedding: PositiveInt = 64
    hidden: PositiveInt = 256
    layers: PositiveInt = 1
    # Of embeddings and hidden states, in maximum-likelihood training only.
    dropout: float = Field(default=0.0, ge=0, lt=1)

    def build(self, vocabulary: int) -> RecurrentGenerator:
        """Build the network, initialized from the global random state."""
        return RecurrentGenerator(
            vocabulary, self.cell, self.embedding, self.hidden, self.layers, self.dropout
        )
