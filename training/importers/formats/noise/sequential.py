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

from training.importers.errors import Unsaid, Unsuitable
from training.importers.formats.base import (
    Format,
    Rebuilt,
    UserOptions,
    class_names,
    generating,
    latent,
    square,
    with_latent,
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


def activation(said: UserOptions, usual: str) -> nn.Module:
    """Return the activation between layers: what was said, else the format's. Raises Unsaid."""
    name = said.activation or usual
    if name not in ACTIVATIONS:
        raise Unsaid(f"--activation {name}: it is one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def last_steps(said: UserOptions) -> list[nn.Module]:
    """Return what brings the last layer's values to [-1, 1]. Raises Unsaid."""
    if said.output in (None, "tanh"):
        return [nn.Tanh()]
    if said.output == "sigmoid":
        return [nn.Sigmoid(), Rescaled()]
    raise Unsaid(f"--output {said.output}: it is tanh or sigmoid")


class Rescaled(nn.Module):
    """[0, 1] to [-1, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x - 1


def copy_into(module: nn.Module, layer: Layer) -> nn.Module:
    """Put a layer's tensors into a module that was built for them. Raises Unsuitable."""
    weights = {n: t.float() for n, t in layer.tensors.items() if n != "num_batches_tracked"}
    try:
        done = module.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise Unsuitable(f"{layer.path} has other shapes than expected") from error
    left = [name for name in done.missing_keys if name != "num_batches_tracked"]
    if left or done.unexpected_keys:
        raise Unsuitable(f"{layer.path} has other tensors than expected")
    return module


def normalised(layer: Layer, width: int, flat: bool, eps: float = 1e-5) -> nn.Module:
    """Return the batch normalisation that a layer's tensors are. Raises Unsuitable."""
    if "running_mean" not in layer.tensors:
        raise Unsuitable(f"{layer.path} normalises without running statistics")
    affine = "weight" in layer.tensors
    kind = nn.BatchNorm1d if flat else nn.BatchNorm2d
    return copy_into(kind(width, eps=eps, affine=affine), layer)


class DcganChain(Format):
    """Transposed convolutions from 1×1, each of which doubles the side."""

    name = "dcgan"
    by_order = True
    title = "DCGAN"
    origin = "PyTorch's DCGAN example (BSD-3), Radford et al. 2015"
    keys = (r"(.+\.)?\w+\.weight",)
    others = (r".*(label_emb|embed|RDB|rdb\d|prelu).*",)

    def rebuild(self, network: Network, said: UserOptions) -> Rebuilt:
        """Build the chain."""
        found = known_layers(network)
        convolutions = [layer for layer in found if layer.kind == "convolution"]
        if len(convolutions) < 3 or found[0] is not convolutions[0]:
            raise Unsuitable("it is no chain of transposed convolutions")
        for one, after in pairwise(convolutions):
            if one.weight.shape[1] != after.weight.shape[0]:
                raise Unsuitable(f"{after.path} does not take what {one.path} gives")
        built: list[nn.Module] = []
        side = 0
        for layer in found:
            if layer.kind == "convolution":
                fan_in, width, size, _ = layer.weight.shape
                first = layer is convolutions[0]
                if not first:
                    if size != 4:
                        raise Unsuitable(f"{layer.path} has a kernel of {size}, and 4 is known")
                    if isinstance(built[-1], (nn.ConvTranspose2d, nn.BatchNorm2d)):
                        built.append(activation(said, "relu"))
                side = size if first else 2 * side
                step = (1, 0) if first else (2, 1)
                built.append(
                    copy_into(
                        nn.ConvTranspose2d(fan_in, width, size, *step, bias=layer.bias is not None),
                        layer,
                    )
                )
            elif layer.kind in ("norm", "statistics"):
                built.append(normalised(layer, width, flat=False))
            else:
                raise Unsuitable(f"{layer.path} is no layer of a DCGAN")
        channels = convolutions[-1].weight.shape[1]
        built += last_steps(said)
        taken = convolutions[0].weight.shape[0]
        classes = said.classes or 0
        if not 0 <= classes < taken:
            raise Unsaid(f"--classes {classes}: the first layer takes {taken} values with them")
        chain = Chain(nn.Sequential(*built), (taken, 1, 1), classes=bool(classes))
        names = class_names(classes, said) if classes else ()
        return generating(
            "DCGAN",
            with_latent(chain, said),
            taken - classes,
            square(side, channels),
            names,
            distribution=latent(said),
            told=[("layers", str(len(convolutions)))],
        )


class MlpChain(Format):
    """Linear layers, the last of which gives the pixels."""

    name = "mlp"
    by_order = True
    title = "Perceptron"
    origin = "the original GAN, Goodfellow et al. 2014, as most tutorials write it"
    keys = (r"(.+\.)?\w+\.weight", r"(.+\.)?\w+\.bias")
    others = (r".*(label_emb|embed).*",)

    def rebuild(self, network: Network, said: UserOptions) -> Rebuilt:
        """Build the chain."""
        found = known_layers(network)
        linear = [layer for layer in found if layer.kind == "linear"]
        if len(linear) < 2 or found[0] is not linear[0] or found[-1] is not linear[-1]:
            raise Unsuitable("it is no chain of linear layers")
        for one, after in pairwise(linear):
            if one.weight.shape[0] != after.weight.shape[1]:
                raise Unsuitable(f"{after.path} does not take what {one.path} gives")
        built: list[nn.Module] = []
        for layer in found:
            if layer.kind == "linear":
                if built:
                    built.append(activation(said, "relu"))
                width, fan_in = layer.weight.shape
                linear_layer = nn.Linear(fan_in, width, bias=layer.bias is not None)
                built.append(copy_into(linear_layer, layer))
            elif layer.kind in ("norm", "statistics"):
                built.append(normalised(layer, width, flat=True))
            else:
                raise Unsuitable(f"{layer.path} is no layer of a perceptron")
        side, channels = picture_of(linear[-1].weight.shape[0], said)
        taken = linear[0].weight.shape[1]
        classes = said.classes or 0
        if not 0 <= classes < taken:
            raise Unsaid(f"--classes {classes}: the first layer takes {taken} values with them")
        steps = nn.Sequential(*built, *last_steps(said), nn.Unflatten(1, (channels, side, side)))
        names = class_names(classes, said) if classes else ()
        return generating(
            "GAN of perceptrons",
            with_latent(Chain(steps, (taken,), classes=bool(classes)), said),
            taken - classes,
            square(side, channels),
            names,
            distribution=latent(said),
            told=[("layers", str(len(linear)))],
            notes=[
                f"Between the layers stands {said.activation or 'relu'}, which no tensor tells; "
                "where samples are noisy, try --activation leaky_relu."
            ],
        )


def picture_of(values: int, said: UserOptions) -> tuple[int, int]:
    """Return the side and the channels of pictures of so many values. Raises Unsuitable, Unsaid."""
    for channels in (said.channels,) if said.channels else (1, 3, 4):
        side = math.isqrt(values // channels)
        if side * side * channels == values and said.side in (None, side) and side > 3:
            return side, channels
    if said.channels or said.side:
        raise Unsaid(f"--side and --channels do not make {values} values")
    raise Unsuitable(f"its last layer gives {values} values, which are no square picture")
