"""Activations and normalizations that no tensor determines, from the user's choices."""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import Tensor, nn

from training.importers.options import Choices, Source
from training.importers.reading.weights import Layer

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}
# In the order in which errors list them.
_NAMES = ("relu", "leaky_relu", "elu", "selu", "gelu", "silu")
_PADDINGS = {"reflect": nn.ReflectionPad2d, "zeros": nn.ZeroPad2d, "replicate": nn.ReplicationPad2d}


def activation(options: Choices, default: str) -> nn.Module:
    """Return the activation between layers. Raises ImportOptionError."""
    name = options.one_of("activation", "activation between the layers", default, _NAMES)
    if name == "leaky_relu":
        return nn.LeakyReLU(slope(options))
    return _ACTIVATIONS[name]()


def slope(options: Choices) -> float:
    """Return the slope of LeakyReLU for negative values. Raises ImportOptionError."""
    return options.number("slope", "slope of LeakyReLU", 0.2, (0.2, 0.01))


def output_activation(options: Choices) -> tuple[list[nn.Module], tuple[float, float]]:
    """Return the activation after the last layer, and its values of black and white.

    Raises ImportOptionError.
    """
    name = options.one_of(
        "output", "activation after the last layer", "tanh", ("tanh", "sigmoid", "none")
    )
    if name == "sigmoid":
        return [nn.Sigmoid()], (0.0, 1.0)
    return ([nn.Tanh()] if name == "tanh" else []), (-1.0, 1.0)


def signed_output(options: Choices) -> list[nn.Module]:
    """Return the layers after the last one with weights, with values in [-1, 1].

    Raises ImportOptionError.
    """
    layers, (low, _) = output_activation(options)
    return [*layers, UnitToSigned()] if low == 0.0 else layers


class UnitToSigned(nn.Module):
    """Maps [0, 1] to [-1, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x - 1


def normalizes_first(options: Choices, layer: Layer, norm: Layer) -> bool:
    """True if a normalization comes before the activation that follows `layer`.

    In a numbered sequence, a gap between the layer and its normalization is a layer without
    tensors, which is usually the activation. Raises ImportOptionError.
    """
    gap = _gap(layer.path, norm.path)
    default = "after" if gap is not None and gap > 1 else "before"
    source: Source = "assumed" if gap is None or gap > 1 else "names"
    order = options.one_of(
        "norm_order", "place of the normalization, relative to the activation", default,
        ("before", "after"), source,
    )  # fmt: skip
    return order == "before"


def _gap(first: str, second: str) -> int | None:
    """Return the difference of the numbers of two layers in one sequence, or None."""
    found = [re.fullmatch(r"(.*?)(\d+)", path) for path in (first, second)]
    if found[0] is None or found[1] is None or found[0].group(1) != found[1].group(1):
        return None
    return int(found[1].group(2)) - int(found[0].group(2))


def padding(options: Choices, name: str, subject: str, default: str, size: int) -> nn.Module:
    """Return the layer that pads an image by `size` pixels. Raises ImportOptionError."""
    return pad(padding_mode(options, name, subject, default), size)


def pad(mode: str, size: int) -> nn.Module:
    """Return the layer that pads an image by `size` pixels: reflect, zeros or replicate."""
    layer: nn.Module = _PADDINGS[mode](size)
    return layer


def padding_mode(
    options: Choices, name: str, subject: str, default: str, source: Source = "assumed"
) -> str:
    """Return how images are padded: reflect, zeros or replicate. Raises ImportOptionError."""
    return options.one_of(name, subject, default, tuple(_PADDINGS), source)


def upsampling(options: Choices) -> nn.Module:
    """Return the layer that doubles height and width. Raises ImportOptionError."""
    mode = options.one_of(
        "upsampling", "interpolation of the upsampling", "nearest", ("nearest", "bilinear")
    )
    if mode == "nearest":
        return nn.Upsample(scale_factor=2.0)
    return nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=False)
