"""Adversarial losses: pure functions of logits, each a scalar to minimize, averaged over the batch.

In every function `real` and `fake` are the discriminator's logits, ``[N]`` or ``[N, K]`` if it has
several per image, for real images x and for generated images G(z); D = sigmoid(logit) where a paper
speaks of probabilities. Logarithms are written with softplus, because log(sigmoid(x)) =
-softplus(-x) stays finite where log(sigmoid(x)) underflows.

To add a loss, write its functions and register them with `@_register`. Recipes then accept its
name: `LossName` and `SMOOTHABLE` are derived from the registry.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple

from torch import Tensor
from torch.nn.functional import relu, softplus


class AdversarialLoss(NamedTuple):
    """The losses of both players as functions of (`real`, `fake`), and the meaning of a logit."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]
    # Whether the generator's loss depends on the logits of real images.
    generator_sees_real: bool = False
    # Whether sigmoid(logit) is the probability of being real. If not, the raw logit is the score.
    probabilistic: bool = True
    # The discriminator's loss when it separates real from fake perfectly, and when it cannot
    # separate them at all. None if the loss is unbounded below.
    bounds: tuple[float, float] | None = None
    # Whether the generator's gradient vanishes if the discriminator is confident.
    saturates: bool = False

    def score(self, logits: Tensor) -> Tensor:
        """Return the mean score of images: a probability if the loss has one, else a logit."""
        logits = logits.detach()
        return (logits.sigmoid() if self.probabilistic else logits).mean()


# Builds a loss for a `real_target`.
_LossFactory = Callable[[float], AdversarialLoss]

_REGISTRY: dict[str, _LossFactory] = {}
_SMOOTHABLE: set[str] = set()


def _register(name: str, *, smoothable: bool = False) -> Callable[[_LossFactory], _LossFactory]:
    """Register a loss. Set `smoothable` if its discriminator loss has a target for real images."""

    def decorator(factory: _LossFactory) -> _LossFactory:
        _REGISTRY[name] = factory
        if smoothable:
            _SMOOTHABLE.add(name)
        return factory

    return decorator


# The original GAN: the minimax game min_G max_D V(D, G) of Goodfellow et al. 2014,
# arXiv:1406.2661, equation 1, with V(D, G) = E[log D(x)] + E[log(1 - D(G(z)))].


def discriminator_log_loss(real: Tensor, fake: Tensor, real_target: float = 1.0) -> Tensor:
    """-[log D(x) + log(1 - D(G(z)))]: max over D in equation 1 of arXiv:1406.2661.

    A `real_target` below 1 is one-sided label smoothing (arXiv:1606.03498, section 3.4): the
    target for D(x) is `real_target` instead of 1, the target for D(G(z)) stays 0.
    """
    on_real = real_target * softplus(-real) + (1 - real_target) * softplus(real)
    return on_real.mean() + softplus(fake).mean()


def minimax_generator_loss(fake: Tensor) -> Tensor:
    """log(1 - D(G(z))): min over G in equation 1. Saturates when D rejects G(z) confidently."""
    return -softplus(fake).mean()


def non_saturating_generator_loss(fake: Tensor) -> Tensor:
    """-log D(G(z)): same fixed point, stronger early gradients (arXiv:1406.2661, section 3)."""
    return softplus(-fake).mean()


def _log_loss_bounds(real_target: float) -> tuple[float, float]:
    # The minimum is at D(x) = real_target; D = real_target / 2 everywhere if D cannot separate.
    return _entropy(real_target), 2 * _entropy(real_target / 2)


def _entropy(probability: float) -> float:
    """Return the entropy of a Bernoulli variable, in nats."""
    return -sum(p * math.log(p) for p in (probability, 1 - probability) if p)


@_register("minimax", smoothable=True)
def _minimax(real_target: float) -> AdversarialLoss:
    return AdversarialLoss(
        discriminator=partial(discriminator_log_loss, real_target=real_target),
        generator=lambda _, fake: minimax_generator_loss(fake),
        bounds=_log_loss_bounds(real_target),
        saturates=True,
    )


@_register("non_saturating", smoothable=True)
def _non_saturating(real_target: float) -> AdversarialLoss:
    return AdversarialLoss(
        discriminator=partial(discriminator_log_loss, real_target=real_target),
        generator=lambda _, fake: non_saturating_generator_loss(fake),
        bounds=_log_loss_bounds(real_target),
    )


