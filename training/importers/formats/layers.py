"""Builds layers from the tensors of a checkpoint.

Layers are created on the `meta` device, where no memory is allocated or initialized. The tensors
then become their parameters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from training.importers.errors import FormatMismatchError
from training.importers.reading.weights import Layer

Tensors = Mapping[str, Tensor]
_Module = TypeVar("_Module", bound=nn.Module)


class FrozenBatchNorm(nn.Module):
    """Batch normalization of ``[N, C, H, W]`` with fixed statistics: ``x * scale + shift``."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale.detach()[:, None, None])
        self.register_buffer("shift", shift.detach()[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


def frozen_batch_norm(norm: nn.Module) -> nn.Module:
    """Return a batch normalization of images with fixed statistics. Other layers are unchanged."""
    if (
        not isinstance(norm, nn.BatchNorm2d)
        or norm.running_mean is None
        or norm.running_var is None
    ):
        return norm
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.affine:
        scale = norm.weight.detach() / torch.sqrt(norm.running_var + norm.eps)
    shift = -norm.running_mean * scale
    return FrozenBatchNorm(scale, norm.bias + shift if norm.affine else shift)


def linear(tensors: Tensors, path: str) -> nn.Linear:
    """Return a linear layer. Raises KeyError for a missing tensor."""
    weight, bias = tensors[f"{path}.weight"], tensors.get(f"{path}.bias")
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    return assign_weights(layer, weight, bias)


def convolution(tensors: Tensors, path: str, groups: int = 1) -> nn.Conv2d:
    """Return a convolution with "same" padding for odd kernels.

    Raises KeyError for a missing tensor.
    """
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
    """Return a transposed convolution. Raises KeyError for a missing tensor."""
    weight, bias = tensors[f"{path}.weight"], tensors.get(f"{path}.bias")
    inputs, outputs, kernel, _ = weight.shape
    layer = nn.ConvTranspose2d(
        inputs, outputs, kernel, stride, padding, bias=bias is not None, device="meta"
    )
    return assign_weights(layer, weight, bias)


def assign_weights(layer: _Module, weight: Tensor, bias: Tensor | None) -> _Module:
    """Set the weight and the bias of a layer and return it."""
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer


def expect_filter(tensors: Tensors, names: str, taps: Sequence[float]) -> None:
    """Compare the filters of resampling layers with the ones that the network has.

    `names` is a regular expression of their names. The scale of a filter is not compared. Raises
    FormatMismatchError.
    """
    line = torch.tensor(taps, dtype=torch.float32)
    plane = line[:, None] * line
    for name in [each for each in tensors if re.fullmatch(names, each)]:
        found = tensors[name].float().squeeze()
        expected = plane if found.ndim == 2 else line
        fits = found.shape == expected.shape
        if not fits or not torch.allclose(
            found / found.sum(), expected / expected.sum(), atol=1e-5
        ):
            raise FormatMismatchError(f"its filter {name} is not {list(taps)}")


def load_layer(module: nn.Module, layer: Layer) -> nn.Module:
    """Load a layer's tensors into a module and return it. Raises FormatMismatchError."""
    weights = {n: t.float() for n, t in layer.tensors.items() if n != "num_batches_tracked"}
    try:
        result = module.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        expected = {name: list(t.shape) for name, t in module.state_dict().items()}
        shapes = ", ".join(
            f"{name} {list(t.shape)} (expected {expected[name]})"
            for name, t in weights.items()
            if name in expected and list(t.shape) != expected[name]
        )
        raise FormatMismatchError(f"{layer.path} has unexpected shapes: {shapes}") from error
    missing = [name for name in result.missing_keys if name != "num_batches_tracked"]
    if missing or result.unexpected_keys:
        raise FormatMismatchError(
            f"{layer.path} has unexpected tensors: missing {', '.join(missing) or 'none'}, "
            f"unexpected {', '.join(result.unexpected_keys) or 'none'}"
        )
    return module
