"""BigGAN and BigGAN-deep in the layout of BigGAN-PyTorch.

Brock, Donahue, Simonyan 2018, arXiv:1809.11096. SAGAN and SNGAN from the same project are also
supported. In those networks, every normalization has a table of gains and biases by class. In
BigGAN, all blocks share one class embedding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from service.runtime.latent.seeds import Distribution
from training.importers.errors import FormatMismatchError
from training.importers.formats.base import (
    LATENT,
    ConvertedModel,
    Format,
    class_names,
    converted_generator,
    square_image,
    verify_shapes,
)
from training.importers.formats.noise.class_conditional import (
    BlockCondition,
    ClassConditionalGenerator,
    LayerBuilder,
    LayerNames,
    TruncatedLatent,
    count_stages,
    freeze_batch_norms,
    uses_standing_statistics,
)
from training.importers.options import Choices, Source
from training.importers.reading.tensor_table import TensorTable
from training.importers.reading.weights import Network

_STATISTICS = (
    ("stored_mean", "stored_var"),
    ("bn.stored_mean", "bn.stored_var"),
    ("running_mean", "running_var"),
    ("bn.running_mean", "bn.running_var"),
)
_ATTENTION = ("theta", "phi", "g", "o", "gamma")
_PLAIN = LayerNames(
    norms=("bn1", "bn2"),
    convolutions=("conv1", "conv2"),
    skip="conv_sc",
    statistics=_STATISTICS,
    gain="gain",
    bias="bias",
    attention=_ATTENTION,
    affine=("gain", "bias"),
)
_DEEP = LayerNames(
    norms=("bn1", "bn2", "bn3", "bn4"),
    convolutions=("conv1", "conv2", "conv3", "conv4"),
    skip="conv_sc",
    statistics=_STATISTICS,
    gain="gain",
    bias="bias",
    attention=_ATTENTION,
    affine=("gain", "bias"),
)


class BigGan(Format):
    """BigGAN, SAGAN and SNGAN, with or without a chunk of z for each block."""

    name = "biggan-pytorch"
    title = "BigGAN (BigGAN-PyTorch)"
    origin = "ajbrock/BigGAN-PyTorch (MIT)"
    required_keys: ClassVar[tuple[str, ...]] = (
        r"linear\.weight",
        r"blocks\.0\.0\.bn1\.gain\.weight",
        r"blocks\.0\.0\.bn1\.(bn\.)?(stored|running)_mean",
        r"blocks\.0\.0\.conv2\.weight",
        r"blocks\.0\.0\.conv_sc\.weight",
        r"output_layer\.0\.gain",
        r"output_layer\.2\.weight",
    )
    published = "ReLU, zero padding, nearest-neighbor upsampling, tanh at the end"
    unneeded: ClassVar[Mapping[str, str]] = {
        r".*\.(u|sv)[1-9]\d*": "estimates of further singular values"
    }
    names = _PLAIN

    def convert(self, network: Network, options: Choices) -> ConvertedModel:
        """Build the generator. The shapes determine image size, widths and chunks."""
        return verify_shapes(self._convert(network.tensors.floats(), options))

    def _convert(self, tensors: TensorTable, options: Choices) -> ConvertedModel:
        shared = tensors.get("shared.weight")
        if shared is None:
            tensors = _with_transposed_class_tables(tensors)
        condition = tensors["blocks.0.0.bn1.gain.weight"].shape[1]
        classes = condition if shared is None else shared.shape[0]
        build = LayerBuilder(tensors, self.names)
        first = build.linear("linear")
        width = tensors["blocks.0.0.conv1.weight"].shape[1]
        paths = block_paths(tensors)
        blocks, stages, count = self._blocks(build, paths, options)
        conditioning, z_dim = self._conditioning(first, condition, shared, count)
        norm = build.norm("output_layer.0", affine=True, eps=1e-5)
        generator = ClassConditionalGenerator(
            first,
            blocks,
            build.to_images(norm, "output_layer.2"),
            shared,
            conditioning,
            width,
            classes,
        )
        side = generator.start[1] * 2**stages
        channels = tensors["output_layer.2.weight"].shape[0]
        attention = describe_attention(paths, tensors, "theta.weight", side, stages, count)
        return converted_class_conditional(
            self.title.partition(" (")[0],
            generator,
            z_dim,
            (side, channels),
            options,
            classes,
            [
                ("latent", "in chunks" if conditioning == "chunks" else "whole"),
                ("attention at", attention),
            ],
            distribution=class_conditional_latent(options),
        )

    def _blocks(
        self,
        build: LayerBuilder,
        paths: Sequence[str],
        options: Choices,  # noqa: ARG002 - BigGAN-deep needs it
    ) -> tuple[list[nn.Module], int, int]:
        """Return all blocks, and the numbers of upsampling and of conditioned blocks."""
        has_attention = [f"{path}.theta.weight" in build.tensors for path in paths]
        blocks: list[nn.Module] = [
            build.attention(path) if attention else build.block(path)
            for path, attention in zip(paths, has_attention, strict=True)
        ]
        residual = has_attention.count(False)
        return blocks, residual, residual

    def _conditioning(
        self, first: nn.Linear, condition: int, shared: Tensor | None, blocks: int
    ) -> tuple[BlockCondition, int]:
        """Return what the blocks are conditioned on and the dimension of z."""
        chunk = condition - (condition if shared is None else shared.shape[1])
        if chunk == 0:
            return "class", first.in_features
        if chunk == first.in_features:
            return "chunks", chunk * (blocks + 1)
        raise FormatMismatchError(
            f"its normalizations take {condition} values; expected a chunk of z and a class "
            "embedding"
        )


class BigGanDeep(BigGan):
    """BigGAN-deep."""

    name = "biggan-deep-pytorch"
    title = "BigGAN-deep (BigGAN-PyTorch)"
    required_keys = (
        r"shared\.weight",
        r"linear\.weight",
        r"blocks\.0\.0\.bn4\.gain\.weight",
        r"blocks\.0\.0\.bn4\.(bn\.)?(stored|running)_mean",
        r"blocks\.0\.0\.conv4\.weight",
        r"output_layer\.0\.gain",
        r"output_layer\.2\.weight",
    )
    names = _DEEP

    def _blocks(
        self, build: LayerBuilder, paths: Sequence[str], options: Choices
    ) -> tuple[list[nn.Module], int, int]:
        return build_bottlenecks(build, paths, options.side, "theta.weight")

    def _conditioning(
        self,
        first: nn.Linear,
        condition: int,
        shared: Tensor | None,
        blocks: int,  # noqa: ARG002 - BigGAN needs it
    ) -> tuple[BlockCondition, int]:
        assert shared is not None  # noqa: S101 - for the type checker
        if first.in_features != condition:
            raise FormatMismatchError(
                f"its first layer takes {first.in_features} values, its normalizations take "
                f"{condition}; expected equal numbers"
            )
        return "whole", condition - shared.shape[1]


def build_bottlenecks(
    build: LayerBuilder, paths: Sequence[str], side: int | None, attention: str
) -> tuple[list[nn.Module], int, int]:
    """Return all blocks, the number of stages, and the number of bottleneck blocks.

    Each stage doubles the side. `attention` is the name, relative to a block's path, of a tensor
    that only attention layers have. Raises ImportOptionError.
    """
    names = build.names.convolutions
    residual = [path for path in paths if f"{path}.{attention}" not in build.tensors]
    shapes = [
        (
            build.tensors[f"{path}.{names[0]}.weight"].shape[1],
            build.tensors[f"{path}.{names[-1]}.weight"].shape[0],
        )
        for path in residual
    ]
    stages = count_stages(len(residual), side, 4, [a != b for a, b in shapes])
    depth = len(residual) // stages
    blocks: list[nn.Module] = []
    for path in paths:
        if path in residual:
            last = (residual.index(path) + 1) % depth == 0
            blocks.append(build.bottleneck(path, doubles=last))
        else:
            blocks.append(build.attention(path))
    return blocks, stages, len(residual)


def block_paths(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the paths of all blocks in order, for example ``blocks.0.0``, ``blocks.0.1``."""
    indices = {
        (int(match.group(1)), int(match.group(2)))
        for name in tensors
        if (match := re.match(r"blocks\.(\d+)\.(\d+)\.", name))
    }
    return [f"blocks.{i}.{j}" for i, j in sorted(indices)]


