"""Penalties on gradients and on weights: pure functions that return a scalar.

Those on the discriminator's gradients take a function from pictures ``[N, C, H, W]`` to logits
``[N]``, are averaged over the batch, and their own gradient reaches the discriminator's weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

Critic = Callable[[Tensor], Tensor]


def gradient_penalty(critic: Critic, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """(‖∇D(x̂)‖₂ - 1)² at points between real and generated pictures: arXiv:1704.00028, equation 3.

    `mix` ``[N]`` in [0, 1] says where between them: 1 is real.
    """
    mix = mix.reshape(-1, 1, 1, 1)
    between = (mix * real + (1 - mix) * fake).detach()
    norms: Tensor = torch.linalg.vector_norm(_input_gradients(critic, between).flatten(1), dim=1)
    return (norms - 1).square().mean()


def zero_centered_penalty(critic: Critic, images: Tensor) -> Tensor:
    """½‖∇D(x)‖²: R1 at real pictures, R2 at generated ones. Equation 9 of arXiv:1801.04406."""
    return _input_gradients(critic, images).square().flatten(1).sum(1).mean() / 2


def path_lengths(images: Tensor, w: Tensor, noise: Tensor) -> Tensor:
    """How far a picture moves for a small step in w: ‖J_wᵀ y‖₂ ``[N]``, arXiv:1912.04958, eq. 4.

    `images` ``[N, C, H, W]`` were made of `w` ``[N, layers, w_dim]``; `noise` is N(0, 1) in the
    pictures' shape. The mean over layers is taken under the root. Has a gradient of its own.
    """
    moved = (images * noise / math.sqrt(images.shape[2] * images.shape[3])).sum()
    (gradients,) = torch.autograd.grad(moved, w, create_graph=True)
    lengths: Tensor = gradients.square().sum(2).mean(1).sqrt()
    return lengths


def orthogonal_penalty(weights: Iterable[Tensor]) -> Tensor:
    """‖WWᵀ ⊙ (1 - I)‖²_F summed over `weights`, whose rows are outputs: equation 3 of 1809.11096.

    Rows are kept at right angles to each other, and their lengths left alone.
    """
    penalties = []
    for weight in weights:
        rows = weight.flatten(1).float()
        products = rows @ rows.t()
        penalties.append((products - products.diagonal().diag()).square().sum())
    return torch.stack(penalties).sum()


def layer_weights(network: nn.Module) -> list[nn.Parameter]:
    """Return the weights of convolutions and linear layers, as the optimiser sees them.

    Not those of embeddings, whose rows are classes and may be alike.
    """
    weights = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            weight = module.weight
            if parametrize.is_parametrized(module, "weight"):
                weight = module.parametrizations["weight"].original  # type: ignore[union-attr,index]
            weights.append(cast("nn.Parameter", weight))
    return weights


@torch.no_grad()
def clip_weights(weights: Iterable[Tensor], bound: float) -> None:
    """Clip every weight to [-bound, bound], in place: line 7 of algorithm 1 in arXiv:1701.07875."""
    for weight in weights:
        weight.clamp_(-bound, bound)


def _input_gradients(critic: Critic, images: Tensor) -> Tensor:
    images = images.detach().requires_grad_(True)
    # A logit depends on its own picture alone, so the gradient of the sum holds that of each.
    (gradients,) = torch.autograd.grad(critic(images).sum(), images, create_graph=True)
    return gradients
