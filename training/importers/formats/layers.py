"""Layers that are filled with a file's tensors.

What is built on `meta` has shapes and no values until the tensors take their place, so nothing is
drawn at random to be thrown away.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, nn

Tensors = Mapping[str, Tensor]
_Module = TypeVar("_Module", bound=nn.Module)


def linear(tensors: Tensors, path: str) -> nn.Linear:
    """Return a linear layer. Raises KeyError for a tensor that is missing."""
    weight, bias = tensors[f"{path}.weight"], tensors.get(f"{path}.bias")
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    return assign_weights(layer, weight, bias)


def convolution(tensors: Tensors, path: str, groups: int = 1) -> nn.Conv2d:
    """Return a convolution that keeps the size, where its kernel is odd. Raises KeyError."""
    weight, bias = tensors[f"{path}.weight"], tensors.get(f"{path}.bias")
    outputs, inputs, kernel, _ = weight.shape
    layer = nn.Conv2d(
        inputs * groups,
        outputs,
        kernel,
        padding=kernel // 2 if kernel % 2 else 0,
        groups=groups,
        bias=bias is not None,
        device="meta",
    )
    return assign_weights(layer, weight, bias)


def transposed(tensors: Tensors, path: str, stride: int = 1, padding: int = 0) -> nn.Module:
    """Return a transposed convolution. Raises KeyError."""
    weight, bias = tensors[f"{path}.weight"], tensors.get(f"{path}.bias")
    inputs, outputs, kernel, _ = weight.shape
    layer = nn.ConvTranspose2d(
        inputs, outputs, kernel, stride, padding, bias=bias is not None, device="meta"
    )
    return assign_weights(layer, weight, bias)


def assign_weights(layer: _Module, weight: Tensor, bias: Tensor | None) -> _Module:
    """Put a weight and a bias in their place."""
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer
