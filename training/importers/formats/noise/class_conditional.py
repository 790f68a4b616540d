"""Residual generators with class-conditional normalisation, built of the tensors of a file.

BigGAN and its relatives come under several names and in several arrangements. Their blocks are
those of `training.networks`; what differs is what a layout calls the tensors of a block, and how
latent and class reach it.
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
from training.importers.formats.base import UserOptions
from training.importers.formats.layers import (
    Tensors,
    assign_weights,
    convolution,
    linear,
    transposed,
)
from training.networks.layers.conditioning import select_class_rows
from training.networks.layers.resampling import upsample_nearest
from training.networks.noise.biggan import BlockUp
from training.networks.noise.biggan_deep import BottleneckUp
from training.networks.noise.biggan_layers import (
    BatchNorm2d,
    ConditionalBatchNorm2d,
    SelfAttention,
    ToImages,
    apply_norm,
)

# What tells a block its condition: a chunk of z of its own and the class, all of z and the class,
# or the class alone.
Arrangement = Literal["chunks", "whole", "class"]


@dataclass(frozen=True)
class Names:
    """What a layout calls the parts of its blocks, normalisations and attention."""

    norms: tuple[str, ...]
    convolutions: tuple[str, ...]
    skip: str
    # The statistics under a normalisation, as mean and variance, in each of the ways known.
    statistics: tuple[tuple[str, str], ...]
    gain: str
    bias: str
    # Query, key, value, output, strength.
    attention: tuple[str, str, str, str, str]
    # Gain and bias of a normalisation that is told no condition.
    affine: tuple[str, str] = ("weight", "bias")
    eps: float = 1e-5


class ClassConditionalGenerator(nn.Module):
    """``z`` [N, Z] and class weights ``[N, classes]`` to pictures ``[N, C, H, W]`` in [-1, 1]."""

    embedding: Tensor | None

    def __init__(
        self,
        first: nn.Linear,
        blocks: Sequence[nn.Module],
        last: nn.Module,
        embedding: Tensor | None,
        arrangement: Arrangement,
        width: int,
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.first, self.last, self.classes = first, last, classes
        self.blocks = nn.ModuleList(blocks)
        self.arrangement = arrangement
        self.start = (width, *(2 * [math.isqrt(first.out_features // width)]))
        if math.prod(self.start) != first.out_features:
            raise FormatMismatchError("its first layer gives no square picture")
        self.register_buffer("embedding", embedding)

    def forward(
        self, z: Tensor, class_weights: Tensor | None = None, standing: Tensor | None = None
    ) -> Tensor:
        """Make pictures; `standing` [N, K] is for standing statistics, where there are any.

        Classes ``[N] int64`` do for class weights.
        """
        label = class_weights
        if label is not None and self.embedding is not None:
            label = select_class_rows(self.embedding, label)
        elif label is not None and not label.is_floating_point():
            label = F.one_hot(label, self.classes).to(z.dtype)
        conditions: list[Tensor | None]
        conditional = sum(not isinstance(block, SelfAttention) for block in self.blocks)
        if self.arrangement == "chunks":
            begin, *chunks = torch.split(z, self.first.in_features, dim=1)
            conditions = [_behind(label, chunk) for chunk in chunks]
        elif self.arrangement == "whole":
            begin = _behind(label, z)
            conditions = [begin] * conditional
        else:
            begin, conditions = z, [label] * conditional
        x = self.first(begin).reshape(-1, *self.start)
        details = iter(conditions)
        for block in self.blocks:
            x = block(x) if isinstance(block, SelfAttention) else block(x, next(details), standing)
        images: Tensor = self.last(x, standing)
        return images


def _behind(label: Tensor | None, z: Tensor) -> Tensor:
    """Join the class and a latent, in the order in which most have them."""
    return z if label is None else torch.cat([label, z], dim=1)


class TruncatedLatent(nn.Module):
    """A generator whose latents are scaled by a truncation for each row, its statistics fixed."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor, class_weights: Tensor | None, truncation: Tensor) -> Tensor:
        images: Tensor = self.generator(z * truncation[:, None], class_weights)
        return images


