"""Sampling of tokens from logits, reproducible from a seed.

Token t of seed s depends on the draw ``numpy.random.RandomState(s).random_sample(max_length)[t]``,
so that a text does not depend on the other texts of a batch, or on the length that is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from service.runtime.models.parts.outputs import TextSpec


@dataclass(frozen=True)
class TextSource:
    """What determines a text: a seed, a temperature, the tokens it begins with, and its length.

    `max_length` bounds the tokens after the prefix; it is at most that of the model.
    """

    seed: int
    max_length: int
    temperature: float = 1.0
    prefix: tuple[int, ...] = ()

    def draws(self, spec: TextSpec) -> NDArray[np.float64]:
        """Return the draws ``[max_length of the model] float64`` in [0, 1)."""
        return np.random.RandomState(self.seed).random_sample(spec.max_length)


@dataclass
class TextState:
    """A text that is being generated: its tokens, without the start token."""

    source: TextSource
    spec: TextSpec

    def __post_init__(self) -> None:
        self.tokens = list(self.source.prefix)
        # Tokens that were fed into the graph, with the start token.
        self._fed = 0
        self.ended = self.source.max_length < 1

    @cached_property
    def _draws(self) -> NDArray[np.float64]:
        return self.source.draws(self.spec)

    @property
    def next_input(self) -> int:
        """The token that the graph takes next."""
        return self.tokens[self._fed - 1] if self._fed else self.spec.start

    def advance(self, logits: NDArray[np.float32]) -> int | None:
        """Take the logits ``[size]`` that follow `next_input`; return the new token.

        Returns None while the prefix is fed, and for the token of the end.
        """
        self._fed += 1
        if self._fed <= len(self.source.prefix):
            return None
        drawn = len(self.tokens) - len(self.source.prefix)
        token = sample_token(logits, self.source.temperature, float(self._draws[drawn]))
        if token == self.spec.end:
            self.ended = True
            return None
        self.tokens.append(token)
        self.ended = drawn + 1 >= self.source.max_length
        return token


def sample_token(logits: NDArray[np.float32], temperature: float, draw: float) -> int:
    """Return the first token whose cumulative probability exceeds `draw`.

    The probabilities are ``softmax(logits / temperature)`` in float64; temperature 0 returns the
    most probable token.
    """
    if temperature == 0:
        return int(np.argmax(logits))
    with np.errstate(over="ignore"):
        # At a temperature near 0, the quotients are -∞, which have the weight 0.
        scaled = (logits.astype(np.float64) - float(logits.max())) / temperature
    weights = np.exp(scaled)
    cumulative = np.cumsum(weights / weights.sum())
    # Rounding may leave the last sum below 1.
    return min(int(np.searchsorted(cumulative, draw, side="right")), len(logits) - 1)
