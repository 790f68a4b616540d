"""Residual generators with class-conditional normalization, built from the tensors of a file.

BigGAN and its variants use the blocks of `training.networks`. The layouts differ in the tensor
names and in the condition of the blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.importers.errors import FormatMismatchError, ImportOptionError
from training.importers.formats.layers import (
    FrozenBatchNorm,
    Tensors,
    assign_weights,
    convolution,
    linear,
    transposed,
)
from training.importers.options import Choices
from training.networks.layers.batch_norm import BatchNorm2d, ConditionalBatchNorm2d, apply_norm
from training.networks.layers.conditioning import select_class_rows
from training.networks.layers.resampling import upsample_nearest
from training.networks.noise.biggan import BlockUp
from training.networks.noise.biggan_deep import BottleneckUp
from training.networks.noise.biggan_layers import SelfAttention, ToImages

# The condition of a block: a chunk of z and the class; all of z and the class; or the class only.
BlockCondition = Literal["chunks", "whole", "class"]


@dataclass(frozen=True)
class LayerNames:
    """The tensor names of a layout in blocks, normalizations and attention layers."""

    norms: tuple[str, ...]
    convolutions: tuple[str, ...]
    skip: str
    # The known pairs of names for the mean and variance of a normalization.
    statistics: tuple[tuple[str, str], ...]
    gain: str
    bias: str
    # Query, key, value, output and strength.
    attention: tuple[str, str, str, str, str]
    # Gain and bias of an unconditional normalization.
    affine: tuple[str, str] = ("weight", "bias")
    eps: float = 1e-5


class ClassConditionalGenerator(nn.Module):
    """Maps ``z`` [N, Z] and class weights ``[N, classes]`` to images ``[N, C, H, W]``.

    The images are in [-1, 1].
    """

    embedding: Tensor | None

    def __init__(
        self,
        first: nn.Linear,
        blocks: Sequence[nn.Module],
        last: nn.Module,
        embedding: Tensor | None,
        conditioning: BlockCondition,
        width: int,
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.first, self.last, self.classes = first, last, classes
        self.blocks = nn.ModuleList(blocks)
        self.conditioning = conditioning
        self.start = (width, *(2 * [math.isqrt(first.out_features // width)]))
        if math.prod(self.start) != first.out_features:
            raise FormatMismatchError("the outputs of its first layer are not a square feature map")
        self.register_buffer("embedding", embedding)

    def forward(
        self, z: Tensor, class_weights: Tensor | None = None, standing: Tensor | None = None
    ) -> Tensor:
        """Return images. `standing` [N, K] are interpolation weights of standing statistics.

        `class_weights` can be class indices ``[N] int64``.
        """
        label = class_weights
        if label is not None and self.embedding is not None:
            label = select_class_rows(self.embedding, label)
        elif label is not None and not label.is_floating_point():
            label = F.one_hot(label, self.classes).to(z.dtype)
        conditions: list[Tensor | None]
        conditional = sum(not isinstance(block, SelfAttention) for block in self.blocks)
        if self.conditioning == "chunks":
            first, *chunks = torch.split(z, self.first.in_features, dim=1)
            conditions = [_concat(label, chunk) for chunk in chunks]
        elif self.conditioning == "whole":
            first = _concat(label, z)
            conditions = [first] * conditional
        else:
            first, conditions = z, [label] * conditional
        x = self.first(first).reshape(-1, *self.start)
        remaining = iter(conditions)
        for block in self.blocks:
            x = (
                block(x)
                if isinstance(block, SelfAttention)
                else block(x, next(remaining), standing)
            )
        images: Tensor = self.last(x, standing)
        return images


def _concat(label: Tensor | None, z: Tensor) -> Tensor:
    """Concatenate the class and a latent, in the order of most implementations."""
    return z if label is None else torch.cat([label, z], dim=1)


class TruncatedLatent(nn.Module):
    """Scales each row's latent by its truncation, without changing the statistics."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor, class_weights: Tensor | None, truncation: Tensor) -> Tensor:
        images: Tensor = self.generator(z * truncation[:, None], class_weights)
        return images


