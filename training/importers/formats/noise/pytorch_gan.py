"""The convolutional generator of PyTorch-GAN and many tutorials.

A linear layer generates a small feature map. Each stage doubles its side by nearest-neighbor
interpolation, and applies a convolution and batch normalization. The class embedding is
concatenated to the noise or multiplied with it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from training.importers.errors import FormatMismatchError
from training.importers.formats.activations import activation, signed_output, upsampling
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
from training.importers.formats.noise.sequential import batch_norm_layer, class_comes_last
from training.importers.options import Choices
from training.importers.reading.weights import Layer, Network, layers

# PyTorch-GAN passes 0.8 to BatchNorm2d as its second argument, which is eps, not the momentum.
_EPS = 0.8


class UpsamplingGenerator(nn.Module):
    """Maps ``z`` [N, Z], and class weights if there are classes, to images in [-1, 1]."""

    embedding: Tensor | None

    def __init__(
        self,
        first: nn.Module,
        blocks: nn.Sequential,
        start: tuple[int, int, int],
        embedding: Tensor | None,
        *,
        multiplied: bool,
        z_first: bool = True,
    ) -> None:
        super().__init__()
        self.first, self.blocks, self.start = first, blocks, start
        self.multiplied, self.z_first = multiplied, z_first
        self.register_buffer("embedding", embedding)

    def forward(self, z: Tensor, class_weights: Tensor | None = None) -> Tensor:
        x = z
        if self.embedding is not None and class_weights is not None:
            embedded = class_weights @ self.embedding
            parts = [z, embedded] if self.z_first else [embedded, z]
            x = embedded * z if self.multiplied else torch.cat(parts, 1)
        images: Tensor = self.blocks(self.first(x).reshape(x.shape[0], *self.start))
        return images


class PyTorchGan(Format):
    """The layout with the layers ``l1``, ``conv_blocks`` and, for classes, ``label_emb``."""

    name = "pytorch-gan"
    title = "PyTorch-GAN generator (l1, conv_blocks)"
    origin = "PyTorch-GAN's dcgan, cgan and acgan (MIT), and many derived projects"
    required_keys = (r"l1\.0\.weight", r"conv_blocks\.0\.running_mean", r"conv_blocks\.\d+\.weight")
    published = "batch normalization before the activations, convolutions that keep the size"

    def convert(self, network: Network, options: Choices) -> ConvertedModel:
        """Build the generator. Each convolution except the last is preceded by upsampling."""
        by_path = {layer.path: layer for layer in layers(network)}
        first = by_path["l1.0"]
        blocks = [layer for path, layer in by_path.items() if path.startswith("conv_blocks.")]
        convolutions = [layer for layer in blocks if layer.kind == "convolution"]
        if len(convolutions) < 2 or blocks[0].kind != "norm":
            raise FormatMismatchError("conv_blocks is not a sequence of upsampling blocks")
        width, values = convolutions[0].weight.shape[1], first.weight.shape[0]
        start = math.isqrt(values // width)
        if start * start * width != values:
            raise FormatMismatchError("the outputs of l1.0 are not a square feature map")
        modules = self._modules(blocks, convolutions, options)
        table = by_path.get("label_emb") or by_path.get("label_embedding")
        embedding = None if table is None else table.tensors["weight"].float()
        inputs = first.weight.shape[1]
        multiplied = embedding is not None and embedding.shape[1] == inputs
        z_dim = inputs
        if embedding is not None and not multiplied:
            z_dim = inputs - embedding.shape[1]
        if z_dim < 1:
            raise FormatMismatchError("the class embedding is larger than the input of l1.0")
        z_first = True
        if embedding is not None and not multiplied:
            z_first = class_comes_last(options, "after")
        generator = UpsamplingGenerator(
            load_layer(nn.Linear(inputs, values, bias=first.has_bias), first),
            nn.Sequential(*modules, *signed_output(options)),
            (width, start, start),
            embedding,
            multiplied=multiplied,
            z_first=z_first,
        )
        stages = len(convolutions) - 1
        names = () if embedding is None else class_names(embedding.shape[0], options)
        return converted_generator(
            "Convolutional GAN",
            adapt_latent(generator, options),
            z_dim,
            square_image(start * 2**stages, convolutions[-1].weight.shape[0]),
            names,
            distribution=latent_distribution(options),
            details=[("upsampling stages", str(stages))],
        )

    def _modules(
        self, blocks: list[Layer], convolutions: list[Layer], options: Choices
    ) -> list[nn.Module]:
        modules: list[nn.Module] = []
        width = convolutions[0].weight.shape[1]
        eps = options.number(
            "norm_eps", "eps of the normalizations after convolutions", _EPS, (_EPS, 1e-5)
        )
        for layer in blocks:
            if layer.kind == "convolution":
                if layer is not convolutions[0]:
                    modules.append(activation(options, "leaky_relu"))
                if layer is not convolutions[-1]:
                    modules.append(upsampling(options))
                width, fan_in, kernel, _ = layer.weight.shape
                module = nn.Conv2d(fan_in, width, kernel, padding=kernel // 2, bias=layer.has_bias)
                modules.append(load_layer(module, layer))
            elif layer.kind == "norm":
                if layer is blocks[0]:
                    # The exporter can fold a normalization only if it follows a convolution.
                    modules.append(frozen_batch_norm(batch_norm_layer(layer, width, flat=False)))
                else:
                    modules.append(batch_norm_layer(layer, width, flat=False, eps=eps))
            else:
                raise FormatMismatchError(f"unexpected layer {layer.path} in an upsampling block")
        return modules
