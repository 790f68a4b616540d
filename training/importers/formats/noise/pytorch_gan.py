"""The class-conditional convolutional generator that many tutorials share.

A linear layer to a small picture, then doublings by nearest neighbour, each with a convolution and
batch normalisation; the class is embedded, and joined to the noise or multiplied with it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.importers.errors import FormatMismatchError
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
from training.importers.formats.noise.sequential import (
    activation,
    last_steps,
    load_layer,
    normalised,
)
from training.importers.reading.weights import Layer, Network, layers


class DoublingGenerator(nn.Module):
    """``z`` [N, Z], and class weights where there are classes, to pictures in [-1, 1]."""

    embedding: Tensor | None

    def __init__(
        self,
        first: nn.Module,
        blocks: nn.Sequential,
        start: tuple[int, int, int],
        embedding: Tensor | None,
        *,
        multiplied: bool,
    ) -> None:
        super().__init__()
        self.first, self.blocks, self.start = first, blocks, start
        self.multiplied = multiplied
        self.register_buffer("embedding", embedding)

    def forward(self, z: Tensor, class_weights: Tensor | None = None) -> Tensor:
        x = z
        if self.embedding is not None and class_weights is not None:
            embedded = class_weights @ self.embedding
            x = embedded * z if self.multiplied else torch.cat([z, embedded], 1)
        made: Tensor = self.blocks(self.first(x).reshape(x.shape[0], *self.start))
        return made


class Doubled(nn.Module):
    """Twice the side, by nearest neighbour."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0)


class Scaled(nn.Module):
    """Batch normalisation that no convolution stands before, as what it is once trained."""

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        assert isinstance(norm, nn.BatchNorm2d)  # noqa: S101 - for the type checker
        assert norm.running_mean is not None and norm.running_var is not None  # noqa: S101, PT018
        scale = norm.weight.detach() / torch.sqrt(norm.running_var + norm.eps)
        self.register_buffer("scale", scale[:, None, None])
        self.register_buffer(
            "shift", (norm.bias - norm.running_mean * scale).detach()[:, None, None]
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


class PyTorchGan(Format):
    """``l1``, ``conv_blocks``, and ``label_emb`` where it has classes."""

    name = "pytorch-gan"
    title = "Doubling generator (l1, conv_blocks)"
    origin = "PyTorch-GAN's dcgan, cgan and acgan (MIT), and their many relatives"
    required_keys = (r"l1\.0\.weight", r"conv_blocks\.0\.running_mean", r"conv_blocks\.\d+\.weight")

    def convert(self, network: Network, options: UserOptions) -> ConvertedModel:
        """Build the generator; each convolution but the last doubles the side before it."""
        found = {layer.path: layer for layer in layers(network)}
        first = found["l1.0"]
        blocks = [layer for path, layer in found.items() if path.startswith("conv_blocks.")]
        convolutions = [layer for layer in blocks if layer.kind == "convolution"]
        if len(convolutions) < 2 or blocks[0].kind != "norm":
            raise FormatMismatchError("conv_blocks are no doublings")
        width, values = convolutions[0].weight.shape[1], first.weight.shape[0]
        start = math.isqrt(values // width)
        if start * start * width != values:
            raise FormatMismatchError("l1.0 gives no square picture")
        built = self._blocks(blocks, convolutions, options)
        table = found.get("label_emb") or found.get("label_embedding")
        embedding = None if table is None else table.weight.float()
        taken = first.weight.shape[1]
        multiplied = embedding is not None and embedding.shape[1] == taken
        z_dim = taken
        if embedding is not None and not multiplied:
            z_dim = taken - embedding.shape[1]
        if z_dim < 1:
            raise FormatMismatchError("l1.0 takes fewer values than the class has")
        generator: nn.Module = DoublingGenerator(
            load_layer(nn.Linear(taken, values, bias=first.bias is not None), first),
            nn.Sequential(*built, *last_steps(options)),
            (width, start, start),
            embedding,
            multiplied=multiplied,
        )
        generator = adapt_latent(generator, options)
        side = start * 2 ** (len(convolutions) - 1)
        names = () if embedding is None else class_names(embedding.shape[0], options)
        return converted_generator(
            "GAN with doublings",
            generator,
            z_dim,
            square_image(side, convolutions[-1].weight.shape[0]),
            names,
            distribution=latent_distribution(options),
            details=[("doublings", str(len(convolutions) - 1))],
        )

    def _blocks(
        self, blocks: list[Layer], convolutions: list[Layer], options: UserOptions
    ) -> list[nn.Module]:
        built: list[nn.Module] = []
        width = convolutions[0].weight.shape[1]
        for layer in blocks:
            if layer.kind == "convolution":
                if layer is not convolutions[0]:
                    built.append(activation(options, "leaky_relu"))
                if layer is not convolutions[-1]:
                    built.append(Doubled())
                width, fan_in, size, _ = layer.weight.shape
                built.append(
                    load_layer(
                        nn.Conv2d(
                            fan_in, width, size, padding=size // 2, bias=layer.bias is not None
                        ),
                        layer,
                    )
                )
            elif layer.kind == "norm":
                # The original hands 0.8 to BatchNorm2d where it means momentum, and so sets eps.
                if layer is blocks[0]:
                    built.append(Scaled(normalised(layer, width, flat=False)))
                else:
                    built.append(normalised(layer, width, flat=False, eps=0.8))
            else:
                raise FormatMismatchError(f"{layer.path} is no layer of doublings")
        return built
