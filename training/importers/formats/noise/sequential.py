"""Generators that are one chain of layers: DCGAN's transposed convolutions, and perceptrons.

Recognised by the chain alone, however the layers are called: what a layer gives is what the next
one takes. Layers without weights (activations, dropout) leave no trace but a gap in the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from training.importers.errors import FormatMismatchError, ImportOptionError
from training.importers.formats.base import (
    ConvertedModel,
    Format,
    UserOptions,
    adapt_latent,
    class_names,
    converted_generator,
    latent_distribution,
    square_image,
)
from training.importers.reading.weights import Layer, Network, known_layers

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "elu": nn.ELU,
    "selu": nn.SELU,
}


class Chain(nn.Module):
    """``z`` [N, Z], and class weights appended to it where there are classes, to pictures."""

    def __init__(self, chain: nn.Sequential, shape: tuple[int, ...], *, classes: bool) -> None:
        super().__init__()
        self.chain = chain
        self.shape = shape
        self.classes = classes

    def forward(self, z: Tensor, class_weights: Tensor | None = None) -> Tensor:
        x = torch.cat([z, class_weights], 1) if class_weights is not None and self.classes else z
        made: Tensor = self.chain(x.reshape(x.shape[0], *self.shape))
        return made


def activation(options: UserOptions, usual: str) -> nn.Module:
    """Return the activation between layers: `--activation`, or the format's default."""
    name = options.activation or usual
    if name not in ACTIVATIONS:
        raise ImportOptionError(f"--activation {name}: it is one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def last_steps(options: UserOptions) -> list[nn.Module]:
    """Return what brings the last layer's values to [-1, 1]. Raises ImportOptionError."""
    if options.output in (None, "tanh"):
        return [nn.Tanh()]
    if options.output == "sigmoid":
        return [nn.Sigmoid(), Rescaled()]
    raise ImportOptionError(f"--output {options.output}: it is tanh or sigmoid")


class Rescaled(nn.Module):
    """[0, 1] to [-1, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x - 1


def load_layer(module: nn.Module, layer: Layer) -> nn.Module:
    """Put a layer's tensors into a module that was built for them. Raises FormatMismatchError."""
    weights = {n: t.float() for n, t in layer.tensors.items() if n != "num_batches_tracked"}
    try:
        done = module.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise FormatMismatchError(f"{layer.path} has other shapes than expected") from error
    left = [name for name in done.missing_keys if name != "num_batches_tracked"]
    if left or done.unexpected_keys:
        raise FormatMismatchError(f"{layer.path} has other tensors than expected")
    return module


def normalised(layer: Layer, width: int, flat: bool, eps: float = 1e-5) -> nn.Module:
    """Return the batch normalisation that a layer's tensors are. Raises FormatMismatchError."""
    if "running_mean" not in layer.tensors:
        raise FormatMismatchError(f"{layer.path} normalises without running statistics")
    affine = "weight" in layer.tensors
    kind = nn.BatchNorm1d if flat else nn.BatchNorm2d
    return load_layer(kind(width, eps=eps, affine=affine), layer)


class DcganChain(Format):
    """Transposed convolutions from 1×1, each of which doubles the side."""

    name = "dcgan"
    by_layer_order = True
    title = "DCGAN"
    origin = "PyTorch's DCGAN example (BSD-3), Radford et al. 2015"
    required_keys = (r"(.+\.)?\w+\.weight",)
    excluded_keys = (r".*(label_emb|embed|RDB|rdb\d|prelu).*",)

    def convert(self, network: Network, options: UserOptions) -> ConvertedModel:
        """Build the chain."""
        found = known_layers(network)
        convolutions = [layer for layer in found if layer.kind == "convolution"]
        if len(convolutions) < 3 or found[0] is not convolutions[0]:
            raise FormatMismatchError("it is no chain of transposed convolutions")
        for one, after in pairwise(convolutions):
            if one.weight.shape[1] != after.weight.shape[0]:
                raise FormatMismatchError(f"{after.path} does not take what {one.path} gives")
        built: list[nn.Module] = []
        side = 0
        for layer in found:
            if layer.kind == "convolution":
                fan_in, width, size, _ = layer.weight.shape
                first = layer is convolutions[0]
                if not first:
                    if size != 4:
                        raise FormatMismatchError(
                            f"{layer.path} has a kernel of {size}, and 4 is known"
                        )
                    if isinstance(built[-1], (nn.ConvTranspose2d, nn.BatchNorm2d)):
                        built.append(activation(options, "relu"))
                side = size if first else 2 * side
                step = (1, 0) if first else (2, 1)
                built.append(
                    load_layer(
                        nn.ConvTranspose2d(fan_in, width, size, *step, bias=layer.bias is not None),
                        layer,
                    )
                )
            elif layer.kind in ("norm", "statistics"):
                built.append(normalised(layer, width, flat=False))
            else:
                raise FormatMismatchError(f"{layer.path} is no layer of a DCGAN")
        channels = convolutions[-1].weight.shape[1]
        built += last_steps(options)
        taken = convolutions[0].weight.shape[0]
        classes = options.classes or 0
        if not 0 <= classes < taken:
            raise ImportOptionError(
                f"--classes {classes}: the first layer takes {taken} values with them"
            )
        chain = Chain(nn.Sequential(*built), (taken, 1, 1), classes=bool(classes))
        names = class_names(classes, options) if classes else ()
        return converted_generator(
            "DCGAN",
            adapt_latent(chain, options),
            taken - classes,
            square_image(side, channels),
            names,
            distribution=latent_distribution(options),
            details=[("layers", str(len(convolutions)))],
        )


class MlpChain(Format):
    """Linear layers, the last of which gives the pixels."""

    name = "mlp"
    by_layer_order = True
    title = "Perceptron"
    origin = "the original GAN, Goodfellow et al. 2014, as most tutorials write it"
    required_keys = (r"(.+\.)?\w+\.weight", r"(.+\.)?\w+\.bias")
    excluded_keys = (r".*(label_emb|embed).*",)

    def convert(self, network: Network, options: UserOptions) -> ConvertedModel:
        """Build the chain."""
        found = known_layers(network)
        linear = [layer for layer in found if layer.kind == "linear"]
        if len(linear) < 2 or found[0] is not linear[0] or found[-1] is not linear[-1]:
            raise FormatMismatchError("it is no chain of linear layers")
        for one, after in pairwise(linear):
            if one.weight.shape[0] != after.weight.shape[1]:
                raise FormatMismatchError(f"{after.path} does not take what {one.path} gives")
        built: list[nn.Module] = []
        for layer in found:
            if layer.kind == "linear":
                if built:
                    built.append(activation(options, "relu"))
                width, fan_in = layer.weight.shape
                linear_layer = nn.Linear(fan_in, width, bias=layer.bias is not None)
                built.append(load_layer(linear_layer, layer))
            elif layer.kind in ("norm", "statistics"):
                built.append(normalised(layer, width, flat=True))
            else:
                raise FormatMismatchError(f"{layer.path} is no layer of a perceptron")
        side, channels = square_shape(linear[-1].weight.shape[0], options)
        taken = linear[0].weight.shape[1]
        classes = options.classes or 0
        if not 0 <= classes < taken:
            raise ImportOptionError(
                f"--classes {classes}: the first layer takes {taken} values with them"
            )
        steps = nn.Sequential(*built, *last_steps(options), nn.Unflatten(1, (channels, side, side)))
        names = class_names(classes, options) if classes else ()
        return converted_generator(
            "GAN of perceptrons",
            adapt_latent(Chain(steps, (taken,), classes=bool(classes)), options),
            taken - classes,
            square_image(side, channels),
            names,
            distribution=latent_distribution(options),
            details=[("layers", str(len(linear)))],
            notes=[
                f"Between the layers stands {options.activation or 'relu'}, which no tensor tells; "
                "where samples are noisy, try --activation leaky_relu."
            ],
        )


def square_shape(values: int, options: UserOptions) -> tuple[int, int]:
    """Return side and channels of a square image of `values` values."""
    for channels in (options.channels,) if options.channels else (1, 3, 4):
        side = math.isqrt(values // channels)
        if side * side * channels == values and options.side in (None, side) and side > 3:
            return side, channels
    if options.channels or options.side:
        raise ImportOptionError(f"--side and --channels do not make {values} values")
    raise FormatMismatchError(f"its last layer gives {values} values, which are no square picture")
