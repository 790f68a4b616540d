"""Generators that are a sequence of layers: DCGANs and multilayer perceptrons.

They are recognized by the order and shapes of their layers, not by names. The inputs of each layer
must match the outputs of the previous one. Layers without tensors, such as activations, are not in
the file, so the layer numbers have gaps.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from training.importers.errors import FormatMismatchError, ImportOptionError
from training.importers.formats.activations import activation, normalizes_first, signed_output
from training.importers.formats.base import (
    ConvertedModel,
    Format,
    adapt_latent,
    class_names,
    converted_generator,
    latent_distribution,
    square_image,
)
from training.importers.formats.layers import frozen_batch_norm, load_layer
from training.importers.formats.noise.transposed import Geometry
from training.importers.options import Choices
from training.importers.reading.weights import Layer, Network, known_layers, natural_key

# Names of the last layer of a chain whose other layers are numbered.
_LAST = re.compile(r"(.*[._])?(fc_?)?(out|output|last|final|to_?(img|image|rgb))\w*([._].*)?")


class SequentialGenerator(nn.Module):
    """Maps ``z`` [N, Z], followed by class weights if any, to images ``[N, C, H, W]``.

    With an `embedding`, the class is the row of a table, before or after z.
    """

    embedding: Tensor | None

    def __init__(
        self,
        layers: nn.Sequential,
        shape: tuple[int, ...],
        *,
        classes: bool,
        embedding: Tensor | None = None,
        z_first: bool = True,
    ) -> None:
        super().__init__()
        self.layers = layers
        self.shape = shape
        self.classes = classes
        self.z_first = z_first
        self.register_buffer("embedding", embedding)

    def forward(self, z: Tensor, class_weights: Tensor | None = None) -> Tensor:
        x = z
        if class_weights is not None and self.classes:
            label = class_weights if self.embedding is None else class_weights @ self.embedding
            x = torch.cat([z, label] if self.z_first else [label, z], 1)
        images: Tensor = self.layers(x.reshape(x.shape[0], *self.shape))
        return images


def batch_norm_layer(layer: Layer, width: int, flat: bool, eps: float = 1e-5) -> nn.Module:
    """Return the batch normalization of a layer's tensors. Raises FormatMismatchError."""
    if "running_mean" not in layer.tensors:
        raise FormatMismatchError(f"{layer.path} is a normalization without running statistics")
    affine = "weight" in layer.tensors
    norm_class = nn.BatchNorm1d if flat else nn.BatchNorm2d
    return load_layer(norm_class(width, eps=eps, affine=affine), layer)


def class_comes_last(options: Choices, default: str | None) -> bool:
    """True if the class is concatenated after z. Raises ImportOptionError.

    Without a default, the user has to say it.
    """
    subject = "place of the class in the input, relative to z"
    return options.one_of("class_order", subject, default, ("after", "before")) == "after"


class _Inputs:
    """Splits the inputs of the first layer into z and the class.

    The class is one-hot, with `--classes`, or a row of an embedding in the file.
    """

    def __init__(self, inputs: int, embedding: Layer | None, options: Choices) -> None:
        self.embedding: Tensor | None = None
        self.names: tuple[str, ...] = ()
        self.z_dim, self.z_first = inputs, True
        if embedding is not None:
            self.embedding = embedding.tensors["weight"].float()
            count, width = self.embedding.shape
            self.z_dim = inputs - width
            self.names = class_names(count, options)
            if self.z_dim < 1:
                raise FormatMismatchError(
                    f"the embedding {embedding.path} has {width} values, but the first layer takes "
                    f"{inputs}"
                )
        elif classes := options.classes or 0:
            if not 0 < classes < inputs:
                raise ImportOptionError(
                    f"--classes {classes}: expected less than {inputs}, the number of inputs of "
                    "the first layer, which takes z and the class"
                )
            self.z_dim = inputs - classes
            self.names = class_names(classes, options)
        if self.names:
            self.z_first = class_comes_last(options, "after" if embedding is None else None)

    def generator(self, layers: Sequence[nn.Module], shape: tuple[int, ...]) -> SequentialGenerator:
        """Return the generator whose layers take inputs of a shape."""
        return SequentialGenerator(
            nn.Sequential(*layers),
            shape,
            classes=bool(self.names),
            embedding=self.embedding,
            z_first=self.z_first,
        )


