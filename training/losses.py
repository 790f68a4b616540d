"""Adversarial losses: pure functions of logits ``[N]``, to be minimised, averaged over the batch.

`D` is the probability sigmoid(logit). Everything is written on logits with softplus, because
log(sigmoid(x)) = -softplus(-x) stays finite where log(sigmoid(x)) underflows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from torch import Tensor
from torch.nn.functional import softplus


def discriminator_log_loss(real: Tensor, fake: Tensor) -> Tensor:
    """-[log D(x) + log(1 - D(G(z)))]: the maximisation over D in equation 1 of arXiv:1406.2661."""
    return softplus(-real).mean() + softplus(fake).mean()


def minimax_generator_loss(fake: Tensor) -> Tensor:
    """log(1 - D(G(z))): the minimisation over G in equation 1. Saturates when D is sure."""
    return -softplus(fake).mean()


def non_saturating_generator_loss(fake: Tensor) -> Tensor:
    """-log D(G(z)): the same fixed point, strong gradients early on (section 3 of the paper)."""
    return softplus(-fake).mean()


class AdversarialLoss(NamedTuple):
    """What each player minimises."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


LossName = Literal["minimax", "non_saturating"]

LOSSES: dict[LossName, AdversarialLoss] = {
    "minimax": AdversarialLoss(discriminator_log_loss, minimax_generator_loss),
    "non_saturating": AdversarialLoss(discriminator_log_loss, non_saturating_generator_loss),
}
