"""Strides and paddings of a chain of transposed convolutions, which no tensor contains."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, product

from torch import nn

from training.importers.errors import FormatMismatchError, ImportOptionError
from training.importers.options import Choices, UndeterminedError, setting
from training.importers.reading.weights import Layer

# Sides of images that networks with odd kernels usually generate.
_COMMON_SIDES = (28, 32, 64, 96, 128, 256, 512)
_MAX_PLAUSIBLE = 5
_MAX_TRIED = 100_000
_NAME = "layers"
_SUBJECT = "stride s, padding p and output padding o of the layers"
# Stride, padding and output padding of a layer.
Step = tuple[int, int, int]


@dataclass(frozen=True)
class Geometry:
    """The kernels of the layers, and their strides, paddings and output paddings."""

    kernels: tuple[int, ...]
    steps: tuple[Step, ...]

    @classmethod
    def choose(cls, kernels: Sequence[int], options: Choices) -> Geometry:
        """Return the user's geometry; by default each layer after the first doubles the side.

        Raises UndeterminedError if doubling is not plausible, ImportOptionError if no plausible
        geometry has the side of `--side`, and FormatMismatchError if a layer has no output.
        """
        sizes = tuple(kernels)
        candidates = plausible(sizes)
        side = options.side
        if side is not None:
            candidates = [each for each in candidates if each.side == side]
        if options.options.given(_NAME) is None:
            if side is not None and not candidates:
                raise ImportOptionError(
                    f"--side {side}: no common strides and paddings of kernels "
                    f"{', '.join(map(str, sizes))} have this side; set "
                    f"{setting(_NAME, str(doubling(sizes)))} or other values"
                )
            doubles = bool(candidates) and candidates[0] == doubling(sizes)
            if len(candidates) != 1 and not doubles:
                raise UndeterminedError.of(_NAME, _SUBJECT, [str(each) for each in candidates])
        chosen = options.value(
            _NAME,
            _SUBJECT,
            candidates[0] if candidates else doubling(sizes),
            lambda text: cls(sizes, _parse_steps(text, len(sizes))),
            f"one step for each of the {len(sizes)} layers, such as {doubling(sizes)}",
            str,
            candidates,
        )
        if side not in (None, chosen.side):
            raise ImportOptionError(
                f"--side {side}: with {setting(_NAME, str(chosen))} the images have a side of "
                f"{chosen.side} pixels"
            )
        return chosen

    @property
    def sides(self) -> list[int]:
        """The side after each layer, in pixels."""
        sides = [1]
        for kernel, (stride, padding, extra) in zip(self.kernels, self.steps, strict=True):
            sides.append((sides[-1] - 1) * stride - 2 * padding + kernel + extra)
        return sides[1:]

    @property
    def side(self) -> int:
        """The side of the images in pixels. Raises FormatMismatchError if a layer has no output."""
        if min(self.sides) < 1:
            raise FormatMismatchError(f"with the steps {self}, a layer has no output", near=True)
        return self.sides[-1]

    def __str__(self) -> str:
        """Return the steps, such as ``s1p0,s2p1,s2p1o1``."""
        return ",".join(f"s{s}p{p}" + (f"o{o}" if o else "") for s, p, o in self.steps)

    def layer(self, index: int, layer: Layer) -> nn.ConvTranspose2d:
        """Return the layer of a number, for its tensors."""
        fan_in, width, kernel, _ = layer.weight.shape
        return nn.ConvTranspose2d(fan_in, width, kernel, *self.steps[index], bias=layer.has_bias)


def doubling(kernels: Sequence[int]) -> Geometry:
    """Return the geometry that starts at the side of the first kernel and doubles it."""
    return Geometry(tuple(kernels), ((1, 0, 0), *(_doubling_step(each) for each in kernels[1:])))


def _doubling_step(kernel: int) -> Step:
    """Return the step with which a kernel doubles the side. A kernel of 1 keeps it."""
    if kernel == 1:
        return 1, 0, 0
    padding = (kernel - 1) // 2
    return 2, padding, kernel % 2


def plausible(kernels: Sequence[int]) -> list[Geometry]:
    """Return the geometries that are common for these kernels, at most five: doubling first.

    With even kernels only, it is doubling. Layers with odd kernels double or keep the side, or have
    no padding, as in kernels of 3, 4, 3 and 4 for 28×28 pixels. Then the side must be a common one.
    """
    plain = doubling(kernels)
    if all(kernel % 2 == 0 for kernel in kernels[1:]):
        return [plain]
    ways: list[list[Step]] = [[(1, 0, 0)]]
    for kernel in kernels[1:]:
        same = [(1, kernel // 2, 0)] if kernel % 2 else []
        steps = [_doubling_step(kernel), *same, (2, 0, 0), (1, 0, 0)]
        ways.append(list(dict.fromkeys(steps)) if kernel > 1 else [(1, 0, 0)])
    found = []
    for way in islice(product(*ways), _MAX_TRIED):
        geometry = Geometry(tuple(kernels), way)
        if geometry.sides[-1] in _COMMON_SIDES:
            found.append(geometry)
    # Few changes from doubling first; the sort is stable.
    found.sort(key=lambda g: sum(a != b for a, b in zip(g.steps, plain.steps, strict=True)))
    return found[:_MAX_PLAUSIBLE]


def _parse_steps(text: str, count: int) -> tuple[Step, ...]:
    """Parse the steps of all layers. Raises ValueError."""
    steps = []
    for part in text.split(","):
        found = re.fullmatch(r"s(\d{1,2})(?:p(\d{1,2}))?(?:o(\d{1,2}))?", part.strip())
        if not found:
            raise ValueError
        stride, padding, extra = (int(each or 0) for each in found.groups())
        if stride < 1 or extra >= stride:
            raise ValueError
        steps.append((stride, padding, extra))
    if len(steps) != count:
        raise ValueError
    return tuple(steps)
