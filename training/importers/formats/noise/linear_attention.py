"""The attention of lucidrains' generators, whose cost is linear in a picture's places.

Shen et al. 2018, arXiv:1812.01243: queries and keys each become shares of their own, so that keys
and values meet before any query does.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.importers.formats.layers import Tensors, convolution

_HEADS = 8
_EPS = 1e-5


class ChannelNorm(nn.Module):
    """Each place of ``[N, C, H, W]`` normalised over its channels, with gain and bias."""

    gain: Tensor
    bias: Tensor

    def __init__(self, tensors: Tensors, path: str) -> None:
        super().__init__()
        self.register_buffer("gain", tensors[f"{path}.g"])
        self.register_buffer("bias", tensors[f"{path}.b"])

    def forward(self, x: Tensor) -> Tensor:
        centred = x - channel_sum(x) / x.shape[1]
        variance = channel_sum(centred.square()) / x.shape[1]
        return centred / (variance + _EPS).sqrt() * self.gain + self.bias


def channel_sum(x: Tensor) -> Tensor:
    """Return the sum ``[N, 1, H, W]`` over the channels of ``[N, C, H, W]``."""
    # As a convolution, whose rows are the same at any batch in ONNX Runtime; those of a sum over
    # this axis are not.
    return F.conv2d(x, x.new_ones((1, x.shape[1], 1, 1)))


class LinearAttention(nn.Module):
    """``[N, C, H, W]`` to what its places see of each other, ``[N, heads · D, H, W]``."""

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
            # [N, heads, places, D]
            each.reshape(x.shape[0], _HEADS, self.width, height * width).transpose(2, 3)
            for each in (self.query(x), key, value)
        )
        met = key.softmax(dim=2).transpose(2, 3) @ value
        seen = query.softmax(dim=3) * self.width**-0.5 @ met
        joined = seen.transpose(2, 3).reshape(x.shape[0], -1, height, width)
        return F.gelu(joined)


class WindowAttention(nn.Module):
    """Each place looks at the nine around it: ``[N, C, H, W]`` to ``[N, heads · D, H, W]``."""

    def __init__(self, tensors: Tensors, query: str, key_value: str) -> None:
        super().__init__()
        self.query = convolution(tensors, query)
        self.key_value = convolution(tensors, key_value)
        self.width = self.query.out_channels // _HEADS

    def forward(self, x: Tensor) -> Tensor:
        count, (height, width) = x.shape[0], x.shape[2:]
        key, value = self.key_value(x).chunk(2, dim=1)
        query = self.query(x).reshape(count, _HEADS, self.width, 1, height * width)
        # [N, heads, places, 1, D] with [N, heads, places, D, 9]; beyond the edge keys are nought,
        # and are looked at all the same.
        asked = query.permute(0, 1, 4, 3, 2) * self.width**-0.5
        looks = (asked @ self._around(key)).softmax(dim=-1)
        seen: Tensor = looks @ self._around(value).transpose(3, 4)
        return seen.permute(0, 1, 4, 3, 2).reshape(count, -1, height, width)

    def _around(self, x: Tensor) -> Tensor:
        """Return the nine neighbours of each place, row by row, ``[N, heads, places, D, 9]``."""
        height, width = x.shape[2:]
        padded = F.pad(x, (1, 1, 1, 1))
        shape = (x.shape[0], _HEADS, self.width, height * width)
        neighbours = [
            padded[:, :, i : i + height, j : j + width].reshape(shape).transpose(2, 3)
            for i in range(3)
            for j in range(3)
        ]
        return torch.stack(neighbours, dim=-1)
