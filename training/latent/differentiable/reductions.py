"""Operators that reduce or normalize axes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from training.latent.differentiable.registry import Node, axes_of, integers, operator

# In this operator set and later, Softmax works on one axis; before, on all axes from it on.
_SOFTMAX_OF_ONE_AXIS = 13

_Reduction = Callable[[Tensor, list[int], bool], Tensor]


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


_REDUCTIONS: dict[str, _Reduction] = {
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keep),
    "ReduceL2": lambda x, axes, keep: x.square().sum(axes, keep).sqrt(),
    "ReduceLogSum": lambda x, axes, keep: x.sum(axes, keep).log(),
    "ReduceLogSumExp": torch.logsumexp,
    "ReduceMax": lambda x, axes, keep: x.amax(axes, keep),
    "ReduceMean": lambda x, axes, keep: x.mean(axes, keep),
    "ReduceMin": lambda x, axes, keep: x.amin(axes, keep),
    "ReduceProd": _product,
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keep),
    "ReduceSumSquare": lambda x, axes, keep: x.square().sum(axes, keep),
}


def _register_all() -> None:
    def reduction(function: _Reduction) -> Callable[..., Tensor]:
        def reduce(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
            chosen = axes_of(node, axes)
            if not chosen:
                if node.get("noop_with_empty_axes", 0):
                    return x
                chosen = list(range(x.dim()))
            return function(x, chosen, bool(node.get("keepdims", 1)))

        return reduce

    for name, function in _REDUCTIONS.items():
        operator(name)(reduction(function))


_register_all()


@operator("Softmax", "LogSoftmax")
def softmax(node: Node, x: Tensor) -> Tensor:
    """Normalize to a distribution, or its logarithm."""
    function = F.softmax if node.operator == "Softmax" else F.log_softmax
    if node.opset >= _SOFTMAX_OF_ONE_AXIS:
        return function(x, node.get("axis", -1))
    return function(x.flatten(node.get("axis", 1)), -1).reshape(x.shape)


@operator("ArgMax", "ArgMin")
def arg_extreme(node: Node, x: Tensor) -> Tensor:
    """Return the first index of the largest or smallest value of an axis."""
    function = torch.argmax if node.operator == "ArgMax" else torch.argmin
    return function(x, node.get("axis", 0), bool(node.get("keepdims", 1)))


@operator("TopK")
def top_k(node: Node, x: Tensor, k: Tensor) -> tuple[Tensor, ...]:
    """Return the largest or smallest values of an axis, and their indices."""
    return tuple(
        torch.topk(x, int(k.item()), node.get("axis", -1), largest=bool(node.get("largest", 1)))
    )


@operator("CumSum")
def cumulative_sum(node: Node, x: Tensor, axis: Tensor) -> Tensor:
    """Return cumulative sums; `exclusive` leaves out the value itself."""
    dim = int(axis.item())
    values = x.flip(dim) if node.get("reverse", 0) else x
    sums = values.cumsum(dim)
    if node.get("exclusive", 0):
        sums = sums - values
    return sums.flip(dim) if node.get("reverse", 0) else sums


@operator("LpNormalization")
def lp_normalization(node: Node, x: Tensor) -> Tensor:
    """Divide by the L1 or L2 norm of an axis."""
    return F.normalize(x, p=node.get("p", 2), dim=node.get("axis", -1), eps=0.0)


@operator("BatchNormalization")
def batch_normalization(
    node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    """Normalize channels by stored statistics."""
    epsilon = node.get("epsilon", 1e-5)
    return F.batch_norm(x, mean, variance, scale, bias, training=False, eps=epsilon)


@operator("InstanceNormalization")
def instance_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Normalize each channel of each row by its own statistics."""
    return F.group_norm(x, x.shape[1], scale, bias, node.get("epsilon", 1e-5))


@operator("GroupNormalization")
def group_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Normalize groups of channels; early operator sets have one scale per group."""
    groups, channels = node.get("num_groups"), x.shape[1]
    if len(scale) != channels:
        scale, bias = (each.repeat_interleave(channels // groups) for each in (scale, bias))
    return F.group_norm(x, groups, scale, bias, node.get("epsilon", 1e-5))


@operator("LayerNormalization")
def layer_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """Normalize all axes from one on."""
    shape = x.shape[node.get("axis", -1) :]
    normalized = F.layer_norm(x, shape, eps=node.get("epsilon", 1e-5)) * scale
    return normalized if bias is None else normalized + bias


@operator("RMSNormalization")
def rms_normalization(node: Node, x: Tensor, scale: Tensor) -> Tensor:
    """Divide by the root mean square of all axes from one on."""
    axes = list(range(node.get("axis", -1) % x.dim(), x.dim()))
    return x * torch.rsqrt(x.square().mean(axes, True) + node.get("epsilon", 1e-5)) * scale


@operator("LRN")
def local_response_normalization(node: Node, x: Tensor) -> Tensor:
    """Normalize over neighboring channels."""
    alpha, beta, bias = node.get("alpha", 1e-4), node.get("beta", 0.75), node.get("bias", 1.0)
    return F.local_response_norm(x, node.get("size"), alpha, beta, bias)


@operator("GlobalAveragePool", "GlobalMaxPool")
def global_pool(node: Node, x: Tensor) -> Tensor:
    """Return the mean or the maximum of each channel."""
    axes = list(range(2, x.dim()))
    return x.mean(axes, True) if node.operator == "GlobalAveragePool" else x.amax(axes, True)


@operator("Einsum")
def einsum(node: Node, *values: Tensor) -> Tensor:
    """Sum products over axes with equal letters."""
    product: Tensor = torch.einsum(node.get("equation"), *values)
    return product


@operator("Trilu")
def triangle(node: Node, x: Tensor, k: Tensor | None = None) -> Tensor:
    """Keep the upper or the lower triangle."""
    (diagonal,) = integers(k) or [0]
    return torch.triu(x, diagonal) if node.get("upper", 1) else torch.tril(x, diagonal)
