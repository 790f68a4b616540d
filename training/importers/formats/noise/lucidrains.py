"""The StyleGAN2 generator of lucidrains' stylegan2-pytorch, in ``model_N.pt``.

Differences from the paper (Karras et al. 2019, arXiv:1912.04958): all layers of a block share one
style, the learning rate is not equalized, upsampling is bilinear, there are attention layers, and
images are in [0, 1].

Attribute names of modules become weight names in exported graphs. Renaming one changes the files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from service.runtime.models.parts.latent import LatentSpace, Truncation
from training.export.graphs import generator_graph_specs, style_space
from training.importers.errors import FormatMismatchError
from training.importers.formats.base import (
    ConvertedModel,
    Format,
    rows_to_check,
    square_image,
    verify_shapes,
)
from training.importers.formats.layers import (
    Tensors,
    convolution,
    expect_filter,
    linear,
    transposed,
)
from training.importers.formats.noise.linear_attention import ChannelNorm, LinearAttention
from training.importers.options import Assumption, Choices
from training.importers.reading.weights import Network
from training.networks.noise.style_generator import StyleGenerator

_NOISE_SEED = 0
# The library's default for `lr_mlp`.
_MAPPING_RATE = 0.1


class LatentMapping(nn.Module):
    """The mapping network: maps ``z`` [N, Z] to ``w`` [N, Z].

    Activations are scaled by `rate`, the learning rate relative to the other networks.
    """

    def __init__(self, tensors: Tensors, rate: float) -> None:
        super().__init__()
        numbers = sorted(
            int(found.group(1))
            for name in tensors
            if (found := re.fullmatch(r"net\.(\d+)\.weight", name))
        )
        self.layers = nn.ModuleList(linear(tensors, f"net.{number}") for number in numbers)
        self.rate = rate

    def forward(
        self,
        z: Tensor,
        class_index: Tensor | None = None,  # noqa: ARG002 - the interface of mapping networks
    ) -> Tensor:
        # A matrix product instead of a sum: ONNX Runtime computes its rows independently of the
        # batch size, bit for bit.
        length = (z.square() @ z.new_ones((z.shape[1], 1))).sqrt()
        w = z / length.clamp(min=1e-12)
        for layer in self.layers:
            w = F.leaky_relu(layer(w) * self.rate, 0.2)
        return w


class ModulatedConv(nn.Module):
    """A modulated convolution of ``[N, C, H, W]`` by ``w`` [N, W] (section 2.2 of the paper).

    Input channels are scaled by 1 + style.
    """

    weight: Tensor

    def __init__(self, tensors: Tensors, style: str, weight: str, *, demodulates: bool) -> None:
        super().__init__()
        self.style = linear(tensors, style)
        self.register_buffer("weight", tensors[f"{weight}.weight"])
        self.demodulates = demodulates

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        style = self.style(w) + 1
        x = x * style[:, :, None, None]
        x = F.conv2d(x, self.weight, padding=self.weight.shape[2] // 2)
        if self.demodulates:
            norm_squared = style.square() @ self.weight.square().sum((2, 3)).t()
            x = x * torch.rsqrt(norm_squared + 1e-8)[:, :, None, None]
        return x


class StyledConv(nn.Module):
    """Modulated convolution, noise and bias, LeakyReLU."""

    noise: Tensor
    strength: Tensor
    bias: Tensor

    def __init__(self, tensors: Tensors, path: str, number: int, noise: Tensor) -> None:
        super().__init__()
        self.conv = ModulatedConv(
            tensors, f"{path}.to_style{number}", f"{path}.conv{number}", demodulates=True
        )
        strength = tensors[f"{path}.to_noise{number}.weight"][:, 0]
        bias = tensors[f"{path}.to_noise{number}.bias"]
        self.register_buffer("strength", strength[:, None, None])
        self.register_buffer("bias", bias[:, None, None])
        self.register_buffer("noise", noise)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = self.conv(x, w) + (self.noise * self.strength + self.bias)
        return F.leaky_relu(x, 0.2)


class AttentionBlock(nn.Module):
    """Linear attention, then two 1×1 convolutions; each has a skip connection."""

    def __init__(self, tensors: Tensors, path: str) -> None:
        super().__init__()
        self.look_norm = ChannelNorm(tensors, f"{path}.0.fn.norm")
        look = f"{path}.0.fn.fn"
        self.look = LinearAttention(tensors, f"{look}.to_q", f"{look}.to_kv")
        self.look_out = convolution(tensors, f"{look}.to_out")
        self.norm = ChannelNorm(tensors, f"{path}.1.fn.norm")
        self.widen = convolution(tensors, f"{path}.1.fn.fn.0")
        self.narrow = convolution(tensors, f"{path}.1.fn.fn.2")

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.look_out(self.look(self.look_norm(x)))
        outputs: Tensor = x + self.narrow(F.leaky_relu(self.widen(self.norm(x)), 0.2))
        return outputs


class Blur(nn.Module):
    """Filters by [1, 2, 1] / 4 along both axes, with reflection padding."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("kernel", taps[:, None] * taps / 16, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
        return F.conv2d(padded, self.kernel.expand(channels, 1, 3, 3), groups=channels)


