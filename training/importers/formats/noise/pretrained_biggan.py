"""BigGAN-deep in the layout of Hugging Face's pytorch-pretrained-BigGAN.

These are DeepMind's ImageNet generators. Each batch normalization has statistics for 51 truncations
from 0 to 1. The latent is drawn from a truncated normal distribution. The truncation scales the
latent and selects the statistics.
"""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor, nn

from training.importers.formats.base import (
    ConvertedModel,
    Format,
    class_names,
    converted_generator,
    square_image,
    verify_shapes,
)
from training.importers.formats.noise.biggan import build_bottlenecks, describe_attention
from training.importers.formats.noise.class_conditional import (
    ClassConditionalGenerator,
    LayerBuilder,
    LayerNames,
)
from training.importers.options import Choices
from training.importers.reading.tensor_table import TensorTable
from training.importers.reading.weights import Network

# The library's default.
_EPS = 1e-4
# A truncation within this distance of a row, in steps of the table, selects that row only.
_TOLERANCE = 1e-3
_NAMES = LayerNames(
    norms=("bn_0", "bn_1", "bn_2", "bn_3"),
    convolutions=("conv_0", "conv_1", "conv_2", "conv_3"),
    skip="conv_sc",
    statistics=(("running_means", "running_vars"),),
    gain="scale",
    bias="offset",
    attention=(
        "snconv1x1_theta",
        "snconv1x1_phi",
        "snconv1x1_g",
        "snconv1x1_o_conv",
        "gamma",
    ),
    eps=_EPS,
)


class TableBatchNorm2d(nn.Module):
    """Batch normalization with a table of ``means`` and ``variances``, [K, C] each.

    ``standing`` [N, K] contains the interpolation weights of the table's rows for each image.
    """

    means: Tensor
    variances: Tensor

    def __init__(
        self, means: Tensor, variances: Tensor, eps: float, gain: Tensor | None, bias: Tensor | None
    ) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("means", means)
        self.register_buffer("variances", variances)
        self.gain: Tensor | None
        self.bias: Tensor | None
        self.register_buffer("gain", gain)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor, standing: Tensor) -> Tensor:
        scale = torch.rsqrt(standing @ self.variances + self.eps)
        shift = -(standing @ self.means) * scale
        if self.gain is not None and self.bias is not None:
            scale, shift = scale * self.gain, shift * self.gain + self.bias
        return x * scale[:, :, None, None] + shift[:, :, None, None]


class TableTruncatedGenerator(nn.Module):
    """Scales the latent by the truncation, and interpolates between statistics in a table."""

    def __init__(self, generator: nn.Module, truncations: int) -> None:
        super().__init__()
        self.generator, self.truncations = generator, truncations

    def forward(self, z: Tensor, class_weights: Tensor, truncation: Tensor) -> Tensor:
        standing = table_weights(truncation, self.truncations)
        images: Tensor = self.generator(z * truncation[:, None], class_weights, standing)
        return images


def table_weights(truncation: Tensor, count: int) -> Tensor:
    """Return the interpolation weights ``[N, count]`` of truncations ``[N]``.

    The table has `count` rows, for truncations in equal steps from 0 to 1. Between two rows, the
    library swaps the two interpolation weights. This function reproduces that error, so that an
    imported model generates the same images. With steps of 0.02 the difference is not visible.
    """
    position = truncation * (count - 1)
    below = torch.floor(position + _TOLERANCE)
    fraction = position - below
    exact = fraction < _TOLERANCE
    index = torch.arange(count, dtype=truncation.dtype, device=truncation.device)
    is_lower = (index == below[:, None]).to(truncation.dtype)
    is_upper = (index == below[:, None] + 1).to(truncation.dtype)
    lower = torch.where(exact, torch.ones_like(fraction), fraction)
    return is_lower * lower[:, None] + is_upper * (1 - lower)[:, None]


class _TableLayerBuilder(LayerBuilder):
    eps = _EPS

    def norm(
        self,
        path: str,
        *,
        affine: bool = False,
        eps: float | None = None,  # noqa: ARG002 - all layers share `self.eps`
    ) -> nn.Module:
        """Return a batch normalization with a table of statistics."""
        tensors = self.tensors
        return TableBatchNorm2d(
            tensors[f"{path}.running_means"],
            tensors[f"{path}.running_vars"],
            self.eps,
            tensors[f"{path}.weight"] if affine else None,
            tensors[f"{path}.bias"] if affine else None,
        )