class UnconditionalNorm(nn.Module):
    """Batch normalisation in the place of one that is told a condition."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(
        self,
        x: Tensor,
        condition: Tensor | None,  # noqa: ARG002 - as the conditional one has it
        standing: Tensor | None = None,
    ) -> Tensor:
        return apply_norm(self.norm, x, standing)


class FixedStatistics(nn.Module):
    """A batch normalisation with the statistics of the file, whatever is truncated."""

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: BatchNorm2d) -> None:
        super().__init__()
        assert norm.running_mean is not None and norm.running_var is not None  # noqa: S101, PT018
        scale = torch.rsqrt(norm.running_var + norm.eps)
        shift = -norm.running_mean * scale
        if norm.affine:
            scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
        self.register_buffer("scale", scale.detach()[:, None, None])
        self.register_buffer("shift", shift.detach()[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


class BottleneckUpByConvolution(BottleneckUp):
    """A bottleneck block whose skip is a 1×1 convolution, as StudioGAN writes one."""

    past: nn.Module

    def skip(self, x: Tensor) -> Tensor:
        """Return what is carried past the branch."""
        carried: Tensor = self.past(upsample_nearest(x) if self.doubles else x)
        return carried


class Doubling(nn.Module):
    """A transposed convolution that doubles, normalised, told the condition."""

    def __init__(self, grow: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.grow, self.norm = grow, norm

    def forward(
        self, x: Tensor, condition: Tensor | None, standing: Tensor | None = None
    ) -> Tensor:
        return F.relu(self.norm(self.grow(x), condition, standing))


class PlainEnd(nn.Module):
    """A generator's end without a normalisation: a convolution, and to [-1, 1]."""

    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(
        self,
        x: Tensor,
        standing: Tensor | None = None,  # noqa: ARG002 - as all ends have it
    ) -> Tensor:
        return torch.tanh(self.convolution(x))


