"""Drawing tokens from the logits of a generator."""

from __future__ import annotations

import torch
from torch import Tensor


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """Return a token ``[N] int64`` for each row of logits ``[N, V]``.

    It is the first token whose cumulative probability exceeds ``uniform [N, 1]`` in [0, 1).
    """
    cumulative = logits.softmax(1).cumsum(1)
    # The last sum is 1 up to rounding.
    tokens = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True).squeeze(1)
    return tokens.clamp_(max=logits.shape[1] - 1)
