"""The generator of lucidrains' lightweight-gan: FastGAN with attention, in ``model_N.pt``.

Liu et al. 2021, arXiv:2101.04775: upsampling blocks with gated linear units, and skip-layer
excitation (section 3.1), in which features of a low resolution weight the channels of a high one.

Attribute names of modules become weight names in exported graphs. Renaming one changes the files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.importers.formats.base import (
    ConvertedModel,
    Format,
    converted_generator,
    square_image,
    verify_shapes,
)
from training.importers.formats.layers import (
    FrozenBatchNorm,
    Tensors,
    convolution,
    expect_filter,
    transposed,
)
from training.importers.formats.noise.linear_attention import (
    ChannelNorm,
    LinearAttention,
    WindowAttention,
    channel_sum,
)
from training.importers.formats.noise.lucidrains import Blur
from training.importers.options import Choices
from training.importers.reading.weights import Network

_NOISE_SEED = 0
_EPS = 1e-5
# Skip-layer excitation: from the resolution whose features are pooled to the resolution whose
# channels are weighted, as log2 of each block's input side.
_EXCITATIONS = {3: 7, 4: 8, 5: 9, 6: 10}


def _frozen_norm(tensors: Tensors, path: str) -> FrozenBatchNorm:
    """Return the batch normalization at `path` with its running statistics."""
    scale = tensors[f"{path}.weight"] * torch.rsqrt(tensors[f"{path}.running_var"] + _EPS)
    shift = tensors[f"{path}.bias"] - tensors[f"{path}.running_mean"] * scale
    return FrozenBatchNorm(scale, shift)


class UpsampleBlock(nn.Module):
    """Maps ``[N, C, H, W]`` to ``[N, D, 2H, 2W]``: pixel shuffle, blur, convolution, noise, GLU."""

    noise: Tensor

    def __init__(self, tensors: Tensors, path: str, side: int) -> None:
        super().__init__()
        self.spread = convolution(tensors, f"{path}.0.net.0")
        self.blur = Blur()
        self.conv = convolution(tensors, f"{path}.2.1")
        kernel = self.conv.kernel_size[0]
        # With an even kernel, the padding before an axis is one pixel larger than after it.
        self.padding = 2 * (kernel // 2, kernel // 2 - 1) if kernel % 2 == 0 else (0, 0, 0, 0)
        rng = torch.Generator().manual_seed(_NOISE_SEED)
        noise = torch.randn(side, side, generator=rng) * tensors[f"{path}.3.weight"]
        self.register_buffer("noise", noise)
        self.norm = _frozen_norm(tensors, f"{path}.4")

    def forward(self, x: Tensor) -> Tensor:
        x = self.blur(F.pixel_shuffle(F.silu(self.spread(x)), 2))
        x = self.conv(F.pad(x, self.padding)) + self.noise
        return F.glu(self.norm(x), dim=1)


class SkipLayerExcitation(nn.Module):
    """Maps ``[N, C, H, W]`` to channel weights ``[N, D, 1, 1]`` in (0, 1) for a later layer.

    Features are pooled by attention or, if the file contains its frequencies, by a discrete cosine
    transform (FcaNet, Qin et al. 2021, arXiv:2012.11879).
    """

    frequencies: Tensor | None

    def __init__(self, tensors: Tensors, path: str) -> None:
        super().__init__()
        self.register_buffer("frequencies", tensors.get(f"{path}.dct_weights"))
        self.key = None if self.frequencies is not None else convolution(tensors, f"{path}.to_k")
        self.narrow = convolution(tensors, f"{path}.net.0")
        self.widen = convolution(tensors, f"{path}.net.2")

    def forward(self, x: Tensor) -> Tensor:
        if self.frequencies is not None:
            terms = (x * self.frequencies).flatten(2)
            # A matrix product instead of a sum: ONNX Runtime computes its rows independently of
            # the batch size, bit for bit.
            pooled = terms @ terms.new_ones((terms.shape[2], 1))
        else:
            assert self.key is not None  # noqa: S101 - for the type checker
            attention = self.key(x).flatten(2).softmax(dim=2)
            pooled = x.flatten(2) @ attention.transpose(1, 2)
        weights: Tensor = self.widen(F.leaky_relu(self.narrow(pooled[..., None]), 0.1))
        return weights.sigmoid()


class AttentionBlock(nn.Module):
    """Linear attention (`far`) and 3×3 local attention (`near`).

    Their concatenation is projected and added to the input.
    """

    def __init__(self, tensors: Tensors, path: str) -> None:
        super().__init__()
        self.norm = ChannelNorm(tensors, f"{path}.norm")
        self.far = LinearAttention(tensors, f"{path}.fn.to_lin_q", f"{path}.fn.to_lin_kv")
        self.near = WindowAttention(tensors, f"{path}.fn.to_q", f"{path}.fn.to_kv")
        self.out = convolution(tensors, f"{path}.fn.to_out")

    def forward(self, x: Tensor) -> Tensor:
        normalized = self.norm(x)
        attended = torch.cat([self.far(normalized), self.near(normalized)], dim=1)
        outputs: Tensor = x + self.out(attended)
        return outputs


class LightweightGenerator(nn.Module):
    """Maps ``z`` [N, Z] to images ``[N, C, H, W]`` in [-1, 1]."""

    def __init__(self, tensors: Tensors, layers: int) -> None:
        super().__init__()
        self.begin = transposed(tensors, "initial_conv.0")
        self.norm = _frozen_norm(tensors, "initial_conv.1")
        self.attention, self.doubling = nn.ModuleList(), nn.ModuleList()
        self.excitation = nn.ModuleDict()
        for i in range(layers):
            path = f"layers.{i}"
            has_attention = f"{path}.2.norm.g" in tensors
            self.attention.append(
                AttentionBlock(tensors, f"{path}.2") if has_attention else nn.Identity()
            )
            self.doubling.append(UpsampleBlock(tensors, f"{path}.0", 8 * 2**i))
            if f"{path}.1.net.0.weight" in tensors:
                self.excitation[str(i)] = SkipLayerExcitation(tensors, f"{path}.1")
        self.last = convolution(tensors, "out_conv")

    def forward(
        self,
        z: Tensor,
        class_weights: Tensor | None = None,  # noqa: ARG002 - the interface of generators
    ) -> Tensor:
        x = F.glu(self.norm(self.begin(z[:, :, None, None])), dim=1)
        x = x / channel_sum(x.square()).sqrt().clamp(min=1e-12)
        weights: dict[int, Tensor] = {}
        for i, (attention, doubling) in enumerate(zip(self.attention, self.doubling, strict=True)):
            x = doubling(attention(x))
            log2_side = i + 2
            if str(i) in self.excitation:
                weights[_EXCITATIONS[log2_side]] = self.excitation[str(i)](x)
            if log2_side + 1 in weights:
                x = x * weights[log2_side + 1]
        images: Tensor = 2 * self.last(x) - 1
        return images


class LightweightGan(Format):
    """The averaged generator in a checkpoint of lightweight-gan."""

    name = "lightweight-gan"
    title = "lightweight-gan (lucidrains)"
    origin = "lucidrains/lightweight-gan (MIT)"
    required_keys = (
        r"GE\.initial_conv\.0\.weight",
        r"GE\.layers\.0\.0\.0\.net\.0\.weight",
        r"GE\.layers\.0\.0\.1\.f",
        r"GE\.layers\.0\.0\.2\.1\.weight",
        r"GE\.layers\.0\.0\.4\.running_mean",
        r"GE\.out_conv\.weight",
    )
    published = "SiLU, zero padding, images from 0 to 1, z from a normal distribution"
    unneeded: ClassVar[Mapping[str, str]] = {
        r"G\..*": "weights before averaging",
        r"D\w*\..*": "discriminator",
    }

    def convert(self, network: Network, options: Choices) -> ConvertedModel:  # noqa: ARG002 - the tensors determine everything
        """Build the network. Raises FormatMismatchError."""
        tensors = network.within("GE").tensors.floats()
        expect_filter(tensors, r"layers\.\d+\.0\.1\.f", (1, 2, 1))
        layers = 1 + max(
            int(found.group(1))
            for name in tensors
            if (found := re.match(r"layers\.(\d+)\.0\.0\.net\.0\.weight", name))
        )
        return verify_shapes(_convert(tensors, layers))


def _convert(tensors: Tensors, layers: int) -> ConvertedModel:
    generator = LightweightGenerator(tensors, layers)
    resolutions = [
        f"{4 * 2**i}×{4 * 2**i}"
        for i, attention in enumerate(generator.attention)
        if isinstance(attention, AttentionBlock)
    ]
    return converted_generator(
        "FastGAN (lightweight-gan)",
        generator,
        tensors["initial_conv.0.weight"].shape[0],
        square_image(4 * 2**layers, tensors["out_conv.weight"].shape[0]),
        details=[
            ("attention at", ", ".join(resolutions) or "no resolution"),
            ("skip-layer excitations", str(len(generator.excitation))),
        ],
        notes=["The noise has a fixed seed, so that an image depends only on its latent."],
    )
