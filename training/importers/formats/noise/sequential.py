"""Generators that are a sequence of layers: DCGANs and multilayer perceptrons.

They are recognized by the order and shapes of their layers, not by names. The inputs of each layer
must match the outputs of the previous one. Layers without tensors, such as activations, are not in
the file, so the layer numbers have gaps.
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
from training.importers.formats.layers import load_layer
from training.importers.reading.weights import Layer, Network, known_layers

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "elu": nn.ELU,
    "selu": nn.SELU,
}


class SequentialGenerator(nn.Module):
    """Maps ``z`` [N, Z], followed by class weights if any, to images ``[N, C, H, W]``."""

    def __init__(self, layers: nn.Sequential, shape: tuple[int, ...], *, classes: bool) -> None:
        super().__init__()
        self.layers = layers
        self.shape = shape
        self.classes = classes

    def forward(self, z: Tensor, class_weights: Tensor | None = None) -> Tensor:
        x = torch.cat([z, class_weights], 1) if class_weights is not None and self.classes else z
        images: Tensor = self.layers(x.reshape(x.shape[0], *self.shape))
        return images


def activation(options: UserOptions, default: str) -> nn.Module:
    """Return the activation between layers, from `--activation` or the format's default.

    Raises ImportOptionError.
    """
    name = options.activation or default
    if name not in ACTIVATIONS:
        raise ImportOptionError(f"--activation {name}: expected one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def output_layers(options: UserOptions) -> list[nn.Module]:
    """Return the output activation of `--output`, with values in [-1, 1].

    Raises ImportOptionError for an unknown name.
    """
    if options.output in (None, "tanh"):
        return [nn.Tanh()]
    if options.output == "sigmoid":
        return [nn.Sigmoid(), UnitToSigned()]
    raise ImportOptionError(f"--output {options.output}: expected tanh or sigmoid")


class UnitToSigned(nn.Module):
    """Maps [0, 1] to [-1, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x - 1


def batch_norm_layer(layer: Layer, width: int, flat: bool, eps: float = 1e-5) -> nn.Module:
    """Return the batch normalization of a layer's tensors. Raises FormatMismatchError."""
    if "running_mean" not in layer.tensors:
        raise FormatMismatchError(f"{layer.path} is a normalization without running statistics")
    affine = "weight" in layer.tensors
    norm_class = nn.BatchNorm1d if flat else nn.BatchNorm2d
    return load_layer(norm_class(width, eps=eps, affine=affine), layer)


def _split_classes(inputs: int, options: UserOptions) -> tuple[int, tuple[str, ...]]:
    """Split `inputs`, the number of inputs of the first layer, into z and classes.

    Returns the dimension of z and the class names. Raises ImportOptionError.
    """
    classes = options.classes or 0
    if not 0 <= classes < inputs:
        raise ImportOptionError(
            f"--classes {classes}: expected less than {inputs}, the number of inputs of the first "
            "layer, which takes z and the class"
        )
    return inputs - classes, class_names(classes, options) if classes else ()


class Dcgan(Format):
    """Transposed convolutions that start at 1×1 and double the side."""

    name = "dcgan"
    by_layer_order = True
    title = "DCGAN"
    origin = "PyTorch's DCGAN example (BSD-3), Radford et al. 2015"
    required_keys = (r"(.+\.)?\w+\.weight",)
    excluded_keys = (r".*(label_emb|embed|RDB|rdb\d|prelu).*",)

    def convert(self, network: Network, options: UserOptions) -> ConvertedModel:
        """Build the layers in the order of the file."""
        layers = known_layers(network)
        convolutions = [layer for layer in layers if layer.kind == "convolution"]
        if len(convolutions) < 3 or layers[0] is not convolutions[0]:
            raise FormatMismatchError("it is not a sequence of transposed convolutions")
        for before, after in pairwise(convolutions):
            if before.weight.shape[1] != after.weight.shape[0]:
                raise FormatMismatchError(
                    f"{after.path} does not take the outputs of {before.path}"
                )
        modules: list[nn.Module] = []
        side = 0
        for layer in layers:
            if layer.kind == "convolution":
                fan_in, width, kernel, _ = layer.weight.shape
                first = layer is convolutions[0]
                if not first:
                    if kernel != 4:
                        raise FormatMismatchError(
                            f"{layer.path} has a kernel of {kernel}; only 4 is supported"
                        )
                    if isinstance(modules[-1], (nn.ConvTranspose2d, nn.BatchNorm2d)):
                        modules.append(activation(options, "relu"))
                side = kernel if first else 2 * side
                stride, padding = (1, 0) if first else (2, 1)
                module = nn.ConvTranspose2d(
                    fan_in, width, kernel, stride, padding, bias=layer.bias is not None
                )
                modules.append(load_layer(module, layer))
            elif layer.kind in ("norm", "statistics"):
                modules.append(batch_norm_layer(layer, width, flat=False))
            else:
                raise FormatMismatchError(f"unexpected layer {layer.path} in a DCGAN")
        inputs, channels = convolutions[0].weight.shape[0], convolutions[-1].weight.shape[1]
        z_dim, names = _split_classes(inputs, options)
        generator = SequentialGenerator(
            nn.Sequential(*modules, *output_layers(options)), (inputs, 1, 1), classes=bool(names)
        )
        return converted_generator(
            "DCGAN",
            adapt_latent(generator, options),
            z_dim,
            square_image(side, channels),
            names,
            distribution=latent_distribution(options),
            details=[("layers", str(len(convolutions)))],
        )


class Mlp(Format):
    """Linear layers; the outputs of the last one are the pixels."""

    name = "mlp"
    by_layer_order = True
    title = "Multilayer perceptron"
    origin = "the original GAN, Goodfellow et al. 2014, and most tutorials"
    required_keys = (r"(.+\.)?\w+\.weight", r"(.+\.)?\w+\.bias")
    excluded_keys = (r".*(label_emb|embed).*",)

    def convert(self, network: Network, options: UserOptions) -> ConvertedModel:
        """Build the layers in the order of the file."""
        layers = known_layers(network)
        linear = [layer for layer in layers if layer.kind == "linear"]
        if len(linear) < 2 or layers[0] is not linear[0] or layers[-1] is not linear[-1]:
            raise FormatMismatchError("it is not a sequence of linear layers")
        for before, after in pairwise(linear):
            if before.weight.shape[0] != after.weight.shape[1]:
                raise FormatMismatchError(
                    f"{after.path} does not take the outputs of {before.path}"
                )
        modules: list[nn.Module] = []
        for layer in layers:
            if layer.kind == "linear":
                if modules:
                    modules.append(activation(options, "relu"))
                width, fan_in = layer.weight.shape
                module = nn.Linear(fan_in, width, bias=layer.bias is not None)
                modules.append(load_layer(module, layer))
            elif layer.kind in ("norm", "statistics"):
                modules.append(batch_norm_layer(layer, width, flat=True))
            else:
                raise FormatMismatchError(
                    f"unexpected layer {layer.path} in a multilayer perceptron"
                )
        side, channels = square_shape(linear[-1].weight.shape[0], options)
        inputs = linear[0].weight.shape[1]
        z_dim, names = _split_classes(inputs, options)
        to_image = nn.Unflatten(1, (channels, side, side))
        generator = SequentialGenerator(
            nn.Sequential(*modules, *output_layers(options), to_image),
            (inputs,),
            classes=bool(names),
        )
        return converted_generator(
            "Multilayer perceptron GAN",
            adapt_latent(generator, options),
            z_dim,
            square_image(side, channels),
            names,
            distribution=latent_distribution(options),
            details=[("layers", str(len(linear)))],
            notes=[
                f"The activation between the layers is {options.activation or 'relu'}, which the "
                "tensors do not determine; if samples are noisy, try --activation leaky_relu."
            ],
        )


def square_shape(values: int, options: UserOptions) -> tuple[int, int]:
    """Return the side and the channels of a square image with `values` values.

    Raises FormatMismatchError, and ImportOptionError if `--side` or `--channels` do not fit.
    """
    for channels in (options.channels,) if options.channels else (1, 3, 4):
        side = math.isqrt(values // channels)
        if side * side * channels == values and options.side in (None, side) and side > 3:
            return side, channels
    if options.channels or options.side:
        raise ImportOptionError(f"--side and --channels do not fit the {values} values of an image")
    raise FormatMismatchError(
        f"its last layer has {values} outputs, which do not form a square image"
    )
