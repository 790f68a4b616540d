"""The residual generator of CycleGAN and pix2pix, with any names and any number of blocks.

Recognised by the order of its convolutions: one of 7×7, halvings, pairs of equal ones, doublings,
one of 7×7 (Zhu et al. 2017, arXiv:1703.10593, appendix 7.2).
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
    input_side,
)
from training.importers.formats.noise.sequential import load_layer
from training.importers.reading.weights import Layer, Network, known_layers


class Residual(nn.Module):
    """A branch, added."""

    def __init__(self, branch: nn.Sequential) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.branch(x)
        return x + added


class ResidualTranslator(Format):
    """CycleGAN's generator."""

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
            raise FormatMismatchError("its first and last convolutions are not 7×7")
        channels, width = first.weight.shape[1], first.weight.shape[0]
        built: list[nn.Module] = [nn.ReflectionPad2d(3), *_convolution(groups[0], 1, 0)]
        built.append(nn.ReLU())
        at = 1
        halvings = 0
        while at < len(groups) and groups[at][0].weight.shape[:2] == (2 * width, width):
            width *= 2
            halvings += 1
            built += [*_convolution(groups[at], 2, 1), nn.ReLU()]
            at += 1
        blocks = 0
        while at + 1 < len(groups) and _is_square(groups[at][0], width):
            pair = groups[at : at + 2]
            if not _is_square(pair[1][0], width):
                raise FormatMismatchError("its residual blocks are no pairs of convolutions")
            branch = [nn.ReflectionPad2d(1), *_convolution(pair[0], 1, 0), nn.ReLU()]
            branch += [nn.ReflectionPad2d(1), *_convolution(pair[1], 1, 0)]
            built.append(Residual(nn.Sequential(*branch)))
            blocks += 1
            at += 2
        if not halvings or not blocks or len(groups) != at + halvings + 1:
            raise FormatMismatchError(
                "its convolutions are not halvings, residual blocks and doublings"
            )
        for group in groups[at:-1]:
            built += [*_doubling(group, width), nn.ReLU()]
            width //= 2
        built += [nn.ReflectionPad2d(3), *_convolution(groups[-1], 1, 0, last=True), nn.Tanh()]
        made = last.weight.shape[0]
        if channels not in (1, 3, 4):
            raise FormatMismatchError(f"it takes {channels} channels")
        batch = any(
            "running_mean" in (n.tensors if n else {}) and n and "weight" in n.tensors
            for _, n in groups
        )
        reach = 3 + 2**halvings * (2 * blocks + 2) + 3 if batch else None
        given = ImageInput(
            channels=channels,
            side=input_side(options, 256, 2**halvings),
            multiple=2**halvings,
            # Its blocks reflect a pixel at the smallest side.
            least=2 * 2**halvings,
            reach=reach,
        )
        return converted_image_to_image(
            "CycleGAN's residual generator",
            "translate",
            nn.Sequential(*built),
            given,
            made,
            details=[("residual blocks", str(blocks)), ("width", str(first.weight.shape[0]))],
        )


Group = tuple[Layer, Layer | None]


def _with_norms(found: list[Layer]) -> list[Group]:
    """Return the convolutions, each with its normalization. Raises FormatMismatchError."""
    groups: list[Group] = []
    for layer in found:
        if layer.kind == "convolution":
            groups.append((layer, None))
        elif layer.kind in ("norm", "statistics") and groups and groups[-1][1] is None:
            groups[-1] = (groups[-1][0], layer)
        else:
            raise FormatMismatchError(f"{layer.path} is no layer of such a generator")
    if len(groups) < 6:
        raise FormatMismatchError("it has too few convolutions")
    return groups


def _norm(layer: Layer | None, width: int, *, last: bool) -> list[nn.Module]:
    """Return a normalisation: batch where it has statistics and weights, else of each picture.

    Old files carry running statistics of instance normalisations, which were never used.
    """
    if layer is None or "weight" not in layer.tensors:
        return [] if last else [nn.InstanceNorm2d(width)]
    if "running_mean" in layer.tensors:
        return [load_layer(nn.BatchNorm2d(width), layer)]
    return [load_layer(nn.InstanceNorm2d(width, affine=True), layer)]


def _convolution(group: Group, stride: int, padding: int, *, last: bool = False) -> list[nn.Module]:
    layer, norm = group
    width, fan_in, size, _ = layer.weight.shape
    built = nn.Conv2d(fan_in, width, size, stride, padding, bias=layer.bias is not None)
    return [load_layer(built, layer), *_norm(norm, width, last=last)]


def _doubling(group: Group, width: int) -> list[nn.Module]:
    layer, norm = group
    shape, half = tuple(layer.weight.shape[:2]), width // 2
    size, bias = layer.weight.shape[2], layer.bias is not None
    if shape == (width, half) and size == 3:
        up = nn.ConvTranspose2d(width, half, 3, 2, 1, output_padding=1, bias=bias)
        return [load_layer(up, layer), *_norm(norm, half, last=False)]
    if shape == (half, width) and size == 3:
        # Doubled by nearest neighbour, as those who dislike checkerboards write it.
        smooth = nn.Conv2d(width, half, 3, padding=1, bias=bias)
        up_by = nn.Upsample(scale_factor=2.0)
        return [up_by, load_layer(smooth, layer), *_norm(norm, half, last=False)]
    raise FormatMismatchError(f"{layer.path} doubles no side")


def _is_square(layer: Layer, width: int) -> bool:
    return tuple(layer.weight.shape) == (width, width, 3, 3)
