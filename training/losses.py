"""Adversarial losses: pure functions of logits ``[N]``, to be minimised, averaged over the batch.

`real` and `fake` are what the discriminator says of real and of generated pictures. Losses that
take logarithms are written on logits with softplus, because log(sigmoid(x)) = -softplus(-x) stays
finite where log(sigmoid(x)) underflows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

from torch import Tensor
from torch.nn.functional import relu, softplus


def discriminator_log_loss(real: Tensor, fake: Tensor, real_target: float = 1.0) -> Tensor:
    """-[log D(x) + log(1 - D(G(z)))]: the maximisation over D in equation 1 of arXiv:1406.2661.

    A `real_target` below 1 is one-sided label smoothing (section 3.4 of arXiv:1606.03498): the
    real pictures' probability is drawn to it, the generated ones' still to 0.
    """
    on_real = real_target * softplus(-real) + (1 - real_target) * softplus(real)
    return on_real.mean() + softplus(fake).mean()


def minimax_generator_loss(fake: Tensor) -> Tensor:
    """log(1 - D(G(z))): the minimisation over G in equation 1. Saturates when D is sure."""
    return -softplus(fake).mean()


def non_saturating_generator_loss(fake: Tensor) -> Tensor:
    """-log D(G(z)): the same fixed point, strong gradients early on (section 3 of the paper)."""
    return softplus(-fake).mean()


def least_squares_discriminator_loss(
    real: Tensor, fake: Tensor, real_target: float = 1.0
) -> Tensor:
    """½(D(x) - 1)² + ½D(G(z))²: equation 9 of arXiv:1611.04076, with its 0-1 coding."""
    return ((real - real_target).square().mean() + fake.square().mean()) / 2


def least_squares_generator_loss(fake: Tensor) -> Tensor:
    """½(D(G(z)) - 1)²: equation 9 of arXiv:1611.04076."""
    return (fake - 1).square().mean() / 2


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """max(0, 1 - D(x)) + max(0, 1 + D(G(z))): equation 16 of arXiv:1802.05957."""
    return relu(1 - real).mean() + relu(1 + fake).mean()


def critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """D(G(z)) - D(x): minus the estimated Wasserstein distance, arXiv:1701.07875."""
    return fake.mean() - real.mean()


def negative_mean(fake: Tensor) -> Tensor:
    """-D(G(z)): what the generator minimises against a hinge or a Wasserstein critic."""
    return -fake.mean()


def relativistic_loss(losing: Tensor, winning: Tensor) -> Tensor:
    """softplus(losing - winning), picture by picture: equation 2 of arXiv:2501.05441 (RpGAN).

    For the discriminator the real pictures should win, for the generator its own.
    """
    return softplus(losing - winning).mean()


def separation(real: Tensor, fake: Tensor) -> Tensor:
    """How often a real picture scores above a generated one, ties counting half: in [0, 1].

    0.5 is a discriminator that cannot tell, 1 one that always can, whatever the loss makes of its
    logits (the area under the ROC curve). Not to be minimised: it has no gradient.
    """
    ahead = real.detach()[:, None] - fake.detach()[None, :]
    return ahead.heaviside(ahead.new_tensor(0.5)).mean()


class AdversarialLoss(NamedTuple):
    """What each player minimises, given `real` and `fake`, and how a logit reads as a score."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]
    # Whether the generator's loss looks at the real pictures at all.
    generator_sees_real: bool = False
    # Whether sigmoid of a logit is the probability of being real; else the logit itself is shown.
    probabilistic: bool = True
    # The discriminator's loss when it always can tell real from generated, and when it never can.
    # A Wasserstein critic's has no bottom, and so no such bounds.
    bounds: tuple[float, float] | None = None


LossName = Literal[
    "minimax", "non_saturating", "least_squares", "hinge", "wasserstein", "relativistic"
]
# The losses whose discriminator has a target for real pictures, which smoothing can lower.
SMOOTHABLE: frozenset[LossName] = frozenset({"minimax", "non_saturating", "least_squares"})


def adversarial_loss(name: LossName, real_target: float = 1.0) -> AdversarialLoss:
    """Return the loss of that name; `real_target` is for those in SMOOTHABLE."""
    log_loss = partial(discriminator_log_loss, real_target=real_target)
    # It is the least where D(x) is the target; and where D cannot tell, at half of the target.
    log_bounds = (_entropy(real_target), 2 * _entropy(real_target / 2))
    match name:
        case "minimax":
            return AdversarialLoss(log_loss, _of_fake(minimax_generator_loss), bounds=log_bounds)
        case "non_saturating":
            return AdversarialLoss(
                log_loss, _of_fake(non_saturating_generator_loss), bounds=log_bounds
            )
        case "least_squares":
            return AdversarialLoss(
                partial(least_squares_discriminator_loss, real_target=real_target),
                _of_fake(least_squares_generator_loss),
                probabilistic=False,
                bounds=(0, real_target**2 / 4),
            )
        case "hinge":
            return AdversarialLoss(
                hinge_discriminator_loss,
                _of_fake(negative_mean),
                probabilistic=False,
                bounds=(0, 2),
            )
        case "wasserstein":
            return AdversarialLoss(critic_loss, _of_fake(negative_mean), probabilistic=False)
        case "relativistic":
            return AdversarialLoss(
                lambda real, fake: relativistic_loss(losing=fake, winning=real),
                lambda real, fake: relativistic_loss(losing=real, winning=fake),
                generator_sees_real=True,
                # It judges pairs: only a difference of two logits is one.
                probabilistic=False,
                bounds=(0, math.log(2)),
            )


def _entropy(probability: float) -> float:
    """Of a coin, in nats."""
    return -sum(p * math.log(p) for p in (probability, 1 - probability) if p)


def _of_fake(loss: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda _, fake: loss(fake)