def describe_attention(
    paths: Sequence[str],
    tensors: Mapping[str, Tensor],
    attention: str,
    side: int,
    stages: int,
    blocks: int,
) -> str:
    """Return the resolutions of the attention layers as text, such as ``32×32, 64×64``.

    `side` is the side of the generated images, and `blocks` the number of blocks in all `stages`.
    """
    depth, preceding, resolutions = blocks // stages, 0, []
    for path in paths:
        if f"{path}.{attention}" in tensors:
            resolutions.append(side * 2 ** (preceding // depth) // 2**stages)
        else:
            preceding += 1
    return ", ".join(f"{each}×{each}" for each in resolutions) or "no resolution"


def converted_class_conditional(
    summary: str,
    generator: ClassConditionalGenerator,
    z_dim: int,
    image: tuple[int, int],
    options: Choices,
    classes: int,
    details: Sequence[tuple[str, str]],
    notes: Sequence[str] = (),
    distribution: Distribution = "normal",
    *,
    truncates: bool = True,
) -> ConvertedModel:
    """Return the converted model of a class-conditional generator.

    `image` is the side and the number of channels. Batch normalization uses the statistics of the
    file or, with `--statistics standing`, standing statistics for several truncations. With
    `truncates`, the truncation scales z, as in the sampling code of the format's authors.
    """
    module: nn.Module = generator.eval()
    if classes == 1:
        module = SingleClassGenerator(generator)
    standing = uses_standing_statistics(options)
    if not standing:
        module = freeze_batch_norms(module)
        module = TruncatedLatent(module) if truncates else module
    statistics_note = (
        "Batch normalization uses standing statistics, computed for several truncations."
        if standing
        else "Batch normalization uses the statistics of the file; --statistics standing computes "
        "them again, for several truncations."
    )
    truncation_note = ["The truncation scales z."] if truncates or standing else []
    return converted_generator(
        summary,
        module,
        z_dim,
        square_image(*image),
        class_names(classes, options) if classes > 1 else (),
        distribution,
        details=details,
        notes=[statistics_note, *truncation_note, *notes],
        truncates=truncates and not standing,
    )


def class_conditional_latent(
    options: Choices, default: str = "normal", source: Source = "assumed"
) -> Distribution:
    """Return the distribution of z of a class-conditional generator. Raises ImportOptionError."""
    name = options.one_of("latent", LATENT, default, ("normal", "uniform"), source)
    return "normal" if name == "normal" else "uniform"


class SingleClassGenerator(nn.Module):
    """Wraps a class-conditional generator with a single class as an unconditional generator."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(
        self,
        z: Tensor,
        class_weights: Tensor | None = None,  # noqa: ARG002 - the interface of generators
        standing: Tensor | None = None,
    ) -> Tensor:
        images: Tensor = self.generator(z, torch.ones_like(z[:, :1]), standing)
        return images


def _with_transposed_class_tables(tensors: TensorTable) -> TensorTable:
    """Transpose gains and biases ``[classes, C]`` to weights of linear layers."""
    table = re.compile(r"blocks\..*\.bn\d\.(gain|bias)\.weight")
    return tensors.map(lambda name, each: each.t().contiguous() if table.fullmatch(name) else each)
