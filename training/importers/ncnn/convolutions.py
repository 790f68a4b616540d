"""Convolutions, deconvolutions and linear layers of ncnn, with their activations."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from training.importers.errors import ModelImportError
from training.importers.ncnn.param import Layer
from training.importers.ncnn.registry import Apply, frozen, register, unsupported
from training.importers.ncnn.weights import WeightReader

# Padding that keeps the size of the image.
_SAME_UPPER, _SAME_LOWER = -233, -234


def activation(layer: Layer, kind: int, values: Sequence[float]) -> nn.Module:
    """Return the activation that a layer applies to its output. Raises ModelImportError."""
    match kind, *values:
        case (0, *_):
            return nn.Identity()
        case (1, *_):
            return nn.ReLU()
        case (2, slope, *_):
            return nn.LeakyReLU(slope)
        case (3, low, high, *_):
            return nn.Hardtanh(low, high)
        case (4, *_):
            return nn.Sigmoid()
        case (5, *_):
            return nn.Mish()
    raise unsupported(layer, f"activation {kind}")


class Convolution(nn.Module):
    """A convolution with padding ``(left, right, top, bottom)`` and an activation."""

    def __init__(
        self,
        convolution: nn.Conv2d | nn.ConvTranspose2d | nn.Linear,
        padding: tuple[int, int, int, int],
        value: float,
        after: nn.Module,
    ) -> None:
        super().__init__()
        self.convolution, self.padding, self.value = convolution, padding, value
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        if any(self.padding):
            x = F.pad(x, self.padding, value=self.value)
        result: Tensor = self.after(self.convolution(x))
        return result


@register("Convolution", "ConvolutionDepthWise")
def _convolution(layer: Layer, weights: WeightReader) -> nn.Module:
    out, kernel, dilation, stride = _geometry(layer)
    groups = layer.integer(7, 1)
    fan_in = _fan_in(layer, out // groups, kernel) if out % groups == 0 else 0
    if layer.integer(19, 0):
        raise unsupported(layer, "a weight that is computed")
    if not fan_in or fan_in % groups:
        raise ModelImportError(f"{layer}: the weights do not fit {out} channels in {groups} groups")
    # Read first: the file limits the size of the network that is built.
    weight = weights.weight(out, fan_in // groups, *kernel)
    convolution = nn.Conv2d(
        fan_in, out, kernel, stride, 0, dilation, groups, bias=bool(layer.integer(5, 0))
    )
    _load(convolution, weight, layer, weights, out)
    padding = _padding(layer, kernel, dilation, stride)
    after = activation(layer, layer.integer(9, 0), layer.array(10))
    return Convolution(convolution, padding, layer.number(18, 0.0), after)


@register("Deconvolution", "DeconvolutionDepthWise")
def _deconvolution(layer: Layer, weights: WeightReader) -> nn.Module:
    out, kernel, dilation, stride = _geometry(layer)
    groups = layer.integer(7, 1)
    fan_in = _fan_in(layer, out // groups, kernel) if out % groups == 0 else 0
    left, top = layer.integer(4, 0), layer.integer(14, layer.integer(4, 0))
    symmetric = (layer.integer(15, left), layer.integer(16, top)) == (left, top)
    if not fan_in or fan_in % groups:
        raise ModelImportError(f"{layer}: the weights do not fit {out} channels in {groups} groups")
    if not symmetric or min(left, top) < 0 or layer.integer(20, 0) or layer.integer(21, 0):
        raise unsupported(layer, "padding that differs between the sides")
    right = layer.integer(18, 0)
    # By group: output channels, then input channels, where PyTorch has them the other way round.
    weight = weights.weight(groups, out // groups, fan_in // groups, *kernel).transpose(1, 2)
    convolution = nn.ConvTranspose2d(
        fan_in, out, kernel, stride, (top, left), (layer.integer(19, right), right), groups,
        bool(layer.integer(5, 0)), dilation,
    )  # fmt: skip
    shape = (fan_in, out // groups, *kernel)
    _load(convolution, weight.reshape(shape), layer, weights, out)
    after = activation(layer, layer.integer(9, 0), layer.array(10))
    return Convolution(convolution, (0, 0, 0, 0), 0.0, after)


@register("InnerProduct")
def _inner_product(layer: Layer, weights: WeightReader) -> nn.Module:
    out = layer.integer(0, 0)
    fan_in = _fan_in(layer, out, (1, 1), size=2)
    weight = weights.weight(out, fan_in, 1, 1)
    # As a convolution of a vector, which is [N, C, 1, 1].
    convolution = nn.Conv2d(fan_in, out, 1, bias=bool(layer.integer(1, 0)))
    convolution.weight = frozen(weight)
    if convolution.bias is not None:
        convolution.bias = frozen(weights.plain(out))
    after = activation(layer, layer.integer(9, 0), layer.array(10))
    return nn.Sequential(Apply(_as_vector), convolution, after)


def _geometry(layer: Layer) -> tuple[int, tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Return output channels, kernel, dilation and stride, each ``(height, width)``."""
    pairs = []
    for width, height, default in ((1, 11, 0), (2, 12, 1), (3, 13, 1)):
        first = layer.integer(width, default)
        pairs.append((layer.integer(height, first), first))
    if min(value for pair in pairs for value in pair) < 1 or layer.integer(0, 0) < 1:
        raise ModelImportError(f"{layer}: sizes must be positive")
    return layer.integer(0, 0), pairs[0], pairs[1], pairs[2]


def _fan_in(layer: Layer, out: int, kernel: tuple[int, int], size: int = 6) -> int:
    """Return the input channels, which follow from the number of weights."""
    if layer.integer(8, 0):
        raise unsupported(layer, "int8 inference")
    count, per_channel = layer.integer(size, 0), max(out, 1) * kernel[0] * kernel[1]
    if count < 1 or count % per_channel:
        raise ModelImportError(f"{layer}: {count:,} weights do not fit {per_channel:,} per channel")
    return count // per_channel


def _load(
    module: nn.Conv2d | nn.ConvTranspose2d,
    weight: Tensor,
    layer: Layer,
    weights: WeightReader,
    out: int,
) -> None:
    if module.weight.shape != weight.shape:
        raise ModelImportError(f"{layer}: the weights do not fit the sizes of the layer")
    module.weight = frozen(weight)
    if module.bias is not None:
        module.bias = frozen(weights.plain(out))


def _padding(
    layer: Layer, kernel: tuple[int, int], dilation: tuple[int, int], stride: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Return the padding of a convolution as ``(left, right, top, bottom)``."""
    left = layer.integer(4, 0)
    top = layer.integer(14, left)
    right, bottom = layer.integer(15, left), layer.integer(16, top)
    if left in (_SAME_UPPER, _SAME_LOWER):
        if stride != (1, 1):
            raise unsupported(layer, "padding that depends on the size of the image")
        high, wide = ((k - 1) * d for k, d in zip(kernel, dilation, strict=True))
        small = (wide // 2, high // 2)
        large = (wide - small[0], high - small[1])
        (left, top), (right, bottom) = (small, large) if left == _SAME_UPPER else (large, small)
    if min(left, right, top, bottom) < 0:
        raise unsupported(layer, "negative padding")
    return left, right, top, bottom


def _as_vector(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], -1, 1, 1)
