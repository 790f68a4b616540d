"""The attention layers of lucidrains' generators.

The cost of linear attention (Shen et al. 2018, arXiv:1812.01243) is linear in the number of
positions. Queries and keys are normalized by separate softmaxes, so that the product of keys and
values can be computed first.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.importers.formats.layers import Tensors, convolution

_HEADS = 8
_EPS = 1e-5


class ChannelNorm(nn.Module):
    """Normalizes each position of ``[N, C, H, W]`` over its channels, with gain and bias."""

    gain: Tensor
    bias: Tensor

    def __init__(self, tensors: Tensors, path: str) -> None:
        super().__init__()
        self.register_buffer("gain", tensors[f"{path}.g"])
        self.register_buffer("bias", tensors[f"{path}.b"])

    def forward(self, x: Tensor) -> Tensor:
        centered = x - channel_sum(x) / x.shape[1]
        variance = channel_sum(centered.square()) / x.shape[1]
        return centered / (variance + _EPS).sqrt() * self.gain + self.bias


def channel_sum(x: Tensor) -> Tensor:
    """Return the sum ``[N, 1, H, W]`` over the channels of ``[N, C, H, W]``."""
    # A convolution instead of a sum: ONNX Runtime computes its rows independently of the batch
    # size, bit for bit.
    return F.conv2d(x, x.new_ones((1, x.shape[1], 1, 1)))


class LinearAttention(nn.Module):
    """Linear self-attention over positions: maps ``[N, C, H, W]`` to ``[N, heads · D, H, W]``."""

    def __init__(self, tensors: Tensors, query: str, key_value: str) -> None:
        super().__init__()
        self.query = convolution(tensors, query)
        channels = tensors[f"{key_value}.net.0.weight"].shape[0]
        self.depthwise = convolution(tensors, f"{key_value}.net.0", groups=channels)
        self.key_value = convolution(tensors, f"{key_value}.net.1")
        self.width = self.query.out_channels // _HEADS

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        key, value = self.key_value(self.depthwise(x)).chunk(2, dim=1)
        query, key, value = (
            # [N, heads, positions, D]
            each.reshape(x.shape[0], _HEADS, self.width, height * width).transpose(2, 3)
            for each in (self.query(x), key, value)
        )
        context = key.softmax(dim=2).transpose(2, 3) @ value
        attended = query.softmax(dim=3) * self.width**-0.5 @ context
        return F.gelu(attended.transpose(2, 3).reshape(x.shape[0], -1, height, width))


class WindowAttention(nn.Module):
    """Local self-attention over 3×3 windows: maps ``[N, C, H, W]`` to ``[N, heads · D, H, W]``."""

    def __init__(self, tensors: Tensors, query: str, key_value: str) -> None:
        super().__init__()
        self.query = convolution(tensors, query)
        self.key_value = convolution(tensors, key_value)
        self.width = self.query.out_channels // _HEADS

    def forward(self, x: Tensor) -> Tensor:
        count, (height, width) = x.shape[0], x.shape[2:]
        key, value = self.key_value(x).chunk(2, dim=1)
        query = self.query(x).reshape(count, _HEADS, self.width, 1, height * width)
        # [N, heads, positions, 1, D] times [N, heads, positions, D, 9]. Positions beyond the edge
        # have zero keys and are included in the softmax, as in the original.
        scaled = query.permute(0, 1, 4, 3, 2) * self.width**-0.5
        attention = (scaled @ self._windows(key)).softmax(dim=-1)
        attended: Tensor = attention @ self._windows(value).transpose(3, 4)
        return attended.permute(0, 1, 4, 3, 2).reshape(count, -1, height, width)

    def _windows(self, x: Tensor) -> Tensor:
        """Return the 3×3 window of each position, ``[N, heads, positions, D, 9]``."""
        height, width = x.shape[2:]
        padded = F.pad(x, (1, 1, 1, 1))
        shape = (x.shape[0], _HEADS, self.width, height * width)
        shifted = [
            padded[:, :, i : i + height, j : j + width].reshape(shape).transpose(2, 3)
            for i in range(3)
            for j in range(3)
        ]
        return torch.stack(shifted, dim=-1)