class Builder:
    """Makes modules of a file's tensors, whose spectral normalisations are folded already.

    Raises KeyError for a tensor that is missing.
    """

    def __init__(self, tensors: Tensors, names: Names) -> None:
        self.tensors, self.names = tensors, names

    def linear(self, path: str) -> nn.Linear:
        """Return a linear layer."""
        return linear(self.tensors, path)

    def convolution(self, path: str) -> nn.Conv2d:
        """Return a convolution that keeps the size."""
        return convolution(self.tensors, path)

    def norm(self, path: str, *, affine: bool = False, eps: float | None = None) -> nn.Module:
        """Return a batch normalisation: of `affine` ones, gain and bias lie beside statistics."""
        for mean, variance in self.names.statistics:
            if f"{path}.{mean}" in self.tensors:
                means, variances = (
                    self.tensors[f"{path}.{mean}"],
                    self.tensors[f"{path}.{variance}"],
                )
                break
        else:
            raise FormatMismatchError(f"{path} has no statistics of batch normalisation")
        counter = self.tensors.get(f"{path}.bn.accumulation_counter")
        if counter is not None and counter.item() > 0:
            # Standing statistics are saved as sums over so many batches.
            means, variances = means / counter, variances / counter
        norm = BatchNorm2d(len(means), eps or self.names.eps, affine=affine, device="meta")
        norm.running_mean, norm.running_var = means.clone(), variances.clone()
        norm.num_batches_tracked = torch.tensor(0)
        if affine:
            gain, bias = (self.tensors[f"{path}.{name}"] for name in self.names.affine)
            assign_weights(norm, gain, bias)
        return norm

    def conditional(self, path: str) -> nn.Module:
        """Return a normalisation told its condition, or a plain one where that is what is there."""
        gain, bias = f"{path}.{self.names.gain}", f"{path}.{self.names.bias}"
        if f"{gain}.weight" not in self.tensors:
            return UnconditionalNorm(self.norm(path, affine=True))
        with torch.device("meta"):
            made = ConditionalBatchNorm2d(1, 1)
        made.norm = self.norm(path)  # type: ignore[assignment]
        made.gain, made.bias = self.linear(gain), self.linear(bias)
        return made

    def block(self, path: str) -> BlockUp:
        """Return a residual block that doubles."""
        one, two = self.names.convolutions[:2]
        with torch.device("meta"):
            made = BlockUp(1, 1, 1)
        made.norm_in = self.conditional(f"{path}.{self.names.norms[0]}")  # type: ignore[assignment]
        made.norm_out = self.conditional(f"{path}.{self.names.norms[1]}")  # type: ignore[assignment]
        made.grow, made.refine = (self.convolution(f"{path}.{name}") for name in (one, two))
        made.skip = self.convolution(f"{path}.{self.names.skip}")
        return made

    def bottleneck(self, path: str, *, doubles: bool) -> BottleneckUp:
        """Return a bottleneck block, with a convolution past it where the file has one."""
        first, last = (self.tensors[f"{path}.{self.names.convolutions[i]}.weight"] for i in (0, -1))
        by_convolution = f"{path}.{self.names.skip}.weight" in self.tensors
        kind = BottleneckUpByConvolution if by_convolution else BottleneckUp
        with torch.device("meta"):
            made = kind(first.shape[1], last.shape[0], 1, doubles=doubles)
        if isinstance(made, BottleneckUpByConvolution):
            made.past = self.convolution(f"{path}.{self.names.skip}")
        elif last.shape[0] > first.shape[1]:
            raise FormatMismatchError(f"{path} has more channels than it is given")
        parts = ("norm_in", "norm_grow", "norm_refine", "norm_out")
        for part, name in zip(parts, self.names.norms, strict=True):
            setattr(made, part, self.conditional(f"{path}.{name}"))
        parts = ("narrow", "grow", "refine", "widen")
        for part, name in zip(parts, self.names.convolutions, strict=True):
            setattr(made, part, self.convolution(f"{path}.{name}"))
        return made

    def attention(self, path: str) -> SelfAttention:
        """Return the attention of a picture to itself."""
        query, key, value, out, strength = self.names.attention
        with torch.device("meta"):
            made = SelfAttention(8)
        made.query, made.key = (
            self.convolution(f"{path}.{query}"),
            self.convolution(f"{path}.{key}"),
        )
        made.value, made.out = (
            self.convolution(f"{path}.{value}"),
            self.convolution(f"{path}.{out}"),
        )
        made.strength = nn.Parameter(self.tensors[f"{path}.{strength}"].reshape(()))
        return made

    def doubling(self, path: str, layer: str, norm: str) -> Doubling:
        """Return a transposed convolution that doubles, with its normalisation."""
        kernel = self.tensors[f"{path}.{layer}.weight"].shape[2]
        if kernel != 4:
            raise FormatMismatchError(f"{path}.{layer} has a kernel of {kernel}, and 4 is known")
        grow = transposed(self.tensors, f"{path}.{layer}", 2, 1)
        return Doubling(grow, self.conditional(f"{path}.{norm}"))

    def to_pictures(self, norm: nn.Module, path: str) -> ToImages:
        """Return the generator's end."""
        with torch.device("meta"):
            made = ToImages(1, 1)
        made[0], made[2] = norm, self.convolution(path)
        return made


def with_fixed_statistics(generator: nn.Module) -> nn.Module:
    """Put the statistics of the file in the place of each batch normalisation."""
    for name, norm in list(generator.named_modules()):
        if isinstance(norm, BatchNorm2d):
            parent, _, child = name.rpartition(".")
            setattr(generator.get_submodule(parent), child, FixedStatistics(norm))
    return generator


def standing(options: UserOptions) -> bool:
    """True if `--statistics standing` was given. Raises ImportOptionError."""
    if options.statistics not in (None, "running", "standing"):
        raise ImportOptionError(
            f"--statistics {options.statistics}: of a BigGAN it is running or standing"
        )
    return options.statistics == "standing"


def doublings(blocks: int, side: int | None, base: int, drops: Sequence[bool]) -> int:
    """Return how many stages so many bottleneck blocks are: the last of each stage doubles.

    Two a stage is what everyone has; `side` decides where it was said. `drops` tells which
    blocks have fewer channels than they are given, which only those that double may have.
    """
    stages = blocks // 2
    if side is not None:
        stages = round(math.log2(side / base)) if side > base else 0
        if base * 2**stages != side or not stages or blocks % stages:
            raise ImportOptionError(
                f"--side {side}: {blocks} blocks from {base}×{base} do not come to that"
            )
    depth = blocks // max(stages, 1)
    matches = all((i + 1) % depth == 0 for i, drop in enumerate(drops) if drop)
    if stages * depth != blocks or not stages or not matches:
        raise ImportOptionError(
            f"--side has to say how large the pictures of its {blocks} blocks are"
        )
    return stages
