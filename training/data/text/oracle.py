"""The synthetic oracle of SeqGAN: data whose true distribution is known.

Yu et al. 2017, arXiv:1609.05473, section 4: an LSTM with weights from N(0, 1) generates the
training data, and the negative log-likelihood of generated sequences under it (equation 9) measures
the generator without a corpus.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from training.data.text.corpus import TextData
from training.data.text.vocabulary import END, Vocabulary
from training.networks.text.recurrent import RecurrentGenerator
from training.networks.text.sampling import draw
from training.recipe.options import Options


class OracleOptions(Options):
    """The synthetic data; the defaults are those of the paper."""

    vocabulary: int = Field(default=5_000, ge=2)
    length: PositiveInt = 20
    sequences: PositiveInt = 10_000
    hidden: PositiveInt = 32
    seed: NonNegativeInt = 0


class Oracle:
    """The LSTM whose distribution the generator learns."""

    def __init__(self, options: OracleOptions) -> None:
        self._options = options
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            size = options.hidden
            self.network = RecurrentGenerator(options.vocabulary, "lstm", size, size, 1, 0.0)
            for weight in self.network.parameters():
                torch.nn.init.normal_(weight)
        self.network.requires_grad_(False).eval()

    def data(self) -> TextData:
        """Return the training data, and a tenth as many held-out sequences."""
        options = self._options
        rng = torch.Generator().manual_seed(options.seed + 1)
        held_out = max(options.sequences // 10, 1)
        tokens = self._sample(options.sequences + held_out, rng).numpy()
        units = tuple(str(token) for token in range(options.vocabulary))
        return TextData(
            tokens=tokens[: options.sequences],
            held_out=tokens[options.sequences :],
            vocabulary=Vocabulary("word", units),
            fingerprint=hashlib.sha256(np.ascontiguousarray(tokens).tobytes()).hexdigest(),
            ends=False,
        )

    def _sample(self, count: int, rng: torch.Generator) -> Tensor:
        token = torch.full((count,), END)
        state, tokens = self.network.initial_state(count), []
        for _ in range(self._options.length):
            logits, state = self.network.step(token, state)
            token = draw(logits, torch.rand(count, 1, generator=rng))
            tokens.append(token)
        return torch.stack(tokens, 1)

    @torch.no_grad()
    def negative_log_likelihood(self, tokens: Tensor) -> float:
        """Return the mean over tokens ``[N, T]``, in nats (equation 9)."""
        inputs = F.pad(tokens[:, :-1], (1, 0), value=END)
        total = 0.0
        for some, targets in zip(torch.split(inputs, 256), torch.split(tokens, 256), strict=True):
            logits = self.network(some)
            total += float(
                F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
            )
        return total / tokens.numel()
