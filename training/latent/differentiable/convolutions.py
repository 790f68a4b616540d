"""Convolutions, pooling and products of matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from training.latent.differentiable.registry import Node, find_operator, operator

_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}
_MAX_POOLS: dict[int, Callable[..., Any]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE_POOLS: dict[int, Callable[..., Tensor]] = {
    1: F.avg_pool1d,
    2: F.avg_pool2d,
    3: F.avg_pool3d,
}


@operator("Conv")
def convolution(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve images, or signals of one or three axes."""
    rank = x.dim() - 2
    strides = node.get("strides") or [1] * rank
    dilations = node.get("dilations") or [1] * rank
    extents = [d * (k - 1) + 1 for d, k in zip(dilations, weight.shape[2:], strict=True)]
    x, padding = _padded(node, x, extents, strides, 0.0)
    return _CONVOLUTIONS[rank](x, weight, bias, strides, padding, dilations, node.get("group", 1))


@operator("ConvTranspose")
def transposed_convolution(
    node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Transposed convolution; the padding removes values from the edges of the output."""
    rank = x.dim() - 2
    strides = node.get("strides") or [1] * rank
    dilations = node.get("dilations") or [1] * rank
    extra = node.get("output_padding") or [0] * rank
    extents = [d * (k - 1) + 1 for d, k in zip(dilations, weight.shape[2:], strict=True)]
    full = [
        s * (side - 1) + extent + more
        for s, side, extent, more in zip(strides, x.shape[2:], extents, extra, strict=True)
    ]
    pads = list(node.get("pads") or [0] * (2 * rank))
    mode, sizes = node.get("auto_pad", "NOTSET"), node.get("output_shape")
    if sizes is not None or mode in ("SAME_UPPER", "SAME_LOWER"):
        sizes = sizes or [s * side for s, side in zip(strides, x.shape[2:], strict=True)]
        totals = [max(a - b, 0) for a, b in zip(full, sizes[-rank:], strict=True)]
        small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
        # The additional pixel is removed at the end for SAME_UPPER, and at the start otherwise.
        pads = small + large if mode == "SAME_UPPER" else large + small
    elif mode == "VALID":
        pads = [0] * (2 * rank)
    before, after = pads[:rank], pads[rank:]
    group = node.get("group", 1)
    if before == after and all(more < s for more, s in zip(extra, strides, strict=True)):
        return _TRANSPOSED[rank](x, weight, bias, strides, before, extra, group, dilations)
    output = _TRANSPOSED[rank](x, weight, None, strides, 0, 0, group, dilations)
    if any(extra):
        output = F.pad(output, [each for more in reversed(extra) for each in (0, more)])
    if bias is not None:
        output = output + bias.reshape(-1, *[1] * rank)
    for axis, (start, side, end) in enumerate(zip(before, full, after, strict=True)):
        output = output.narrow(2 + axis, start, side - start - end)
    return output


@operator("MaxPool")
def max_pool(node: Node, x: Tensor) -> Tensor:
    """Return the maximum of each window."""
    kernel, rank = node.get("kernel_shape"), x.dim() - 2
    strides = node.get("strides") or [1] * rank
    dilations = node.get("dilations") or [1] * rank
    extents = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    ceil = bool(node.get("ceil_mode", 0))
    if ceil:
        return _with_ceil(node, x, _MAX_POOLS[rank], kernel, strides, dilation=dilations)
    x, padding = _padded(node, x, extents, strides, float("-inf"))
    if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        x = F.pad(x, [each for p in reversed(padding) for each in (p, p)], value=float("-inf"))
        padding = [0] * rank
    pooled: Tensor = _MAX_POOLS[rank](x, kernel, strides, padding, dilations)
    return pooled


@operator("AveragePool")
def average_pool(node: Node, x: Tensor) -> Tensor:
    """Return the mean of each window, without the padding unless `count_include_pad` is set."""
    kernel, rank = node.get("kernel_shape"), x.dim() - 2
    strides = node.get("strides") or [1] * rank
    include = bool(node.get("count_include_pad", 0))
    if node.get("ceil_mode", 0):
        return _with_ceil(node, x, _AVERAGE_POOLS[rank], kernel, strides, count_include_pad=include)
    padded, padding = _padded(node, x, kernel, strides, 0.0)
    if padded is x or include:
        return _AVERAGE_POOLS[rank](padded, kernel, strides, padding, count_include_pad=include)
    # Uneven padding is not part of the count: divide the sums by the number of real values.
    ones, _ = _padded(node, torch.ones_like(x), kernel, strides, 0.0)
    sums, counts = (_AVERAGE_POOLS[rank](each, kernel, strides) for each in (padded, ones))
    return sums / counts


def _with_ceil(
    node: Node,
    x: Tensor,
    pool: Callable[..., Any],
    kernel: Sequence[int],
    strides: Sequence[int],
    **options: Any,
) -> Tensor:
    rank = x.dim() - 2
    pads = list(node.get("pads") or [0] * (2 * rank))
    if pads[:rank] != pads[rank:] or node.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise ValueError("ceil_mode with uneven padding is not supported")
    pooled: Tensor = pool(x, kernel, strides, pads[:rank], ceil_mode=True, **options)
    return pooled


def _padded(
    node: Node, x: Tensor, extents: Sequence[int], strides: Sequence[int], value: float
) -> tuple[Tensor, list[int]]:
    """Apply padding that differs between the sides; return the input and the other padding."""
    rank = len(extents)
    pads = list(node.get("pads") or [0] * (2 * rank))
    mode = node.get("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        totals = [
            max((-(-side // s) - 1) * s + extent - side, 0)
            for side, s, extent in zip(x.shape[2:], strides, extents, strict=True)
        ]
        small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
        pads = small + large if mode == "SAME_UPPER" else large + small
    elif mode == "VALID":
        pads = [0] * (2 * rank)
    before, after = pads[:rank], pads[rank:]
    if before == after:
        return x, before
    flat = [each for axis in reversed(range(rank)) for each in (before[axis], after[axis])]
    return F.pad(x, flat, value=value), [0] * rank


@operator("MatMul")
def matrix_product(_: Node, a: Tensor, b: Tensor) -> Tensor:
    """Multiply matrices; other axes are broadcast."""
    return torch.matmul(a, b)


@operator("Gemm")
def general_product(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """Return ``alpha a b + beta c``; a and b may be transposed."""
    a = a.t() if node.get("transA", 0) else a
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    if node.get("transB", 0) and alpha == beta == 1 and c is not None and c.dim() == 1:
        return F.linear(a, b, c)
    product = torch.matmul(a, b.t() if node.get("transB", 0) else b)
    product = product if alpha == 1 else product * alpha
    return product if c is None else product + (c if beta == 1 else c * beta)


@operator("FusedConv")
def fused_convolution(
    node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None, added: Tensor | None = None
) -> Tensor:
    """A convolution, an addition and an activation, as ONNX Runtime fuses them."""
    output = convolution(node, x, weight, bias)
    assert isinstance(output, Tensor)  # noqa: S101 - for the type checker
    return _activated(node, output if added is None else output + added)


@operator("FusedGemm")
def fused_product(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """A product of matrices and an activation, as ONNX Runtime fuses them."""
    output = general_product(node, a, b, c)
    assert isinstance(output, Tensor)  # noqa: S101 - for the type checker
    return _activated(node, output)


@operator("FusedMatMul")
def fused_matrix_product(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """Multiply matrices that may be transposed, and scale the result."""
    a = a.transpose(-1, -2) if node.get("transA", 0) else a
    b = b.transpose(-1, -2) if node.get("transB", 0) else b
    return torch.matmul(a, b) * float(node.get("alpha", 1.0))


# The names of the parameters of activations that ONNX Runtime fuses.
_PARAMETERS = {"LeakyRelu": ("alpha",), "Clip": ("min", "max"), "HardSigmoid": ("alpha", "beta")}


def _activated(node: Node, x: Tensor) -> Tensor:
    name = node.get("activation", "Identity")
    function = find_operator("", name)
    if function is None:
        raise ValueError(f"the activation {name} is not supported")
    values = node.get("activation_params", [node.get("activation_alpha", 0.01)])
    parameters = dict(zip(_PARAMETERS.get(name, ()), values, strict=False))
    output = function(Node(name, node.name, parameters, 1, node.opset), x)
    assert isinstance(output, Tensor)  # noqa: S101 - an activation has one output
    return output