class LucidrainsSynthesis(nn.Module):
    """Maps styles ``w`` [N, blocks, W] to images ``[N, C, H, W]`` in [-1, 1]."""

    constant: Tensor | None

    def __init__(self, tensors: Tensors) -> None:
        super().__init__()
        count = 1 + max(
            int(found.group(1))
            for name in tensors
            if (found := re.match(r"blocks\.(\d+)\.conv1\.weight", name))
        )
        self.layer_resolutions = [4 * 2**i for i in range(count)]
        side = self.layer_resolutions[-1]
        rng = torch.Generator().manual_seed(_NOISE_SEED)
        noise = torch.rand(side, side, generator=rng)
        self.begin: nn.Module | None = None
        self.first = convolution(tensors, "initial_conv")
        constant = None
        if "initial_block" in tensors:
            with torch.no_grad():
                constant = self.first(tensors["initial_block"])
        else:
            self.begin = transposed(tensors, "to_initial_block")
        self.register_buffer("constant", constant)
        self.attention, self.grow, self.refine = (nn.ModuleList() for _ in range(3))
        self.to_image = nn.ModuleList()
        self.blur = Blur()
        for i, size in enumerate(self.layer_resolutions):
            path = f"blocks.{i}"
            # The library crops one noise image to each resolution, and transposes it.
            cropped = noise[:size, :size].t().contiguous()
            self.grow.append(StyledConv(tensors, path, 1, cropped))
            self.refine.append(StyledConv(tensors, path, 2, cropped))
            self.to_image.append(
                ModulatedConv(
                    tensors, f"{path}.to_rgb.to_style", f"{path}.to_rgb.conv", demodulates=False
                )
            )
            has_attention = f"attns.{i}.0.fn.norm.g" in tensors
            self.attention.append(
                AttentionBlock(tensors, f"attns.{i}") if has_attention else nn.Identity()
            )

    def forward(self, w: Tensor) -> Tensor:
        if self.constant is not None:
            x = self.constant.expand(w.shape[0], -1, -1, -1)
        else:
            assert self.begin is not None  # noqa: S101 - for the type checker
            x = self.first(self.begin(w.mean(1)[:, :, None, None]))
        image: Tensor | None = None
        last = len(self.layer_resolutions) - 1
        stages = zip(self.attention, self.grow, self.refine, self.to_image, strict=True)
        for i, (attention, grow, refine, to_image) in enumerate(stages):
            x = attention(x)
            x = _upsample(x) if i else x
            x = refine(grow(x, w[:, i]), w[:, i])
            contribution = to_image(x, w[:, i])
            image = contribution if image is None else contribution + image
            image = self.blur(_upsample(image)) if i < last else image
        assert image is not None  # noqa: S101 - for the type checker
        return 2 * image - 1


def _upsample(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class LucidrainsStyleGan2(Format):
    """The averaged networks in a checkpoint of stylegan2-pytorch."""

    name = "stylegan2-lucidrains"
    title = "StyleGAN2 (lucidrains)"
    origin = "lucidrains/stylegan2-pytorch (MIT)"
    required_keys = (
        r"SE\.net\.0\.weight",
        r"GE\.initial_conv\.weight",
        r"GE\.(initial_block|to_initial_block\.weight)",
        r"GE\.blocks\.0\.to_style1\.weight",
        r"GE\.blocks\.0\.to_noise1\.weight",
        r"GE\.blocks\.0\.to_rgb\.conv\.weight",
    )
    published = (
        "LeakyReLU(0.2), bilinear upsampling, images from 0 to 1, z from a normal distribution"
    )
    unneeded: ClassVar[Mapping[str, str]] = {
        r"(S|G)\..*": "weights before averaging",
        r"D\w*\..*": "discriminator",
    }

    def convert(self, network: Network, options: Choices) -> ConvertedModel:
        """Build the network. Raises FormatMismatchError."""
        return verify_shapes(self._convert(network, options))

    def _convert(self, network: Network, options: Choices) -> ConvertedModel:
        styles, tensors = (network.within(part).tensors.floats() for part in ("SE", "GE"))
        expect_filter(tensors, r"blocks\.\d+\.to_rgb\.upsample\.1\.f", (1, 2, 1))
        if unknown := _unknown_attention(tensors):
            raise FormatMismatchError(
                f"its attention layers are from an unsupported version (tensor {unknown})"
            )
        rate = options.config.get("lr_mlp")
        options.note(
            Assumption(
                "config",
                "lr_mlp of the mapping network",
                str(_MAPPING_RATE if rate is None else rate),
                "assumed" if rate is None else "configuration",
            )
        )
        mapping = LatentMapping(
            styles, float(rate if isinstance(rate, float | int) else _MAPPING_RATE)
        )
        synthesis = LucidrainsSynthesis(tensors)
        z_dim = styles["net.0.weight"].shape[1]
        generator = StyleGenerator(mapping, synthesis, z_dim).eval()
        side = synthesis.layer_resolutions[-1]
        channels = tensors["blocks.0.to_rgb.conv.weight"].shape[0]
        attention = [
            f"{resolution}×{resolution}"
            for resolution, block in zip(
                synthesis.layer_resolutions, synthesis.attention, strict=True
            )
            if isinstance(block, AttentionBlock)
        ]
        notes = [
            "The noise has a fixed seed, so that an image depends only on its latent.",
            "The average w is not in the file; it was estimated from 10,000 latents.",
        ]
        return ConvertedModel(
            summary="StyleGAN2",
            task="generate",
            graph_specs=generator_graph_specs(generator, z_dim, rows=rows_to_check(side)),
            image=square_image(side, channels),
            details=[
                ("z", str(z_dim)),
                ("styles", str(generator.layers)),
                ("images", f"{side}×{side}×{channels}"),
                ("attention in the blocks of", ", ".join(attention) or "no resolution"),
            ],
            notes=notes,
            latent=LatentSpace(dimension=z_dim, truncation=Truncation()),
            styles=style_space(generator),
        )


def _unknown_attention(tensors: Tensors) -> str | None:
    """Return the name of an attention tensor that the supported version does not have."""
    known = r"attns\.\d+\.(0\.fn\.(norm|fn)|1\.fn\.(norm|fn))\..*"
    return next((n for n in tensors if n.startswith("attns.") and not re.match(known, n)), None)
