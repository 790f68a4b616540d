"""Perceptual loss on the early features of a pretrained EfficientNet-Lite0.

Implements Johnson et al. 2016, arXiv:1603.08155, with EfficientNet-Lite0 in place of VGG.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.networks.pretrained.efficientnet import TITLES, EfficientNetLite, Version

_VERSION: Version = "lite0"
# How manifests name the network.
PERCEPTUAL_NETWORK = TITLES[_VERSION]
# Blocks whose outputs are compared, at 1/2, 1/4, 1/8 and 1/16 of the side.
_COMPARED = (0, 2, 4, 7)


class PerceptualFeatures(nn.Module):
    """Maps images ``[N, 3 or 1, H, W]`` in [-1, 1] to a list of feature maps ``[N, C, h, w]``.

    Features are normalized to unit length over channels at each pixel, so that all depths have
    equal weight.
    """

    def __init__(self) -> None:
        """Load the pretrained weights. Raises FeaturesMissing if they are not installed."""
        super().__init__()
        self.network = EfficientNetLite(_VERSION, _COMPARED)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [F.normalize(features.float(), dim=1) for features in self.network(images)]


def feature_distance(network: PerceptualFeatures, output: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared feature distance of two batches ``[N, C, H, W]``, over all depths.

    Zhang et al. 2018, arXiv:1801.03924, equation 1, with equal channel weights. Differentiable
    with respect to `output` only.
    """
    with torch.no_grad():
        target_features = network(target)
    distances = [
        (ours - theirs).square().sum(1).mean()
        for ours, theirs in zip(network(output), target_features, strict=True)
    ]
    return torch.stack(distances).mean()