def _sequence(network: Network, kind: str) -> tuple[Layer | None, list[Layer], list[Layer]]:
    """Return the class embedding, all other layers, and the layers of a kind.

    Raises FormatMismatchError unless the layers of this kind are a chain.
    """
    layers = [each for each in known_layers(network) if each.kind in _KINDS]
    embedding = None
    found = [layer for layer in layers if _EMBEDDING.fullmatch(layer.path)]
    if len(found) == 1 and found[0].kind == "linear" and set(found[0].tensors) == {"weight"}:
        embedding = found[0]
        layers = [layer for layer in layers if layer is not embedding]
    # Layers of other kinds remain unread, so that a network with them does not match.
    layers = [layer for layer in layers if layer.kind in (kind, "norm", "statistics")]
    chain = [layer for layer in layers if layer.kind == kind]
    if not chain or layers[0] is not chain[0]:
        raise FormatMismatchError(f"it is not a sequence of {kind} layers")
    return embedding, layers, chain


_KINDS = ("convolution", "linear", "norm", "statistics")
_EMBEDDING = re.compile(r"(.+\.)?(label|class|y|cls)?_?emb(ed|edding)?s?", re.IGNORECASE)


def _check_chain(layers: Sequence[Layer], inputs: Sequence[int], outputs: Sequence[int]) -> None:
    """Raise FormatMismatchError unless the layers must be connected one after another.

    The shapes have to fit. If another order would fit as well, the names must be numbered, because
    branches of equal widths look the same.
    """
    for i in range(1, len(layers)):
        if outputs[i - 1] != inputs[i]:
            raise FormatMismatchError(
                f"{layers[i].path} does not take the outputs of {layers[i - 1].path}"
            )
    joints = [*inputs, outputs[-1]]
    if len(set(joints)) == len(joints):
        return
    paths = [layer.path for layer in layers]
    numbered = paths[:-1] if len(paths) > 2 and _LAST.fullmatch(paths[-1]) else paths
    templates = {re.sub(r"\d+", "N", path) for path in numbered}
    keys = [natural_key(path) for path in numbered]
    if len(templates) != 1 or keys != sorted(keys):
        raise FormatMismatchError(
            f"neither shapes nor names tell how its layers {', '.join(paths[:6])} are connected"
        )