# LSGAN: Mao et al. 2016, arXiv:1611.04076.


def least_squares_discriminator_loss(
    real: Tensor, fake: Tensor, real_target: float = 1.0
) -> Tensor:
    """½(D(x) - 1)² + ½D(G(z))²: equation 9 of arXiv:1611.04076 (0-1 coding), D the raw logit."""
    return ((real - real_target).square().mean() + fake.square().mean()) / 2


def least_squares_generator_loss(fake: Tensor) -> Tensor:
    """½(D(G(z)) - 1)²: equation 9 of arXiv:1611.04076, D the raw logit."""
    return (fake - 1).square().mean() / 2


@_register("least_squares", smoothable=True)
def _least_squares(real_target: float) -> AdversarialLoss:
    return AdversarialLoss(
        discriminator=partial(least_squares_discriminator_loss, real_target=real_target),
        generator=lambda _, fake: least_squares_generator_loss(fake),
        probabilistic=False,
        bounds=(0, real_target**2 / 4),
    )


# The hinge loss: Lim and Ye 2017, arXiv:1705.02894; Miyato et al. 2018, arXiv:1802.05957.


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """max(0, 1 - D(x)) + max(0, 1 + D(G(z))): equation 16 of arXiv:1802.05957, D the raw logit."""
    return relu(1 - real).mean() + relu(1 + fake).mean()


def negative_mean(fake: Tensor) -> Tensor:
    """-D(G(z)), D the raw logit: the generator's loss with the hinge and the Wasserstein loss."""
    return -fake.mean()


@_register("hinge")
def _hinge(real_target: float) -> AdversarialLoss:  # noqa: ARG001 - has no target
    return AdversarialLoss(
        discriminator=hinge_discriminator_loss,
        generator=lambda _, fake: negative_mean(fake),
        probabilistic=False,
        bounds=(0, 2),
    )


# WGAN: Arjovsky et al. 2017, arXiv:1701.07875.


def critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """D(G(z)) - D(x): the negative Wasserstein estimate (arXiv:1701.07875, equation 2)."""
    return fake.mean() - real.mean()


@_register("wasserstein")
def _wasserstein(real_target: float) -> AdversarialLoss:  # noqa: ARG001 - has no target
    return AdversarialLoss(
        discriminator=critic_loss,
        generator=lambda _, fake: negative_mean(fake),
        probabilistic=False,
    )


# R3GAN's relativistic pairing loss (RpGAN): Huang et al. 2024, arXiv:2501.05441.


def relativistic_loss(losing: Tensor, winning: Tensor) -> Tensor:
    """softplus(losing - winning), row by row: equation 2 of arXiv:2501.05441 (RpGAN).

    Minimizing it raises the `winning` logits above the `losing` logits. The discriminator passes
    the logits of real images as `winning`; the generator passes the logits of generated images.
    """
    return softplus(losing - winning).mean()


@_register("relativistic")
def _relativistic(real_target: float) -> AdversarialLoss:  # noqa: ARG001 - has no target
    return AdversarialLoss(
        discriminator=lambda real, fake: relativistic_loss(losing=fake, winning=real),
        generator=lambda real, fake: relativistic_loss(losing=real, winning=fake),
        generator_sees_real=True,
        # Only the difference of two logits is the logit of a probability.
        probabilistic=False,
        bounds=(0, math.log(2)),
    )


if TYPE_CHECKING:
    LossName = str
else:
    # The names of losses in recipes.
    LossName = Literal[tuple(_REGISTRY)]

# Losses with a target for real images, which `real_target` can lower (label smoothing).
SMOOTHABLE: frozenset[LossName] = frozenset(_SMOOTHABLE)


def adversarial_loss(name: LossName, real_target: float = 1.0) -> AdversarialLoss:
    """Return the registered loss `name`. `real_target` must be 1 unless it is in `SMOOTHABLE`."""
    return _REGISTRY[name](real_target)


def separation(real: Tensor, fake: Tensor) -> Tensor:
    """Return the area under the ROC curve of real against fake logits, in [0, 1].

    0.5 means that the discriminator cannot tell real from generated images, 1 that it always can.
    The value does not depend on the scale of the logits. It has no gradient.
    """
    difference = real.detach()[:, None] - fake.detach()[None, :]
    return difference.heaviside(difference.new_tensor(0.5)).mean()
