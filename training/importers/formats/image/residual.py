"""The residual generator of CycleGAN and pix2pix, with any tensor names and number of blocks.

It is identified by the order of its convolutions: a 7×7 convolution, strided convolutions for
downsampling, pairs of equal shape (residual blocks), transposed convolutions for upsampling, and a
7×7 convolution (Zhu et al. 2017, arXiv:1703.10593, appendix 7.2).
"""

from __future__ import annotations

from torch import Tensor, nn

from service.runtime.models.manifest import ImageInput
from training.importers.errors import FormatMismatchError
from training.importers.formats.base import (
    ConvertedModel,
    Format,
    UserOptions,
    converted_image_to_image,
    input_channels,
    input_side,
)
from training.importers.formats.layers import load_layer
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

    def convert(self, network: Network, options: UserOptions) -> ConvertedModel:
        """Build the generator."""
        groups = _with_norms(known_layers(network))
        first, last = groups[0][0], groups[-1][0]
        if first.weight.shape[2] != 7 or last.weight.shape[2] != 7:
            raise FormatMismatchError("expected 7×7 kernels in the first and last convolutions")
        channels, width = first.weight.shape[1], first.weight.shape[0]
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), *_convolution(groups[0], 1, 0)]
        layers.append(nn.ReLU())
        position = 1
        halvings = 0
        while position < len(groups) and groups[position][0].weight.shape[:2] == (2 * width, width):
            width *= 2
            halvings += 1
            layers += [*_convolution(groups[position], 2, 1), nn.ReLU()]
            position += 1
        blocks = 0
        while position + 1 < len(groups) and _is_square(groups[position][0], width):
            pair = groups[position : position + 2]
            if not _is_square(pair[1][0], width):
                raise FormatMismatchError("its residual blocks are not pairs of convolutions")
            branch = [nn.ReflectionPad2d(1), *_convolution(pair[0], 1, 0), nn.ReLU()]
            branch += [nn.ReflectionPad2d(1), *_convolution(pair[1], 1, 0)]
            layers.append(Residual(nn.Sequential(*branch)))
            blocks += 1
            position += 2
        if not halvings or not blocks or len(groups) != position + halvings + 1:
            raise FormatMismatchError(
                "expected downsampling convolutions, residual blocks, and equally many upsampling "
                f"convolutions; got {halvings} downsampling convolutions, {blocks} residual blocks "
                f"and {len(groups) - position - 1} other convolutions"
            )
        for group in groups[position:-1]:
            layers += [*_upsampling(group, width), nn.ReLU()]
            width //= 2
        layers += [nn.ReflectionPad2d(3), *_convolution(groups[-1], 1, 0, last=True), nn.Tanh()]
        out_channels = last.weight.shape[0]
        has_batch_norm = any(
            norm is not None and {"running_mean", "weight"} <= norm.tensors.keys()
            for _, norm in groups
        )
        # With instance normalization every output pixel depends on the whole image.
        receptive_field = 3 + 2**halvings * (2 * blocks + 2) + 3 if has_batch_norm else None
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
            details=[("residual blocks", str(blocks)), ("width", str(first.weight.shape[0]))],
        )


# A convolution and the normalization that follows it.
Group = tuple[Layer, Layer | None]


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


def _norm(layer: Layer | None, width: int, *, last: bool) -> list[nn.Module]:
    """Build batch normalization if the layer has statistics and weights, else instance norm.

    Old checkpoints contain running statistics of instance normalization layers, which are unused.
    """
    if layer is None or "weight" not in layer.tensors:
        return [] if last else [nn.InstanceNorm2d(width)]
    if "running_mean" in layer.tensors:
        return [load_layer(nn.BatchNorm2d(width), layer)]
    return [load_layer(nn.InstanceNorm2d(width, affine=True), layer)]


def _convolution(group: Group, stride: int, padding: int, *, last: bool = False) -> list[nn.Module]:
    layer, norm = group
    width, fan_in, size, _ = layer.weight.shape
    conv = nn.Conv2d(fan_in, width, size, stride, padding, bias=layer.bias is not None)
    return [load_layer(conv, layer), *_norm(norm, width, last=last)]


def _upsampling(group: Group, width: int) -> list[nn.Module]:
    layer, norm = group
    shape, half = tuple(layer.weight.shape[:2]), width // 2
    size, bias = layer.weight.shape[2], layer.bias is not None
    if shape == (width, half) and size == 3:
        up = nn.ConvTranspose2d(width, half, 3, 2, 1, output_padding=1, bias=bias)
        return [load_layer(up, layer), *_norm(norm, half, last=False)]
    if shape == (half, width) and size == 3:
        # Nearest-neighbor upsampling and a convolution, a variant without checkerboard artifacts.
        conv = nn.Conv2d(width, half, 3, padding=1, bias=bias)
        upsample = nn.Upsample(scale_factor=2.0)
        return [upsample, load_layer(conv, layer), *_norm(norm, half, last=False)]
    raise FormatMismatchError(f"{layer.path} does not upsample by a factor of 2")


def _is_square(layer: Layer, width: int) -> bool:
    return tuple(layer.weight.shape) == (width, width, 3, 3)
