"""The attention of lucidrains' generators, whose cost is linear in a picture's places.

Shen et al. 2018, arXiv:1812.01243: queries and keys each become shares of their own, so that keys
and values meet before any query does.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.importers.filled import Tensors, convolution

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
        centred = x - x.mean(1, keepdim=True)
        variance = centred.square().mean(1, keepdim=True)
        return centred / (variance + _EPS).sqrt() * self.gain + self.bias


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
        height, width = x.shape[2:]
        key, value = self.key_value(x).chunk(2, dim=1)
        shape = (x.shape[0], _HEADS, self.width, height, width)
        query = self.query(x).reshape(shape) * self.width**-0.5
        keys, values = (self._around(each, shape) for each in (key, value))
        # Beyond the edge keys are nought and are looked at all the same.
        looks = torch.stack([(query * each).sum(2) for each in keys], dim=2).softmax(dim=2)
        seen = torch.stack([looks[:, :, i, None] * each for i, each in enumerate(values)]).sum(0)
        return seen.reshape(x.shape[0], -1, height, width)

    def _around(self, x: Tensor, shape: tuple[int, ...]) -> list[Tensor]:
        """Return the nine neighbours of each place, row by row."""
        height, width = shape[3:]
        padded = F.pad(x, (1, 1, 1, 1))
        return [
            padded[:, :, i : i + height, j : j + width].reshape(shape)
            for i in range(3)
            for j in range(3)
        ]
