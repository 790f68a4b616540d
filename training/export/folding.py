"""Folds spectral and batch normalization into the weights of the adjacent layers."""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

# Steps of the power method. Few steps are enough, because the initial vectors are already close.
_POWER_STEPS = 100


def settle_spectral_norms(network: nn.Module) -> None:
    """Update the spectral norms of `network` for its current weights, in place.

    Training updates the estimates of the largest singular values by one step per batch. Their
    moving average is too small for the averaged weights, so more steps of the power method are run
    here.
    """
    for module in network.modules():
        if parametrize.is_parametrized(module):
            training = module.training
            # In training mode, each access to a weight is one step of the power method (Miyato et
            # al. 2018, arXiv:1802.05957, algorithm 1).
            module.train()
            with torch.no_grad():
                for name in module.parametrizations:  # type: ignore[union-attr]
                    for _ in range(_POWER_STEPS):
                        getattr(module, name)
            module.train(training)


def without_parametrizations(network: nn.Module) -> nn.Module:
    """Return a copy of the network in eval mode, with parametrized weights as plain parameters.

    For example, spectral normalization is a parametrization during training. In the copy, the
    weights have been divided by their norms.
    """
    network = copy.deepcopy(network).eval()
    for module in list(network.modules()):
        if not parametrize.is_parametrized(module):
            continue
        names = list(module.parametrizations)  # type: ignore[arg-type]
        weights = {name: getattr(module, name).detach().clone() for name in names}
        # remove_parametrizations would change the class, which the copy shares with the original.
        del module.parametrizations
        module.__class__ = type(module).__bases__[0]
        for name, weight in weights.items():
            module.register_parameter(name, nn.Parameter(weight))
    return network


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """Return a copy of the network in eval mode, with batch normalization folded.

    A batch normalization is folded if it directly follows a convolution, transposed convolution or
    linear layer in a Sequential. Others remain.
    """
    network = copy.deepcopy(network).eval()
    for sequence in [m for m in network.modules() if isinstance(m, nn.Sequential)]:
        for (name, layer), (norm_name, norm) in pairwise(list(sequence.named_children())):
            if isinstance(norm, nn.BatchNorm2d) and isinstance(layer, nn.Conv2d):
                folded: nn.Module = fuse_conv_bn_eval(layer, norm)
            elif isinstance(norm, nn.BatchNorm2d) and isinstance(layer, nn.ConvTranspose2d):
                folded = fuse_conv_bn_eval(layer, norm, transpose=True)
            elif isinstance(norm, nn.BatchNorm1d) and isinstance(layer, nn.Linear):
                folded = fuse_linear_bn_eval(layer, norm)
            else:
                continue
            setattr(sequence, name, folded)
            setattr(sequence, norm_name, nn.Identity())
    return network
