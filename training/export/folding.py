"""Folds spectral and batch normalization into the weights of the adjacent layers."""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

# Steps of the power method. Few are enough, because it starts from vectors of similar weights.
_POWER_STEPS = 100


def settle_spectral_norms(network: nn.Module) -> None:
    """Update the spectral norms of `network` for its current weights, in place.

    Training estimates the largest singular values step by step. A moving average of these estimates
    is too small for the averaged weights, so the power method is run until it converges.
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

    Spectral normalization is a parametrization during training, and a constant factor in serving.
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

    Folds a batch normalization that follows a convolution, transposed convolution or linear layer
    in a Sequential.
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