class UnconditionalNorm(nn.Module):
    """Batch normalization with the interface of a conditional one. Ignores the condition."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(
        self,
        x: Tensor,
        condition: Tensor | None,  # noqa: ARG002 - the interface of conditional ones
        standing: Tensor | None = None,
    ) -> Tensor:
        return apply_norm(self.norm, x, standing)


class ConvSkipBottleneckUp(BottleneckUp):
    """A bottleneck block with a 1×1 convolution as its skip connection, as in StudioGAN."""

    skip_conv: nn.Module

    def skip(self, x: Tensor) -> Tensor:
        """Return the output of the skip connection."""
        skipped: Tensor = self.skip_conv(upsample_nearest(x) if self.doubles else x)
        return skipped


class UpsampleConv(nn.Module):
    """A transposed convolution that doubles the side, conditional normalization and ReLU."""

    def __init__(self, grow: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.grow, self.norm = grow, norm

    def forward(
        self, x: Tensor, condition: Tensor | None, standing: Tensor | None = None
    ) -> Tensor:
        return F.relu(self.norm(self.grow(x), condition, standing))


class ConvOutput(nn.Module):
    """An output layer without normalization: a convolution and tanh."""

    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(
        self,
        x: Tensor,
        standing: Tensor | None = None,  # noqa: ARG002 - the interface of output layers
    ) -> Tensor:
        return torch.tanh(self.convolution(x))


class LayerBuilder:
    """Builds modules from tensors whose spectral normalization has been folded.

    All methods raise KeyError for a missing tensor.
    """

    def __init__(self, tensors: Tensors, names: LayerNames) -> None:
        self.tensors, self.names = tensors, names

    def linear(self, path: str) -> nn.Linear:
        """Return a linear layer."""
        return linear(self.tensors, path)

    def convolution(self, path: str) -> nn.Conv2d:
        """Return a convolution that keeps the image size."""
        return convolution(self.tensors, path)

    def norm(self, path: str, *, affine: bool = False, eps: float | None = None) -> nn.Module:
        """Return a batch normalization, with gain and bias if `affine` is True."""
        for mean, variance in self.names.statistics:
            if f"{path}.{mean}" in self.tensors:
                means, variances = (
                    self.tensors[f"{path}.{mean}"],
                    self.tensors[f"{path}.{variance}"],
                )
                break
        else:
            raise FormatMismatchError(f"{path} has no statistics for its batch normalization")
        counter = self.tensors.get(f"{path}.bn.accumulation_counter")
        if counter is not None and counter.item() > 0:
            # Standing statistics are stored as sums over batches.
            means, variances = means / counter, variances / counter
        norm = BatchNorm2d(len(means), eps or self.names.eps, affine=affine, device="meta")
        norm.running_mean, norm.running_var = means.clone(), variances.clone()
        norm.num_batches_tracked = torch.tensor(0)
        if affine:
            gain, bias = (self.tensors[f"{path}.{name}"] for name in self.names.affine)
            assign_weights(norm, gain, bias)
        return norm

    def conditional(self, path: str) -> nn.Module:
        """Return a conditional normalization, or an unconditional one if the file has one."""
        gain, bias = f"{path}.{self.names.gain}", f"{path}.{self.names.bias}"
        if f"{gain}.weight" not in self.tensors:
            return UnconditionalNorm(self.norm(path, affine=True))
        with torch.device("meta"):
            block = ConditionalBatchNorm2d(1, 1)
        block.norm = self.norm(path)  # type: ignore[assignment]
        block.gain, block.bias = self.linear(gain), self.linear(bias)
        return block

    def block(self, path: str) -> BlockUp:
        """Return a residual block that doubles the side."""
        grow, refine = self.names.convolutions[:2]
        with torch.device("meta"):
            block = BlockUp(1, 1, 1)
        block.norm_in = self.conditional(f"{path}.{self.names.norms[0]}")  # type: ignore[assignment]
        block.norm_out = self.conditional(f"{path}.{self.names.norms[1]}")  # type: ignore[assignment]
        block.grow, block.refine = (self.convolution(f"{path}.{name}") for name in (grow, refine))
        block.skip = self.convolution(f"{path}.{self.names.skip}")
        return block

    def bottleneck(self, path: str, *, doubles: bool) -> BottleneckUp:
        """Return a bottleneck block. Its skip connection is a convolution if the file has one."""
        first, last = (self.tensors[f"{path}.{self.names.convolutions[i]}.weight"] for i in (0, -1))
        has_skip_conv = f"{path}.{self.names.skip}.weight" in self.tensors
        block_class = ConvSkipBottleneckUp if has_skip_conv else BottleneckUp
        with torch.device("meta"):
            block = block_class(first.shape[1], last.shape[0], 1, doubles=doubles)
        if isinstance(block, ConvSkipBottleneckUp):
            block.skip_conv = self.convolution(f"{path}.{self.names.skip}")
        elif last.shape[0] > first.shape[1]:
            raise FormatMismatchError(
                f"{path} has more outputs than inputs, but no convolution as its skip connection"
            )
        parts = ("norm_in", "norm_grow", "norm_refine", "norm_out")
        for part, name in zip(parts, self.names.norms, strict=True):
            setattr(block, part, self.conditional(f"{path}.{name}"))
        parts = ("narrow", "grow", "refine", "widen")
        for part, name in zip(parts, self.names.convolutions, strict=True):
            setattr(block, part, self.convolution(f"{path}.{name}"))
        return block

    def attention(self, path: str) -> SelfAttention:
        """Return a self-attention layer."""
        query, key, value, out, strength = self.names.attention
        with torch.device("meta"):
            block = SelfAttention(8)
        block.query, block.key = (
            self.convolution(f"{path}.{query}"),
            self.convolution(f"{path}.{key}"),
        )
        block.value, block.out = (
            self.convolution(f"{path}.{value}"),
            self.convolution(f"{path}.{out}"),
        )
        block.strength = nn.Parameter(self.tensors[f"{path}.{strength}"].reshape(()))
        return block

    def upsample_conv(self, path: str, layer: str, norm: str) -> UpsampleConv:
        """Return a transposed convolution that doubles the side, with its normalization."""
        kernel = self.tensors[f"{path}.{layer}.weight"].shape[2]
        if kernel != 4:
            raise FormatMismatchError(
                f"{path}.{layer} has a kernel of {kernel}; only 4 is supported"
            )
        grow = transposed(self.tensors, f"{path}.{layer}", 2, 1)
        return UpsampleConv(grow, self.conditional(f"{path}.{norm}"))

    def to_images(self, norm: nn.Module, path: str) -> ToImages:
        """Return the output layers of the generator."""
        with torch.device("meta"):
            block = ToImages(1, 1)
        block[0], block[2] = norm, self.convolution(path)
        return block


def freeze_batch_norms(generator: nn.Module) -> nn.Module:
    """Replace each batch normalization by one with fixed statistics."""
    for name, norm in list(generator.named_modules()):
        if isinstance(norm, BatchNorm2d):
            parent, _, child = name.rpartition(".")
            setattr(generator.get_submodule(parent), child, _frozen(norm))
    return generator


def _frozen(norm: BatchNorm2d) -> FrozenBatchNorm:
    assert norm.running_mean is not None and norm.running_var is not None  # noqa: S101, PT018
    scale = torch.rsqrt(norm.running_var + norm.eps)
    shift = -norm.running_mean * scale
    if norm.affine:
        scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
    return FrozenBatchNorm(scale, shift)


def uses_standing_statistics(options: Choices) -> bool:
    """True for `--statistics standing`. Raises ImportOptionError."""
    known = ("running", "standing")
    statistics = options.one_of("statistics", "statistics of batch normalization", "running", known)
    return statistics == "standing"


def count_stages(blocks: int, side: int | None, base: int, narrows: Sequence[bool]) -> int:
    """Return the number of stages of bottleneck blocks. The last block of each stage doubles.

    The default is two blocks per stage, unless `side`, the side of the images in pixels, implies
    another number. `narrows` lists, for each block, whether it has fewer outputs than inputs; only
    blocks that double the side can have fewer. Raises ImportOptionError if no number fits.
    """
    stages = blocks // 2
    if side is not None:
        stages = round(math.log2(side / base)) if side > base else 0
        if base * 2**stages != side or not stages or blocks % stages:
            raise ImportOptionError(
                f"--side {side}: {blocks} blocks that start at {base}×{base} cannot have this side"
            )
    depth = blocks // max(stages, 1)
    plausible = all((i + 1) % depth == 0 for i, narrow in enumerate(narrows) if narrow)
    if stages * depth != blocks or not stages or not plausible:
        raise ImportOptionError(
            f"the {blocks} blocks do not determine the side of the images: specify --side"
        )
    return stages