class Dcgan(Format):
    """Transposed convolutions that start at 1×1."""

    name = "dcgan"
    by_layer_order = True
    title = "DCGAN"
    origin = "PyTorch's DCGAN example (BSD-3), Radford et al. 2015"
    required_keys = (r"(.+\.)?\w+\.weight",)
    excluded_keys = (r".*(RDB|rdb\d|prelu).*",)

    def convert(self, network: Network, options: Choices) -> ConvertedModel:
        """Build the layers in the order of the file."""
        embedding, layers, convolutions = _sequence(network, "convolution")
        if len(convolutions) < 3:
            raise FormatMismatchError("it is not a sequence of transposed convolutions")
        shapes = [layer.weight.shape for layer in convolutions]
        _check_chain(convolutions, [s[0] for s in shapes], [s[1] for s in shapes])
        if any(shape[2] != shape[3] for shape in shapes):
            raise FormatMismatchError("its kernels are not square")
        square_image(1, shapes[-1][1])
        geometry = Geometry.choose([shape[2] for shape in shapes], options)
        modules = _Stack(options, flat=False)
        for layer in layers:
            if layer.kind == "convolution":
                i = convolutions.index(layer)
                modules.add(layer, geometry.layer(i, layer))
            else:
                modules.normalize(layer)
        inputs, channels = shapes[0][0], shapes[-1][1]
        split = _Inputs(inputs, embedding, options)
        image = square_image(geometry.side, channels)
        generator = split.generator([*modules.finish(), *signed_output(options)], (inputs, 1, 1))
        return converted_generator(
            "DCGAN",
            adapt_latent(generator, options),
            split.z_dim,
            image,
            split.names,
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

    def convert(self, network: Network, options: Choices) -> ConvertedModel:
        """Build the layers in the order of the file."""
        embedding, layers, linear = _sequence(network, "linear")
        if len(linear) < 2 or layers[-1] is not linear[-1]:
            raise FormatMismatchError("it is not a sequence of linear layers")
        shapes = [layer.weight.shape for layer in linear]
        _check_chain(linear, [s[1] for s in shapes], [s[0] for s in shapes])
        modules = _Stack(options, flat=True)
        for layer in layers:
            if layer.kind == "linear":
                width, fan_in = layer.weight.shape
                modules.add(layer, nn.Linear(fan_in, width, bias=layer.has_bias))
            else:
                modules.normalize(layer)
        side, channels = square_shape(shapes[-1][0], options)
        inputs = shapes[0][1]
        split = _Inputs(inputs, embedding, options)
        to_image = nn.Unflatten(1, (channels, side, side))
        generator = split.generator(
            [*modules.finish(), *signed_output(options), to_image], (inputs,)
        )
        return converted_generator(
            "Multilayer perceptron GAN",
            adapt_latent(generator, options),
            split.z_dim,
            square_image(side, channels),
            split.names,
            distribution=latent_distribution(options),
            details=[("layers", str(len(linear)))],
        )


class _Stack:
    """Collects layers with their normalizations, and the activations between them."""

    def __init__(self, options: Choices, *, flat: bool) -> None:
        self.options, self.flat = options, flat
        self.modules: list[nn.Module] = []
        self.last: Layer | None = None
        self.width = 0
        self.pending: nn.Module | None = None

    def add(self, layer: Layer, module: nn.Linear | nn.ConvTranspose2d) -> None:
        """Add a layer with weights, after the activation of the previous one."""
        self._activate()
        self.modules.append(load_layer(module, layer))
        self.width = module.out_features if isinstance(module, nn.Linear) else module.out_channels
        self.last, self.pending = layer, activation(self.options, "relu")

    def normalize(self, norm: Layer) -> None:
        """Add the normalization of the last layer, before or after its activation."""
        assert self.last is not None  # noqa: S101 - a sequence starts with a layer with weights
        if not normalizes_first(self.options, self.last, norm):
            self._activate()
        eps = self.options.number("norm_eps", "eps of batch normalization", 1e-5)
        layer = batch_norm_layer(norm, self.width, self.flat, eps)
        if self.pending is None and self.modules:
            # The exporter can fold a normalization only if it follows a layer with weights.
            layer = frozen_batch_norm(layer)
        self.modules.append(layer)

    def finish(self) -> list[nn.Module]:
        """Return all layers. The last one has no activation."""
        return self.modules

    def _activate(self) -> None:
        if self.pending is not None:
            self.modules.append(self.pending)
            self.pending = None


def square_shape(values: int, options: Choices) -> tuple[int, int]:
    """Return the side and the channels of a square image with `values` values.

    Raises FormatMismatchError, and ImportOptionError if `--side` or `--channels` do not fit.
    """
    fits = []
    for channels in (options.channels,) if options.channels else (1, 3, 4):
        side = math.isqrt(values // channels)
        if side * side * channels == values and options.side in (None, side) and side > 3:
            fits.append((side, channels))
    if fits:
        return fits[0]
    if options.channels or options.side:
        raise ImportOptionError(f"--side and --channels do not fit the {values} values of an image")
    raise FormatMismatchError(
        f"its last layer has {values} outputs, which do not form a square image"
    )
