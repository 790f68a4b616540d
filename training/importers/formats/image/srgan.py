"""SRGAN's generator in its most common PyTorch layout, with layers ``block1`` to ``blockN``.

Ledig et al. 2016, arXiv:1609.04802, figure 4: a 9×9 convolution, residual blocks with a skip
connection around them, sub-pixel convolutions, and a 9×9 convolution; (tanh + 1) / 2 at the output.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from service.runtime.models.parts.inputs import ImageInput
from training.importers.errors import FormatMismatchError
from training.importers.formats.base import (
    ConvertedModel,
    Format,
    converted_image_to_image,
    input_channels,
    input_side,
    load_weights,
)
from training.importers.options import Choices
from training.importers.reading.weights import Network


class _ResidualBlock(nn.Module):
    """Two 3×3 convolutions with batch normalization and a skip connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.prelu = nn.PReLU()
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.bn2(self.conv2(self.prelu(self.bn1(self.conv1(x)))))
        return x + residual


class _SubPixelUpsample(nn.Module):
    """A sub-pixel convolution that doubles height and width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, 4 * width, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)
        self.prelu = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        upsampled: Tensor = self.prelu(self.shuffle(self.conv(x)))
        return upsampled


class SrganGenerator(nn.Module):
    """Maps images ``[N, C, h, w]`` in [0, 1] to ``[N, C, factor·h, factor·w]`` in [0, 1]."""

    def __init__(
        self, channels: int, width: int, blocks: int, doublings: int, *, normalized: bool
    ) -> None:
        super().__init__()
        self.blocks = blocks
        self.block1 = nn.Sequential(nn.Conv2d(channels, width, 9, padding=4), nn.PReLU())
        for i in range(blocks):
            setattr(self, f"block{i + 2}", _ResidualBlock(width))
        # Batch normalization as in the paper; the layout's first version has an activation instead.
        norm = nn.BatchNorm2d(width) if normalized else nn.PReLU()
        trunk_end = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), norm)
        setattr(self, f"block{blocks + 2}", trunk_end)
        tail = [_SubPixelUpsample(width) for _ in range(doublings)]
        last = nn.Conv2d(width, channels, 9, padding=4)
        setattr(self, f"block{blocks + 3}", nn.Sequential(*tail, last))

    def forward(self, images: Tensor) -> Tensor:
        first = self.block1(images)
        x = first
        for i in range(self.blocks + 1):
            x = getattr(self, f"block{i + 2}")(x)
        outputs: Tensor = getattr(self, f"block{self.blocks + 3}")(first + x)
        return (torch.tanh(outputs) + 1) / 2


class Srgan(Format):
    """The checkpoint layout of leftthomas/SRGAN."""

    name = "srgan"
    title = "SRGAN"
    origin = "leftthomas/SRGAN (MIT), Ledig et al. 2016"
    required_keys = (
        r"block1\.0\.weight",
        r"block1\.1\.weight",
        r"block2\.conv1\.weight",
        r"block2\.bn2\.running_mean",
        r"block\d+\.0\.conv\.weight",
    )
    published = "zero padding, (tanh + 1) / 2 at the end"

    def convert(self, network: Network, options: Choices) -> ConvertedModel:
        """Build the network. The tensor names determine the numbers of blocks and doublings."""
        tensors = network.tensors
        width, channels = tensors["block1.0.weight"].shape[:2]
        blocks = sum(bool(re.fullmatch(r"block\d+\.conv1\.weight", name)) for name in tensors)
        doublings = sum(
            bool(re.fullmatch(r"block\d+\.\d+\.conv\.weight", name)) for name in tensors
        )
        if not doublings:
            raise FormatMismatchError("it has no upsampling layers")
        normalized = f"block{blocks + 2}.1.running_mean" in tensors
        generator = SrganGenerator(channels, width, blocks, doublings, normalized=normalized)
        image_input = ImageInput(
            channels=input_channels(channels),
            side=input_side(options, 32),
            factor=2**doublings,
            reach=4 + 2 * blocks + 1 + doublings + 4,
        )
        return converted_image_to_image(
            f"SRGAN: ×{2**doublings} upscaling",
            "upscale",
            load_weights(generator, network),
            image_input,
            channels,
            (0.0, 1.0),
            (0.0, 1.0),
            options=options,
            details=[("factor", str(2**doublings)), ("blocks", str(blocks))],
        )
