"""The residual generator of CycleGAN and pix2pix, with any tensor names and number of blocks.

It is identified by the order of its convolutions: a 7×7 convolution, strided convolutions for
downsampling, pairs of equal shape (residual blocks), transposed convolutions for upsampling, and a
7×7 convolution (Zhu et al. 2017, arXiv:1703.10593, appendix 7.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from service.runtime.models.parts.inputs import ImageInput
from training.importers.errors import FormatMismatchError
from training.importers.formats.activations import (
    activation,
    output_activation,
    pad,
    padding,
    padding_mode,
    upsampling,
)
from training.importers.formats.base import (
    ConvertedModel,
    Format,
    converted_image_to_image,
    input_channels,
    input_side,
)
from training.importers.formats.image.normalization import UNUSED_STATISTICS, Normalizations
from training.importers.formats.layers import load_layer
from training.importers.options import Choices, Source
from training.importers.reading.weights import Layer, Network, known_layers


class Residual(nn.Module):
    """A skip connection: returns ``x + branch(x)``."""

    def __init__(self, branch: nn.Sequential) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.branch(x)
        return x + residual


class CycleGanResNet(Format):
    """CycleGAN's residual generator."""

    name = "cyclegan-resnet"
    by_layer_order = True
    title = "CycleGAN's residual generator"
    origin = "pytorch-CycleGAN-and-pix2pix (BSD-2), Zhu et al. 2017"
    required_keys = (r"(.+\.)?\w+\.weight", r"(.+\.)?\w+\.bias")
    excluded_keys = (r".*(label_emb|embed|rdb\d|RDB|prelu).*",)
    unneeded: ClassVar[Mapping[str, str]] = UNUSED_STATISTICS

    def convert(self, network: Network, options: Choices) -> ConvertedModel:
        """Build the generator."""
        groups = _with_norms(known_layers(network))
        first, last = groups[0][0], groups[-1][0]
        if first.weight.shape[2] != 7 or last.weight.shape[2] != 7:
            raise FormatMismatchError("expected 7×7 kernels in the first and last convolutions")
        build = _Builder(options, groups)
        channels, width = first.weight.shape[1], first.weight.shape[0]
        layers = [build.outer_padding(), *build.convolution(groups[0], 1, 0), build.activation()]
        position = 1
        halvings = 0
        while position < len(groups) and groups[position][0].weight.shape[:2] == (2 * width, width):
            width *= 2
            halvings += 1
            layers += [*build.downsampling(groups[position]), build.activation()]
            position += 1
        blocks = 0
        while position + 1 < len(groups) and _is_square(groups[position][0], width):
            pair = groups[position : position + 2]
            if not _is_square(pair[1][0], width):
                raise FormatMismatchError("its residual blocks are not pairs of convolutions")
            branch = [build.block_padding(pair[0][0]), *build.convolution(pair[0], 1, 0)]
            branch += [build.activation(), build.block_padding(pair[0][0])]
            branch += build.convolution(pair[1], 1, 0)
            layers.append(Residual(nn.Sequential(*branch)))
            blocks += 1
            position += 2
        if not halvings or not blocks or len(groups) != position + halvings + 1:
            raise FormatMismatchError(
                "expected downsampling convolutions, residual blocks, and equally many upsampling "
                f"convolutions; got {halvings} downsampling convolutions, {blocks} residual blocks "
                f"and {len(groups) - position - 1} other convolutions",
                near=bool(halvings and blocks),
            )
        for group in groups[position:-1]:
            layers += [*build.upsampling(group, width), build.activation()]
            width //= 2
        output, output_range = output_activation(options)
        layers += [build.outer_padding(), *build.convolution(groups[-1], 1, 0, last=True), *output]
        out_channels = last.weight.shape[0]
        receptive_field = 3 + 2**halvings * (2 * blocks + 2) + 3 if build.is_local else None
        image_input = ImageInput(
            channels=input_channels(channels),
            side=input_side(options, 256, 2**halvings),
            multiple=2**halvings,
            # Reflection padding requires two pixels at the smallest resolution.
            least=2 * 2**halvings,
            reach=receptive_field,
        )
        return converted_image_to_image(
            "CycleGAN's residual generator",
            "translate",
            nn.Sequential(*layers),
            image_input,
            out_channels,
            output_range=output_range,
            options=options,
            details=[("residual blocks", str(blocks)), ("width", str(first.weight.shape[0]))],
        )


