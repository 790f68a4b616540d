"""The other layers of ncnn: normalizations, activations, arithmetic, resizing and slicing."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.importers.ncnn.param import Layer
from training.importers.ncnn.registry import BUILDERS, Apply, frozen, register, unsupported
from training.importers.ncnn.weights import WeightReader

# The size of a part that takes what the others leave.
_REST = -233


@register("BatchNorm")
def _batch_norm(layer: Layer, weights: WeightReader) -> nn.Module:
    channels = layer.integer(0, 0)
    scale, mean, variance, shift = (weights.plain(channels) for _ in range(4))
    return _Affine(
        scale / torch.sqrt(variance + layer.number(1, 0.0)),
        shift - scale * mean / torch.sqrt(variance + layer.number(1, 0.0)),
    )


@register("Scale")
def _scale(layer: Layer, weights: WeightReader) -> nn.Module:
    channels = layer.integer(0, 0)
    if channels < 0:
        raise unsupported(layer, "a scale that is computed")
    scale = weights.plain(channels)
    shift = weights.plain(channels) if layer.integer(1, 0) else torch.zeros(channels)
    return _Affine(scale, shift)


@register("Bias")
def _bias(layer: Layer, weights: WeightReader) -> nn.Module:
    channels = layer.integer(0, 0)
    return _Affine(torch.ones(channels), weights.plain(channels))


class _Affine(nn.Module):
    """Scales and shifts each channel."""

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.scale = frozen(scale[:, None, None])
        self.shift = frozen(shift[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


@register("InstanceNorm")
def _instance_norm(layer: Layer, weights: WeightReader) -> nn.Module:
    channels, affine = layer.integer(0, 0), bool(layer.integer(2, 1))
    scale, shift = (weights.plain(channels) for _ in range(2)) if affine else (None, None)
    norm = nn.InstanceNorm2d(channels, eps=layer.number(1, 0.001), affine=affine)
    if scale is not None and shift is not None:
        norm.weight, norm.bias = frozen(scale), frozen(shift)
    return norm


@register("PReLU")
def _prelu(layer: Layer, weights: WeightReader) -> nn.Module:
    slopes = weights.plain(layer.integer(0, 0))
    module = nn.PReLU(len(slopes))
    module.weight = frozen(slopes)
    return module


@register("ReLU")
def _relu(layer: Layer, _: WeightReader) -> nn.Module:
    slope = layer.number(0, 0.0)
    return nn.LeakyReLU(slope) if slope else nn.ReLU()


@register("Clip")
def _clip(layer: Layer, _: WeightReader) -> nn.Module:
    low, high = layer.number(0, -math.inf), layer.number(1, math.inf)
    return Apply(lambda x: x.clamp(low, high))


@register("ELU")
def _elu(layer: Layer, _: WeightReader) -> nn.Module:
    return nn.ELU(layer.number(0, 0.1))


@register("HardSigmoid", "HardSwish")
def _hard(layer: Layer, _: WeightReader) -> nn.Module:
    alpha, beta = layer.number(0, 0.2), layer.number(1, 0.5)
    if layer.type == "HardSigmoid":
        return Apply(lambda x: (x * alpha + beta).clamp(0, 1))
    return Apply(lambda x: x * (x * alpha + beta).clamp(0, 1))


for _type, _module in {
    "Sigmoid": nn.Sigmoid, "TanH": nn.Tanh, "Swish": nn.SiLU, "Mish": nn.Mish, "SELU": nn.SELU,
    "AbsVal": lambda: Apply(torch.abs), "Noop": nn.Identity, "Dropout": nn.Identity,
}.items():  # fmt: skip
    BUILDERS[_type] = lambda _, __, module=_module: module()  # type: ignore[misc]


@register("GELU")
def _gelu(layer: Layer, _: WeightReader) -> nn.Module:
    return nn.GELU("tanh" if layer.integer(0, 0) else "none")


@register("Split")
def _split(layer: Layer, _: WeightReader) -> nn.Module:
    count = len(layer.outputs)
    return Apply(lambda x: (x,) * count)


@register("Concat")
def _concat(layer: Layer, _: WeightReader) -> nn.Module:
    axis = layer.integer(0, 0) % 3 + 1
    return Apply(lambda *blobs: torch.cat(blobs, axis))


@register("Slice")
def _slice(layer: Layer, _: WeightReader) -> nn.Module:
    sizes = [int(size) for size in layer.array(0)]
    axis, count = layer.integer(1, 0) % 3 + 1, len(layer.outputs)
    if all(size == _REST for size in sizes):
        return Apply(lambda x: x.chunk(count, axis))
    if _REST in sizes[:-1] or layer.array(2):
        raise unsupported(layer, "a part of unknown size before others")

    def split(x: Tensor) -> tuple[Tensor, ...]:
        rest = x.shape[axis] - sum(sizes[:-1])
        last = rest if sizes[-1] == _REST else sizes[-1]
        return torch.split(x, [*sizes[:-1], last], axis)

    return Apply(split)


_BINARY: dict[int, Callable[[Tensor, Tensor], Tensor]] = {
    0: torch.add, 1: torch.sub, 2: torch.mul, 3: torch.div, 4: torch.maximum, 5: torch.minimum,
    6: torch.pow, 7: lambda a, b: b - a, 8: lambda a, b: b / a, 9: lambda a, b: torch.pow(b, a),
}  # fmt: skip


@register("BinaryOp")
def _binary(layer: Layer, _: WeightReader) -> nn.Module:
    kind = layer.integer(0, 0)
    if kind not in _BINARY:
        raise unsupported(layer, f"operation {kind}")
    operation = _BINARY[kind]
    if layer.integer(1, 0):
        scalar = torch.tensor(float(layer.number(2, 0.0)))
        return Apply(lambda x: operation(x, scalar))
    return Apply(operation)


@register("Eltwise")
def _eltwise(layer: Layer, _: WeightReader) -> nn.Module:
    kind, factors = layer.integer(0, 0), layer.array(1)

    def combine(*blobs: Tensor) -> Tensor:
        if kind == 1 and factors:
            blobs = tuple(blob * factor for blob, factor in zip(blobs, factors, strict=True))
        result = blobs[0]
        for blob in blobs[1:]:
            result = (torch.mul, torch.add, torch.maximum)[kind](result, blob)
        return result

    if kind not in (0, 1, 2) or (factors and len(factors) != len(layer.inputs)):
        raise unsupported(layer, f"operation {kind}")
    return Apply(combine)


_UNARY: dict[int, Callable[[Tensor], Tensor]] = {
    0: torch.abs, 1: torch.neg, 2: torch.floor, 3: torch.ceil, 4: torch.square, 5: torch.sqrt,
    6: torch.rsqrt, 7: torch.exp, 8: torch.log, 9: torch.sin, 10: torch.cos, 15: torch.reciprocal,
    16: torch.tanh,
}  # fmt: skip


@register("UnaryOp")
def _unary(layer: Layer, _: WeightReader) -> nn.Module:
    kind = layer.integer(0, 0)
    if kind not in _UNARY:
        raise unsupported(layer, f"operation {kind}")
    return Apply(_UNARY[kind])


@register("Interp")
def _interp(layer: Layer, _: WeightReader) -> nn.Module:
    modes = {1: "nearest", 2: "bilinear", 3: "bicubic"}
    mode = modes.get(layer.integer(0, 0))
    scale = (layer.number(1, 1.0), layer.number(2, 1.0))
    fixed = layer.integer(3, 0) or layer.integer(4, 0) or layer.integer(5, 0)
    if mode is None or fixed or layer.integer(6, 0) or len(layer.inputs) != 1:
        raise unsupported(layer, "resizing other than by a factor")
    if scale == (1.0, 1.0):
        return nn.Identity()
    return Apply(lambda x: F.interpolate(x, scale_factor=scale, mode=mode))


@register("PixelShuffle")
def _pixel_shuffle(layer: Layer, _: WeightReader) -> nn.Module:
    if layer.integer(1, 0):
        raise unsupported(layer, "the order of TensorFlow")
    return nn.PixelShuffle(layer.integer(0, 1))


@register("Reorg")
def _reorg(layer: Layer, _: WeightReader) -> nn.Module:
    if layer.integer(1, 0):
        raise unsupported(layer, "the order of TensorFlow")
    return nn.PixelUnshuffle(layer.integer(0, 1))


@register("Padding")
def _pad(layer: Layer, _: WeightReader) -> nn.Module:
    top, bottom, left, right = (layer.integer(key, 0) for key in range(4))
    mode = {0: "constant", 1: "replicate", 2: "reflect"}.get(layer.integer(4, 0))
    if mode is None or any(layer.integer(key, 0) for key in (6, 7, 8)):
        raise unsupported(layer, "padding of the channels")
    if min(top, bottom, left, right) < 0:
        raise unsupported(layer, "negative padding")
    value = layer.number(5, 0.0) if mode == "constant" else None
    return Apply(lambda x: F.pad(x, (left, right, top, bottom), mode, value))


@register("Pooling")
def _pooling(layer: Layer, _: WeightReader) -> nn.Module:
    average, whole = layer.integer(0, 0) == 1, bool(layer.integer(4, 0))
    if whole:
        reduce = torch.mean if average else torch.amax
        return Apply(lambda x: reduce(x, (2, 3), keepdim=True))
    kernel, stride = layer.integer(1, 0), layer.integer(2, 1)
    pads = [layer.integer(key, layer.integer(3, 0)) for key in (3, 13, 14, 15)]
    square = (layer.integer(11, kernel), layer.integer(12, stride)) == (kernel, stride)
    # Mode 1 is the padding of PyTorch; others may add a row.
    if any(pads) or not square or layer.integer(5, 0) not in (0, 1) or layer.integer(7, 0):
        raise unsupported(layer, "padding")
    return nn.AvgPool2d(kernel, stride) if average else nn.MaxPool2d(kernel, stride)


@register("Crop")
def _crop(layer: Layer, _: WeightReader) -> nn.Module:
    left, top = layer.integer(0, 0), layer.integer(1, 0)
    right, bottom = layer.integer(6, 0), layer.integer(7, 0)
    others = any(layer.integer(key, 0) for key in (2, 3, 4, 5, 8, 13, 14, 15))
    if others or len(layer.inputs) != 1 or layer.array(9) or min(left, top, right, bottom) < 0:
        raise unsupported(layer, "cropping other than by a border")
    return Apply(lambda x: x[:, :, top : x.shape[2] - bottom, left : x.shape[3] - right])


@register("MemoryData")
def _memory(layer: Layer, weights: WeightReader) -> nn.Module:
    width, height, channels = (layer.integer(key, 0) for key in (0, 1, 2))
    if not channels:  # A vector or a matrix.
        raise unsupported(layer, "a constant that is not an image")
    return _Constant(weights.plain(1, channels, height, width))


class _Constant(nn.Module):
    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = frozen(values)

    def forward(self) -> Tensor:
        return self.values
