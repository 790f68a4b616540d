"""Gradient and weight penalties: pure functions that return a scalar.

The gradient penalties take a `Critic`, a function from images ``[N, C, H, W]`` to logits ``[N]``.
They are averaged over the batch and differentiable with respect to the critic's weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

_LAYERS = (nn.Conv1d, nn.ConvTranspose1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)

Critic = Callable[[Tensor], Tensor]


def gradient_penalty(critic: Critic, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """(‖∇D(x̂)‖₂ - 1)²: the gradient penalty of WGAN-GP (arXiv:1704.00028, equation 3).

    x̂ = mix · real + (1 - mix) · fake, for `real` and `fake` ``[N, …]`` and `mix` ``[N]`` in
    [0, 1].
    """
    mix = mix.reshape(-1, *[1] * (real.ndim - 1))
    interpolated = (mix * real + (1 - mix) * fake).detach()
    gradients = _input_gradients(critic, interpolated).flatten(1)
    norms: Tensor = torch.linalg.vector_norm(gradients, dim=1)
    return (norms - 1).square().mean()


def zero_centered_penalty(critic: Critic, images: Tensor) -> Tensor:
    """½‖∇D(x)‖²: R1 on real images, R2 on generated ones (arXiv:1801.04406, equation 9)."""
    return _input_gradients(critic, images).square().flatten(1).sum(1).mean() / 2


def matching_aware_penalty(
    critic: Callable[[Tensor, Tensor], Tensor], images: Tensor, text: Tensor, power: float
) -> Tensor:
    """(‖∇ₓD(x, e)‖ + ‖∇ₑD(x, e)‖)ᵖ: DF-GAN's MA-GP (arXiv:2008.05865, equation 1).

    At real images x ``[N, C, H, W]`` and the embeddings e ``[N, d]`` of their captions.
    """
    images, text = images.detach().requires_grad_(True), text.detach().requires_grad_(True)
    gradients = torch.autograd.grad(critic(images, text).sum(), (images, text), create_graph=True)
    # The square root has no finite derivative at 0.
    norms = [(each.square().flatten(1).sum(1) + 1e-12).sqrt() for each in gradients]
    return torch.stack(norms).sum(0).pow(power).mean()


def path_lengths(images: Tensor, w: Tensor, noise: Tensor) -> Tensor:
    """‖J_wᵀ y‖₂ ``[N]``: StyleGAN2's path lengths (arXiv:1912.04958, equation 4).

    `images` ``[N, C, H, W]`` must have been computed from `w` ``[N, layers, w_dim]``; `noise` is
    y ~ N(0, 1) in the shape of `images`. The squared norm is averaged over layers before the
    square root. The result is differentiable.
    """
    projected = (images * noise / math.sqrt(images.shape[2] * images.shape[3])).sum()
    (gradients,) = torch.autograd.grad(projected, w, create_graph=True)
    lengths: Tensor = gradients.square().sum(2).mean(1).sqrt()
    return lengths


def orthogonal_penalty(weights: Iterable[Tensor]) -> Tensor:
    """‖WWᵀ ⊙ (1 - I)‖²_F, summed over `weights`: BigGAN's equation 3 (arXiv:1809.11096).

    Minimizing it makes the rows of each W ``[out, in, …]`` orthogonal; it ignores their norms.
    """
    penalties = []
    for weight in weights:
        rows = weight.flatten(1).float()
        products = rows @ rows.t()
        penalties.append((products - products.diagonal().diag()).square().sum())
    return torch.stack(penalties).sum()


def layer_weights(network: nn.Module) -> list[nn.Parameter]:
    """Return the weights of convolutions and linear layers, before any parametrization.

    Embeddings are excluded: their rows are classes, which may be similar.
    """
    weights = []
    for module in network.modules():
        if isinstance(module, _LAYERS):
            weight = module.weight
            if parametrize.is_parametrized(module, "weight"):
                weight = module.parametrizations["weight"].original  # type: ignore[union-attr,index]
            weights.append(cast("nn.Parameter", weight))
    return weights


@torch.no_grad()
def clip_weights(weights: Iterable[Tensor], bound: float) -> None:
    """Clip every weight to [-bound, bound] in place (arXiv:1701.07875, algorithm 1, line 7)."""
    for weight in weights:
        weight.clamp_(-bound, bound)


def _input_gradients(critic: Critic, images: Tensor) -> Tensor:
    images = images.detach().requires_grad_(True)
    # Each logit depends only on its own image, so the gradient of the sum contains the gradient of
    # each logit.
    (gradients,) = torch.autograd.grad(critic(images).sum(), images, create_graph=True)
    return gradients
