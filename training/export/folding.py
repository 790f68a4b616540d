"""Folding: what only computes a weight, or only scales one, becomes part of that weight."""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

# Steps of the power method, from vectors that belong to weights nearby.
_POWER_STEPS = 100


def settle_spectral_norms(network: nn.Module) -> None:
    """Make the spectral normalisations of `network` fit its weights.

    Their largest singular values are estimated step by step, along with training. Averaged weights
    have only averages of those estimates, which are no estimates of theirs: too small, so that what
    is divided by them is too large.
    """
    for module in network.modules():
        if parametrize.is_parametrized(module):
            training = module.training
            # In training each look at a weight is one step of the power method (Miyato et al. 2018,
            # arXiv:1802.05957, algorithm 1).
            module.train()
            with torch.no_grad():
                for name in module.parametrizations:  # type: ignore[union-attr]
                    for _ in range(_POWER_STEPS):
                        getattr(module, name)
            module.train(training)


def without_parametrizations(network: nn.Module) -> nn.Module:
    """Return the network, in evaluation, with what computes a weight replaced by that weight.

    Spectral normalisation is such a computation; serving has no use for it.
    """
    network = copy.deepcopy(network).eval()
    for module in list(network.modules()):
        if not parametrize.is_parametrized(module):
            continue
        names = list(module.parametrizations)  # type: ignore[arg-type]
        weights = {name: getattr(module, name).detach().clone() for name in names}
        # Not remove_parametrizations: a copy shares the class that this would take the weights of
        # the original away from.
        del module.parametrizations
        module.__class__ = type(module).__bases__[0]
        for name, weight in weights.items():
            module.register_parameter(name, nn.Parameter(weight))
    return network


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """Return the network, in evaluation, with each batch normalisation in the layer before it.

    Folds what stands in a Sequential directly behind a convolution, a transposed one or a linear
    layer.
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
