"""ESRGAN and Real-ESRGAN: residual-in-residual dense blocks, with three naming schemes.

Wang et al. 2018, arXiv:1809.00219, section 3.1. For factors 2 and 1 the input is pixel-unshuffled
first (Wang et al. 2021, arXiv:2107.10833, section 3.4).
"""

from __future__ import annotations

import re
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from service.runtime.models.parts.inputs import ImageInput
from training.importers.errors import FormatMismatchError
from training.importers.formats.base import (
    ConvertedModel,
    Format,
    FormatMatch,
    converted_image_to_image,
    input_channels,
    input_side,
    load_weights,
)
from training.importers.options import Choices
from training.importers.reading.weights import Network

_SLOPE = 0.2
_RESIDUAL_SCALE = 0.2
# Maps the tensor names of 2018 (a sequence) and of BasicSR before 2020 to the current names.
_OLD_NAMES = (
    (r"model\.0\.", "conv_first."),
    (r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.", r"body.\1.rdb\2.conv\3."),
    (r"model\.1\.sub\.\d+\.(weight|bias)", r"conv_body.\1"),
    (r"RRDB_trunk\.(\d+)\.RDB(\d)\.conv(\d)\.", r"body.\1.rdb\2.conv\3."),
    (r"trunk_conv\.", "conv_body."),
    (r"upconv(\d)\.", r"conv_up\1."),
    (r"HRconv\.", "conv_hr."),
)


class _DenseBlock(nn.Module):
    """Five densely connected 3×3 convolutions with a skip connection."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        for i in range(1, 5):
            conv = nn.Conv2d(width + (i - 1) * growth, growth, 3, padding=1)
            setattr(self, f"conv{i}", conv)
        self.conv5 = nn.Conv2d(width + 4 * growth, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        features = x
        for i in range(1, 5):
            output = F.leaky_relu(getattr(self, f"conv{i}")(features), _SLOPE)
            features = torch.cat([features, output], 1)
        residual: Tensor = self.conv5(features)
        return x + _RESIDUAL_SCALE * residual


class _ResidualInResidual(nn.Module):
    """Three dense blocks with a skip connection around them."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = _DenseBlock(width, growth)
        self.rdb2 = _DenseBlock(width, growth)
        self.rdb3 = _DenseBlock(width, growth)

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.rdb3(self.rdb2(self.rdb1(x)))
        return x + _RESIDUAL_SCALE * residual


class RealESRGANGenerator(nn.Module):
    """Maps images ``[N, C, h, w]`` in [0, 1] to ``[N, C, factor·h, factor·w]``.

    The factor is ``2**doublings / fold``. `in_channels` counts the channels after unshuffling by
    `fold`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int,
        growth: int,
        blocks: int,
        doublings: int,
        fold: int,
    ) -> None:
        super().__init__()
        self.fold, self.doublings = fold, doublings
        self.conv_first = nn.Conv2d(in_channels, width, 3, padding=1)
        self.body = nn.Sequential(*(_ResidualInResidual(width, growth) for _ in range(blocks)))
        self.conv_body = nn.Conv2d(width, width, 3, padding=1)
        for i in range(1, doublings + 1):
            setattr(self, f"conv_up{i}", nn.Conv2d(width, width, 3, padding=1))
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, out_channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        folded = F.pixel_unshuffle(images, self.fold) if self.fold > 1 else images
        x = self.conv_first(folded)
        x = x + self.conv_body(self.body(x))
        for i in range(1, self.doublings + 1):
            x = F.interpolate(x, scale_factor=2.0)
            x = F.leaky_relu(getattr(self, f"conv_up{i}")(x), _SLOPE)
        outputs: Tensor = self.conv_last(F.leaky_relu(self.conv_hr(x), _SLOPE))
        return outputs


def with_current_names(network: Network) -> Network:
    """Rename the tensors of older checkpoints to the current names."""
    names = list(network.tensors)
    if not any(".rdb" in name.lower() for name in names):
        return network
    # In the names of 2018, the last layers are a sequence: upsampling, conv_hr and conv_last.
    tail = sorted(
        {int(m.group(1)) for n in names if (m := re.fullmatch(r"model\.(\d+)\.weight", n))} - {0}
    )
    tail_names = {
        index: f"conv_up{i + 1}" if i < len(tail) - 2 else ("conv_hr", "conv_last")[i - len(tail)]
        for i, index in enumerate(tail)
    }

    def rename(name: str) -> str:
        match = re.fullmatch(r"model\.(\d+)\.(weight|bias)", name)
        if match and int(match.group(1)) in tail_names:
            return f"{tail_names[int(match.group(1))]}.{match.group(2)}"
        for old, current in _OLD_NAMES:
            name, replaced = re.subn(f"^{old}", current, name)
            if replaced:
                break
        return name

    tensors = network.tensors.select({rename(name): name for name in network.tensors})
    return replace(network, tensors=tensors)


class Rrdb(Format):
    """The generator of ESRGAN and Real-ESRGAN: factors 4, 2 and 1; in old files, any 2ⁿ."""

    name = "rrdb"
    title = "ESRGAN, Real-ESRGAN (RRDB)"
    origin = "ESRGAN, BasicSR (Apache-2.0), Real-ESRGAN (BSD-3), Wang et al. 2018, 2021"
    required_keys = (
        r"conv_first\.weight",
        r"body\.0\.rdb1\.conv1\.weight",
        r"body\.0\.rdb3\.conv5\.weight",
        r"conv_body\.weight",
        r"conv_hr\.weight",
        r"conv_last\.weight",
    )
    published = "LeakyReLU(0.2), residuals scaled by 0.2, zero padding, nearest-neighbor upsampling"

    def match(self, network: Network) -> FormatMatch:
        """Compare the tensor names after renaming them to the current names."""
        return super().match(with_current_names(network))

    def convert(self, network: Network, options: Choices) -> ConvertedModel:
        """Build the network. The shapes determine width, growth, blocks and factor."""
        network = with_current_names(network)
        tensors = network.tensors
        width, in_channels = tensors["conv_first.weight"].shape[:2]
        out_channels = tensors["conv_last.weight"].shape[0]
        growth = tensors["body.0.rdb1.conv1.weight"].shape[0]
        blocks = 1 + max(int(n.split(".")[1]) for n in tensors if n.startswith("body."))
        doublings = sum(bool(re.fullmatch(r"conv_up\d\.weight", name)) for name in tensors)
        fold = {out_channels: 1, 4 * out_channels: 2, 16 * out_channels: 4}.get(in_channels)
        if fold is None or 2**doublings % fold:
            raise FormatMismatchError(
                f"conv_first has {in_channels} input channels, which do not match conv_last's "
                f"{out_channels} output channels"
            )
        factor = 2**doublings // fold
        generator = RealESRGANGenerator(
            in_channels, out_channels, width, growth, blocks, doublings, fold
        )
        image_input = ImageInput(
            channels=input_channels(out_channels),
            side=input_side(options, 64, fold),
            multiple=fold,
            factor=factor,
            reach=fold * (15 * blocks + 8),
        )
        return converted_image_to_image(
            f"ESRGAN: ×{factor} upscaling" if factor > 1 else "ESRGAN",
            "upscale" if factor > 1 else "translate",
            load_weights(generator, network),
            image_input,
            out_channels,
            (0.0, 1.0),
            (0.0, 1.0),
            options=options,
            details=[("factor", str(factor)), ("blocks", str(blocks)), ("width", str(width))],
        )
