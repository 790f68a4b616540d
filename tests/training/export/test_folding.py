import copy

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from training.export.folding import settle_spectral_norms


def norm(layer) -> float:
    return float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2))


def test_averaged_weights_are_divided_by_their_own_largest_singular_value():
    """As a game averages them: everything in the state, the estimates of the norm too."""
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
    assert abs(norm(average) - 1) > 0.05
    before = average.parametrizations.weight.original.clone()
    settle_spectral_norms(average)
    assert abs(norm(average) - 1) < 1e-3
    assert torch.equal(average.parametrizations.weight.original, before)
    assert not average.training
    assert not average.parametrizations.weight[0].training


def test_a_network_without_spectral_normalisation_stays_as_it_is():
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    before = copy.deepcopy(network.state_dict())
    settle_spectral_norms(network)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