class PretrainedBigGan(Format):
    """BigGAN-deep with batch normalization statistics for each truncation."""

    name = "pytorch-pretrained-biggan"
    title = "BigGAN-deep (pytorch-pretrained-BigGAN)"
    origin = "huggingface/pytorch-pretrained-BigGAN (MIT), weights by DeepMind"
    required_keys = (
        r"embeddings\.weight",
        r"generator\.gen_z\.weight(_orig)?",
        r"generator\.layers\.0\.bn_0\.running_means",
        r"generator\.layers\.0\.bn_0\.scale\.weight(_orig)?",
        r"generator\.layers\.0\.conv_3\.weight(_orig)?",
        r"generator\.bn\.running_vars",
        r"generator\.conv_to_rgb\.weight(_orig)?",
    )
    published = "ReLU, zero padding, nearest-neighbor upsampling, tanh at the end"

    def convert(self, network: Network, options: Choices) -> ConvertedModel:
        """Build the generator from the shapes of the tensors. Raises FormatMismatchError."""
        return verify_shapes(self._convert(network.tensors.floats(), options))

    def _convert(self, tensors: TensorTable, options: Choices) -> ConvertedModel:
        embedding = tensors["embeddings.weight"].t().contiguous()
        classes, embedded = embedding.shape
        z_dim = tensors["generator.gen_z.weight"].shape[1] - embedded
        tensors = _rearrange(tensors, z_dim)
        build = _TableLayerBuilder(tensors, _NAMES)
        eps = options.config.get("eps")
        build.eps = eps if isinstance(eps, float) else _EPS
        paths = [f"blocks.{i}.0" for i in sorted(_block_indices(tensors))]
        blocks, stages, count = build_bottlenecks(
            build, paths, options.side, _NAMES.attention[0] + ".weight"
        )
        width = tensors["blocks.0.0.conv_0.weight"].shape[1]
        generator = ClassConditionalGenerator(
            build.linear("gen_z"),
            blocks,
            build.to_images(build.norm("bn", affine=True), "conv_to_rgb"),
            embedding,
            "whole",
            width,
        ).eval()
        truncations = tensors["bn.running_means"].shape[0]
        side = generator.start[1] * 2**stages
        attention = describe_attention(
            paths, tensors, _NAMES.attention[0] + ".weight", side, stages, count
        )
        return converted_generator(
            "BigGAN-deep",
            TableTruncatedGenerator(generator, truncations),
            z_dim,
            square_image(side, 3),
            class_names(classes, options),
            "truncated-normal",
            details=[("attention at", attention), ("statistics", f"for {truncations} truncations")],
            notes=[
                "The latents equal the library's truncated_noise_sample(seed=…), truncated at two "
                "standard deviations; the graph scales them by the truncation."
            ],
            truncates=True,
        )


def _block_indices(tensors: TensorTable) -> set[int]:
    return {int(m.group(1)) for n in tensors if (m := re.match(r"blocks\.(\d+)\.", n))}


def _rearrange(tensors: TensorTable, z_dim: int) -> TensorTable:
    """Return the generator's tensors with the names and axis order of `ClassConditionalGenerator`.

    In conditions, the class comes before the latent. In the outputs of the first layer, channels
    come before rows. The last layer keeps the three outputs that the library does not discard.
    """
    rearranged = []
    inside = tensors.within("generator")
    for inner in inside:
        tensor = inside.peek(inner)
        assert tensor is not None  # noqa: S101 - for the type checker
        if re.search(r"(^gen_z|\.scale|\.offset)\.weight$", inner):
            tensor = torch.cat([tensor[:, z_dim:], tensor[:, :z_dim]], dim=1)
        if inner.startswith("gen_z."):
            width = tensors["generator.layers.0.conv_0.weight"].shape[1]
            side = math.isqrt(len(tensor) // width)
            tensor = tensor.reshape(side, side, width, -1).permute(2, 0, 1, 3).flatten(0, 2)
            tensor = tensor.squeeze(1) if inner.endswith("bias") else tensor
        if inner.startswith("conv_to_rgb."):
            tensor = tensor[:3]
        name = re.sub(r"^layers\.(\d+)\.", r"blocks.\1.0.", inner)
        rearranged.append((name, (inner,), tensor.contiguous()))
    return inside.derive(rearranged)
