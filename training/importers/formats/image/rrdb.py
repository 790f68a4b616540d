"""ESRGAN and Real-ESRGAN: residual-in-residual dense blocks, under three generations of names.

Wang et al. 2018, arXiv:1809.00219, section 3.1; Wang et al. 2021, arXiv:2107.10833, section 3.4,
for ×2 and ×1, whose pictures are folded into channels first.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from service.runtime.models.manifest import ImageInput
from training.importers.errors import FormatMismatchError
from training.importers.formats.base import (
    ConvertedModel,
    Format,
    FormatMatch,
    UserOptions,
    converted_image_to_image,
    input_side,
    load_weights,
)
from training.importers.reading.weights import Network

_SLOPE = 0.2
_RESIDUAL_SCALE = 0.2
# From the names of 2018 (a sequence), and of BasicSR before 2020, to those of today.
_OLDER = (
    (r"model\.0\.", "conv_first."),
    (r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.", r"body.\1.rdb\2.conv\3."),
    (r"model\.1\.sub\.\d+\.(weight|bias)", r"conv_body.\1"),
    (r"RRDB_trunk\.(\d+)\.RDB(\d)\.conv(\d)\.", r"body.\1.rdb\2.conv\3."),
    (r"trunk_conv\.", "conv_body."),
    (r"upconv(\d)\.", r"conv_up\1."),
    (r"HRconv\.", "conv_hr."),
)


class _Dense(nn.Module):
    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        for i in range(1, 5):
            made = nn.Conv2d(width + (i - 1) * growth, growth, 3, padding=1)
            setattr(self, f"conv{i}", made)
        self.conv5 = nn.Conv2d(width + 4 * growth, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        for i in range(1, 5):
            seen = torch.cat([seen, F.leaky_relu(getattr(self, f"conv{i}")(seen), _SLOPE)], 1)
        added: Tensor = self.conv5(seen)
        return x + _RESIDUAL_SCALE * added


class _Block(nn.Module):
    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = _Dense(width, growth)
        self.rdb2 = _Dense(width, growth)
        self.rdb3 = _Dense(width, growth)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.rdb3(self.rdb2(self.rdb1(x)))
        return x + _RESIDUAL_SCALE * added


class RRDBNet(nn.Module):
    """Pictures ``[N, C, h, w]`` in [0, 1] to ``[N, C', factor·h, factor·w]``."""

    def __init__(
        self, seen: int, made: int, width: int, growth: int, blocks: int, doublings: int, fold: int
    ) -> None:
        super().__init__()
        self.fold, self.doublings = fold, doublings
        self.conv_first = nn.Conv2d(seen, width, 3, padding=1)
        self.body = nn.Sequential(*(_Block(width, growth) for _ in range(blocks)))
        self.conv_body = nn.Conv2d(width, width, 3, padding=1)
        for i in range(1, doublings + 1):
            setattr(self, f"conv_up{i}", nn.Conv2d(width, width, 3, padding=1))
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, made, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        folded = F.pixel_unshuffle(images, self.fold) if self.fold > 1 else images
        x = self.conv_first(folded)
        x = x + self.conv_body(self.body(x))
        for i in range(1, self.doublings + 1):
            x = F.interpolate(x, scale_factor=2.0)
            x = F.leaky_relu(getattr(self, f"conv_up{i}")(x), _SLOPE)
        made: Tensor = self.conv_last(F.leaky_relu(self.conv_hr(x), _SLOPE))
        return made


def renamed(network: Network) -> Network:
    """Return a network under the names of today."""
    names = list(network.tensors)
    if not any(".rdb" in name.lower() for name in names):
        return network
    # Of 2018, the tail is a sequence: a doubling at every third place, then two convolutions.
    tail = sorted(
        {int(m.group(1)) for n in names if (m := re.fullmatch(r"model\.(\d+)\.weight", n))} - {0}
    )
    places = {
        place: f"conv_up{i + 1}" if i < len(tail) - 2 else ("conv_hr", "conv_last")[i - len(tail)]
        for i, place in enumerate(tail)
    }

    def new(name: str) -> str:
        found = re.fullmatch(r"model\.(\d+)\.(weight|bias)", name)
        if found and int(found.group(1)) in places:
            return f"{places[int(found.group(1))]}.{found.group(2)}"
        for old, today in _OLDER:
            name, times = re.subn(f"^{old}", today, name)
            if times:
                break
        return name

    return Network(
        network.name,
        {new(n): t for n, t in network.tensors.items()},
        network.config,
        network.class_name,
    )


class Rrdb(Format):
    """ESRGAN's and Real-ESRGAN's generator, ×4, ×2 and ×1, and older ones of 2ⁿ."""

    name = "rrdb"
    title = "ESRGAN, Real-ESRGAN (RRDB)"
    origin = "ESRGAN, BasicSR (Apache-2.0), Real-ESRGAN (BSD-3), Wang et al. 2018, 2021"
    required_keys = (
        r"conv_first\.weight",
        r"body\.0\.rdb1\.conv1\.weight",
        r"body\.0\.rdb3\.conv5\.weight",
        r"conv_body\.weight",
        r"conv_hr\.weight",
        r"conv_last\.weight",
    )

    def match(self, network: Network) -> FormatMatch:
        """Compare under the names of today."""
        return super().match(renamed(network))

    def convert(self, network: Network, options: UserOptions) -> ConvertedModel:
        """Build the network: width, growth, blocks and factor are in the shapes."""
        network = renamed(network)
        tensors = network.tensors
        width, seen = tensors["conv_first.weight"].shape[:2]
        made = tensors["conv_last.weight"].shape[0]
        growth = tensors["body.0.rdb1.conv1.weight"].shape[0]
        blocks = 1 + max(int(n.split(".")[1]) for n in tensors if n.startswith("body."))
        doublings = sum(bool(re.fullmatch(r"conv_up\d\.weight", name)) for name in tensors)
        fold = {made: 1, 4 * made: 2, 16 * made: 4}.get(seen)
        if fold is None or 2**doublings % fold:
            raise FormatMismatchError(
                f"conv_first takes {seen} channels and conv_last gives {made}"
            )
        factor = 2**doublings // fold
        built = RRDBNet(seen, made, width, growth, blocks, doublings, fold)
        given = ImageInput(
            channels=square_channels(made),
            side=input_side(options, 64, fold),
            multiple=fold,
            factor=factor,
            reach=fold * (15 * blocks + 8),
        )
        return converted_image_to_image(
            f"{factor} times the side, by residual-in-residual dense blocks",
            "upscale" if factor > 1 else "translate",
            load_weights(built, network),
            given,
            made,
            (0.0, 1.0),
            (0.0, 1.0),
            details=[("factor", str(factor)), ("blocks", str(blocks)), ("width", str(width))],
        )


def square_channels(channels: int) -> int:
    """Return the channels of the input images. Raises FormatMismatchError."""
    if channels not in (1, 3, 4):
        raise FormatMismatchError(f"pictures of {channels} channels are not served")
    return channels
