"""Folding of spectral and batch normalization."""

import copy

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from training.export.folding import fold_batch_norm, settle_spectral_norms
from training.networks.layers.shapes import ImageShape
from training.networks.noise.dcgan import DCGANGenerator


def spectral_norm_of(layer) -> float:
    return float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2))


def test_settles_spectral_norms_of_averaged_weights():
    # Average the entire state, including the estimates of the norm, as games do.
    torch.manual_seed(0)
    layer = spectral_norm(nn.Conv2d(6, 8, 3))
    average = copy.deepcopy(layer)
    for _ in range(200):
        with torch.no_grad():
            layer.parametrizations.weight.original += 0.05 * torch.randn(8, 6, 3, 3)
        layer(torch.zeros(1, 6, 3, 3))
        for name, averaged in average.state_dict().items():
            averaged.lerp_(layer.state_dict()[name], 0.02)
    average.eval()
    assert abs(spectral_norm_of(average) - 1) > 0.05
    before = average.parametrizations.weight.original.clone()
    settle_spectral_norms(average)
    assert abs(spectral_norm_of(average) - 1) < 1e-3
    assert torch.equal(average.parametrizations.weight.original, before)
    assert not average.training
    assert not average.parametrizations.weight[0].training


def test_leaves_networks_without_spectral_norm_unchanged():
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    before = copy.deepcopy(network.state_dict())
    settle_spectral_norms(network)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_folds_batch_norm_without_changing_outputs():
    torch.manual_seed(0)
    generator = DCGANGenerator(16, ImageShape(1, 28, 28), 8)
    for module in generator.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.normal_()
    generator.eval()
    folded = fold_batch_norm(generator)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert any(isinstance(m, nn.BatchNorm2d) for m in generator.modules())
    z = torch.randn(9, 16)
    torch.testing.assert_close(folded(z), generator(z), rtol=1e-4, atol=1e-5)
