"""BigGAN-deep as Hugging Face's pytorch-pretrained-BigGAN has it: DeepMind's ImageNet generators.

Each normalisation holds statistics for 51 truncations from 0 to 1. A truncation scales the latent,
a truncated normal, and picks the statistics.
"""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor, nn

from training.importers.formats.base import (
    ConvertedModel,
    Format,
    UserOptions,
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
from training.importers.reading.spectral_norm import fold_spectral_norm
from training.importers.reading.weights import Network

# The library's own, where no configuration says another.
_EPS = 1e-4
# How near a value between two statistics may come to one of them and count as it.
_NEAR = 1e-3
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
    """Batch normalisation by a row's shares ``[N, K]`` of ``means`` and ``variances`` [K, C]."""

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
    """A generator whose truncation scales the latent and picks the statistics of a table."""

    def __init__(self, generator: nn.Module, held: int) -> None:
        super().__init__()
        self.generator, self.held = generator, held

    def forward(self, z: Tensor, class_weights: Tensor, truncation: Tensor) -> Tensor:
        standing = table_weights(truncation, self.held)
        images: Tensor = self.generator(z * truncation[:, None], class_weights, standing)
        return images


def table_weights(truncation: Tensor, held: int) -> Tensor:
    """Return the shares ``[N, held]`` of the statistics that truncations ``[N]`` come to.

    Those held are of truncations in equal steps from 0 to 1. Between two of them the library gives
    the one below the share that the one above is due, and so do we: it is pictures of that library
    that an imported model is to make. A step is 0.02, so none could see the difference.
    """
    position = truncation * (held - 1)
    below = torch.floor(position + _NEAR)
    passed = position - below
    exact = passed < _NEAR
    index = torch.arange(held, dtype=truncation.dtype, device=truncation.device)
    here = (index == below[:, None]).to(truncation.dtype)
    above = (index == below[:, None] + 1).to(truncation.dtype)
    lower = torch.where(exact, torch.ones_like(passed), passed)
    return here * lower[:, None] + above * (1 - lower)[:, None]


class _TableLayerBuilder(LayerBuilder):
    eps = _EPS

    def norm(
        self,
        path: str,
        *,
        affine: bool = False,
        eps: float | None = None,  # noqa: ARG002 - one for all
    ) -> nn.Module:
        """Return a normalisation with statistics by truncation."""
        t = self.tensors
        return TableBatchNorm2d(
            t[f"{path}.running_means"],
            t[f"{path}.running_vars"],
            self.eps,
            t[f"{path}.weight"] if affine else None,
            t[f"{path}.bias"] if affine else None,
        )


class PretrainedBigGan(Format):
    """BigGAN-deep with statistics by truncation."""

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

    def convert(self, network: Network, options: UserOptions) -> ConvertedModel:
        """Build the generator: sides and widths are in the shapes. Raises FormatMismatchError."""
        return verify_shapes(self._convert(fold_spectral_norm(network.tensors), options))

    def _convert(self, tensors: dict[str, Tensor], options: UserOptions) -> ConvertedModel:
        embedding = tensors["embeddings.weight"].t().contiguous()
        classes, embedded = embedding.shape
        z_dim = tensors["generator.gen_z.weight"].shape[1] - embedded
        tensors = _arranged(tensors, z_dim)
        build = _TableLayerBuilder(tensors, _NAMES)
        eps = options.config.get("eps")
        build.eps = eps if isinstance(eps, float) else _EPS
        paths = [f"blocks.{i}.0" for i in sorted(_numbers(tensors))]
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
        held = tensors["bn.running_means"].shape[0]
        side = generator.start[1] * 2**stages
        where = describe_attention(
            paths, tensors, _NAMES.attention[0] + ".weight", side, stages, count
        )
        return converted_generator(
            "BigGAN-deep",
            TableTruncatedGenerator(generator, held),
            z_dim,
            square_image(side, 3),
            class_names(classes, options),
            "truncated-normal",
            details=[("attention at", where), ("statistics", f"of {held} truncations")],
            notes=[
                "The latent of a seed is the library's truncated_noise_sample(seed=…), cut at two "
                "standard deviations; the truncation scales it in the graph."
            ],
            truncates=True,
        )


def _numbers(tensors: dict[str, Tensor]) -> set[int]:
    return {int(m.group(1)) for n in tensors if (m := re.match(r"blocks\.(\d+)\.", n))}


def _arranged(tensors: dict[str, Tensor], z_dim: int) -> dict[str, Tensor]:
    """Return the generator's tensors in the order of axes that our blocks have.

    The class stands before the latent; the first layer makes channels, then rows; the last has
    three outputs, where the library makes as many as it takes and looks at three.
    """
    made = {}
    for name, value in tensors.items():
        inner, tensor = name.removeprefix("generator."), value
        if inner == name:
            continue
        if re.search(r"(^gen_z|\.scale|\.offset)\.weight$", inner):
            tensor = torch.cat([tensor[:, z_dim:], tensor[:, :z_dim]], dim=1)
        if inner.startswith("gen_z."):
            width = tensors["generator.layers.0.conv_0.weight"].shape[1]
            side = math.isqrt(len(tensor) // width)
            tensor = tensor.reshape(side, side, width, -1).permute(2, 0, 1, 3).flatten(0, 2)
            tensor = tensor.squeeze(1) if inner.endswith("bias") else tensor
        if inner.startswith("conv_to_rgb."):
            tensor = tensor[:3]
        made[re.sub(r"^layers\.(\d+)\.", r"blocks.\1.0.", inner)] = tensor.contiguous()
    return made