# A convolution and the normalization that follows it.
Group = tuple[Layer, Layer | None]


class _Builder:
    """Builds the layers of a generator, with the user's choices."""

    def __init__(self, options: Choices, groups: list[Group]) -> None:
        self.options = options
        self.norms = Normalizations(options, [norm for _, norm in groups[:-1]], default="running")
        # With the statistics of an image, every output pixel depends on the whole image.
        self.is_local = self.norms.is_local

    def activation(self) -> nn.Module:
        """Return the activation after a convolution."""
        return activation(self.options, "relu")

    def outer_padding(self) -> nn.Module:
        """Return the padding before the first and the last convolution."""
        subject = "padding of the first and last convolutions"
        return padding(self.options, "outer_padding", subject, "reflect", 3)

    def block_padding(self, first: Layer) -> nn.Module:
        """Return the padding in a residual block, whose first convolution is given.

        The authors' blocks contain a padding layer, except if they pad with zeros. It is the first
        of the block, so that the number of the first convolution tells whether there is one.
        """
        zeros = first.path.endswith(".conv_block.0")
        source: Source = "names" if ".conv_block." in first.path else "assumed"
        mode = padding_mode(
            self.options, "padding", "padding of the residual blocks",
            "zeros" if zeros else "reflect", source,
        )  # fmt: skip
        return pad(mode, 1)

    def convolution(
        self, group: Group, stride: int, size: int, *, last: bool = False
    ) -> list[nn.Module]:
        """Return a convolution with zero padding of `size`, and its normalization."""
        layer, norm = group
        width, fan_in, kernel, _ = layer.weight.shape
        conv = nn.Conv2d(fan_in, width, kernel, stride, size, bias=layer.has_bias)
        if last and norm is not None:
            raise FormatMismatchError(f"its last convolution has the normalization {norm.path}")
        return [load_layer(conv, layer), *([] if last else self.norms.build(norm, width))]

    def downsampling(self, group: Group) -> list[nn.Module]:
        """Return a convolution that halves the side."""
        subject = "padding of the downsampling convolutions"
        mode = padding_mode(self.options, "downsampling_padding", subject, "zeros")
        if mode == "zeros":
            return self.convolution(group, 2, 1)
        return [pad(mode, 1), *self.convolution(group, 2, 0)]

    def upsampling(self, group: Group, width: int) -> list[nn.Module]:
        """Return a convolution that doubles the side. Raises FormatMismatchError."""
        layer, norm = group
        shape, half = tuple(layer.weight.shape[:2]), width // 2
        size, bias = layer.weight.shape[2], layer.has_bias
        if shape == (width, half) and size in (3, 4):
            # Both double the side exactly.
            extra = 1 if size == 3 else 0
            up = nn.ConvTranspose2d(width, half, size, 2, 1, output_padding=extra, bias=bias)
            return [load_layer(up, layer), *self.norms.build(norm, half)]
        if shape == (half, width) and size == 3:
            # Upsampling and a convolution, a variant without checkerboard artifacts.
            conv = nn.Conv2d(width, half, 3, padding=1, bias=bias)
            upsample = upsampling(self.options)
            return [upsample, load_layer(conv, layer), *self.norms.build(norm, half)]
        raise FormatMismatchError(f"{layer.path} does not upsample by a factor of 2", near=True)


def _with_norms(layers: list[Layer]) -> list[Group]:
    """Group each convolution with its normalization. Raises FormatMismatchError."""
    groups: list[Group] = []
    for layer in layers:
        if layer.kind == "convolution":
            groups.append((layer, None))
        elif layer.kind in ("norm", "statistics") and groups and groups[-1][1] is None:
            groups[-1] = (groups[-1][0], layer)
        else:
            raise FormatMismatchError(f"unexpected layer {layer.path} in a residual generator")
    if len(groups) < 6:
        raise FormatMismatchError("it has too few convolutions")
    return groups


def _is_square(layer: Layer, width: int) -> bool:
    return tuple(layer.weight.shape) == (width, width, 3, 3)
