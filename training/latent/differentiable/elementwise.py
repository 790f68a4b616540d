"""Elementwise operators: arithmetic, comparisons and activations. Operands are broadcast."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import onnx
import torch
from torch import Tensor
from torch.nn import functional as F

from training.latent.differentiable.registry import Node, operator

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Asin": torch.asin,
    "Atan": torch.atan,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": F.hardswish,
    "Identity": lambda x: x,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Mish": F.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "QuickGelu": lambda x: x * torch.sigmoid(1.702 * x),
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    # Halves are rounded to even in both.
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}
_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "And": torch.logical_and,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Mul": torch.mul,
    "Or": torch.logical_or,
    "Sub": torch.sub,
    "Xor": torch.logical_xor,
}
_VARIADIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Max": torch.maximum,
    "Min": torch.minimum,
    "Sum": torch.add,
}


def _register_all() -> None:
    def unary(function: Callable[[Tensor], Tensor]) -> Callable[[Node, Tensor], Tensor]:
        return lambda _, x: function(x)

    def binary(
        function: Callable[[Tensor, Tensor], Tensor],
    ) -> Callable[[Node, Tensor, Tensor], Tensor]:
        return lambda _, a, b: function(a, b)

    def variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
        return lambda _, *values: reduce(function, values)

    for name, function in _UNARY.items():
        operator(name)(unary(function))
    for name, function_of_two in _BINARY.items():
        operator(name)(binary(function_of_two))
    for name, function_of_two in _VARIADIC.items():
        operator(name)(variadic(function_of_two))


_register_all()


@operator("Div")
def divide(_: Node, a: Tensor, b: Tensor) -> Tensor:
    """Divide; integers are rounded toward zero."""
    return torch.div(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


@operator("Mod")
def modulo(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """Return the remainder, with the sign of the divisor unless `fmod` is set."""
    return torch.fmod(a, b) if node.get("fmod", 0) else torch.remainder(a, b)


@operator("Pow")
def power(_: Node, a: Tensor, b: Tensor) -> Tensor:
    """Return a power in the type of the base."""
    if b.numel() == 1 and b.dim() <= a.dim():
        # A number as exponent has a simpler gradient, which is also defined at a base of 0.
        return torch.pow(a, b.item()).to(a.dtype)
    return torch.pow(a, b).to(a.dtype)


@operator("Mean")
def mean(_: Node, *values: Tensor) -> Tensor:
    """Return the mean of several tensors."""
    return reduce(torch.add, values) / len(values)


@operator("Where")
def where(_: Node, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Select from two tensors."""
    return torch.where(condition, a, b)


@operator("Clip")
def clip(node: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Clip to a range: inputs, or attributes in early operator sets."""
    least = node.get("min") if low is None else low.item()
    most = node.get("max") if high is None else high.item()
    return x if least is None and most is None else torch.clamp(x, least, most)


@operator("Cast")
def cast(node: Node, x: Tensor) -> Tensor:
    """Convert to another type."""
    return x.to(torch_dtype(node.get("to")))


@operator("CastLike")
def cast_like(_: Node, x: Tensor, like: Tensor) -> Tensor:
    """Convert to the type of another tensor."""
    return x.to(like.dtype)


@operator("LeakyRelu")
def leaky_relu(node: Node, x: Tensor) -> Tensor:
    """Return x, or alpha x where x is negative."""
    return F.leaky_relu(x, node.get("alpha", 0.01))


@operator("PRelu")
def prelu(_: Node, x: Tensor, slope: Tensor) -> Tensor:
    """Return x, or slope x where x is negative; the slope is broadcast."""
    return torch.where(x < 0, slope * x, x)


@operator("Elu")
def elu(node: Node, x: Tensor) -> Tensor:
    """Exponential linear unit."""
    return F.elu(x, node.get("alpha", 1.0))


@operator("Celu")
def celu(node: Node, x: Tensor) -> Tensor:
    """Continuously differentiable exponential linear unit."""
    return F.celu(x, node.get("alpha", 1.0))


@operator("Selu")
def selu(node: Node, x: Tensor) -> Tensor:
    """Scaled exponential linear unit."""
    alpha, gamma = node.get("alpha", 1.6732632423543772), node.get("gamma", 1.0507009873554805)
    return F.elu(x, alpha) * float(gamma)


@operator("Gelu")
def gelu(node: Node, x: Tensor) -> Tensor:
    """Gaussian error linear unit, exact or approximated by tanh."""
    return F.gelu(x, approximate=node.get("approximate", "none"))


@operator("Swish")
def swish(node: Node, x: Tensor) -> Tensor:
    """Return x sigmoid(alpha x)."""
    return x * torch.sigmoid(node.get("alpha", 1.0) * x)


@operator("HardSigmoid")
def hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    """Return alpha x + beta, clipped to [0, 1]."""
    return torch.clamp(node.get("alpha", 0.2) * x + node.get("beta", 0.5), 0, 1)


@operator("ThresholdedRelu")
def thresholded_relu(node: Node, x: Tensor) -> Tensor:
    """Return x where it exceeds alpha, and 0 elsewhere."""
    return torch.where(x > node.get("alpha", 1.0), x, torch.zeros_like(x))


@operator("Dropout")
def dropout(_: Node, x: Tensor, *__: Any) -> Tensor:
    """Return x: dropout is for training only."""
    return x


def torch_dtype(code: int) -> torch.dtype:
    """Return the PyTorch type of an ONNX element type. Raises ValueError."""
    if code == onnx.TensorProto.BFLOAT16:
        return torch.bfloat16
    name = onnx.helper.tensor_dtype_to_np_dtype(code).name
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"the type {name} has no equivalent in PyTorch")
    return dtype
