"""ADA's pixel blitting and geometric transforms (Karras et al. 2020, arXiv:2006.06676, appendix B).

All transforms of an image are one affine map, for which the image is resampled once: at twice the
resolution, between an orthogonal wavelet's upsampling and downsampling, which leave an image
without transforms as it is and keep others from aliasing.

Coordinates are in pixels from the center of the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

# The scaling filter of the symlet with 6 vanishing moments (Daubechies 1992, Ten Lectures on
# Wavelets, section 6.4).
SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
# The tap at the position of the filtered pixel, and the taps on each side of it.
_CENTER = 5
_TAPS = len(SYM6)


def transform_geometry(
    images: Tensor, probability: float, *, blitting: bool = True, geometry: bool = True
) -> Tensor:
    """Apply each transform to each image ``[N, C, H, W]`` with `probability`: see `draw_maps`."""
    height, width = images.shape[2:]
    maps = draw_maps(
        len(images), height, width, probability, images.device, blitting=blitting, geometry=geometry
    )
    return resample(images, maps)


def draw_maps(
    count: int,
    height: int,
    width: int,
    probability: float,
    device: torch.device,
    *,
    blitting: bool = True,
    geometry: bool = True,
) -> Tensor:
    """Draw affine maps ``[count, 3, 3]`` for images of `height` × `width` pixels.

    Each transform is drawn with `probability`: of `blitting`, flips, turns by multiples of 90° and
    shifts by whole pixels; of `geometry`, scaling, rotations, stretches along any axis and shifts.
    """
    draws = _Draws(count, probability, device)
    maps = torch.eye(3, device=device).repeat(count, 1, 1)
    if blitting:
        flip = draws.maybe(1 - 2 * (draws.uniform() < 0.5).float(), 1)
        maps = _scaling(flip, torch.ones_like(flip)) @ maps
        quarters = draws.maybe((draws.uniform() * 4).floor(), 0)
        maps = _rotation(quarters * (math.pi / 2)) @ maps
        # By up to an eighth of the side.
        share = draws.maybe((draws.uniform(2) * 2 - 1) / 8, 0)
        maps = _translation((share[0] * width).round(), (share[1] * height).round()) @ maps
    if geometry:
        scale = draws.maybe(torch.exp2(draws.normal() * 0.2), 1)
        maps = _scaling(scale, scale) @ maps
        # The stretch is between two rotations; `probability` is that of at least one of them.
        rotates = 1 - math.sqrt(1 - probability)
        maps = _rotation(draws.maybe(draws.angle(), 0, rotates)) @ maps
        stretch = draws.maybe(torch.exp2(draws.normal() * 0.2), 1)
        maps = _scaling(stretch, 1 / stretch) @ maps
        maps = _rotation(draws.maybe(draws.angle(), 0, rotates)) @ maps
        share = draws.maybe(draws.normal(2) / 8, 0)
        maps = _translation(share[0] * width, share[1] * height) @ maps
    return maps


class _Draws:
    """Random numbers for `count` images, ``[count]``, or ``[rows, count]`` for several rows."""

    def __init__(self, count: int, probability: float, device: torch.device) -> None:
        self._count, self._probability, self._device = count, probability, device

    def maybe(self, value: Tensor, neutral: float, probability: float | None = None) -> Tensor:
        """Return `value` for each image with the probability, else `neutral`."""
        return value.where(self.uniform() < (probability or self._probability), neutral)

    def uniform(self, *rows: int) -> Tensor:
        return torch.rand(*rows, self._count, device=self._device)

    def normal(self, *rows: int) -> Tensor:
        return torch.randn(*rows, self._count, device=self._device)

    def angle(self) -> Tensor:
        return (self.uniform() * 2 - 1) * math.pi


def resample(images: Tensor, matrices: Tensor) -> Tensor:
    """Return images ``[N, C, H, W]``, transformed by affine maps ``[N, 3, 3]``.

    Borders are reflected. Reflections end at one further image on each side; everything beyond is
    0.
    """
    height, width = images.shape[2:]
    # From coordinates of the result to those of the images.
    inverse = torch.linalg.inv(matrices).to(images.dtype)
    left, right, top, bottom = _margins(inverse, height, width)
    padded = F.pad(images, (left, right, top, bottom), mode="reflect")
    # In the layout in which the transposed convolutions are several times as fast on CPUs.
    padded = _upsample(padded.contiguous(memory_format=torch.channels_last))

    # The half pixels of the result, with as many around it as the downsampling filter covers.
    def positions(side: int) -> Tensor:
        index = torch.arange(2 * side + _TAPS - 2, device=images.device, dtype=images.dtype)
        return (index - _CENTER) / 2 - (side - 1) / 2

    y, x = torch.meshgrid(positions(height), positions(width), indexing="ij")
    wanted = torch.stack([x, y, torch.ones_like(x)], -1)
    source = torch.einsum("nij,hwj->nhwi", inverse[:, :2], wanted)
    # The half pixels of the padded images, then the coordinates of grid_sample.
    first = torch.tensor([(width - 1) / 2 + left, (height - 1) / 2 + top]).to(source)
    size = torch.tensor([padded.shape[3], padded.shape[2]]).to(source)
    grid = (4 * (source + first) + 1) / size - 1
    return _downsample(F.grid_sample(padded, grid, align_corners=False))


def _margins(inverse: Tensor, height: int, width: int) -> tuple[int, int, int, int]:
    """Return by how many pixels the transformed corners reach over the left, right, top and bottom.

    Of all images, with what the filters cover, and at most by what can be reflected.
    """
    x, y = (width - 1) / 2, (height - 1) / 2
    corners = torch.tensor([[-x, x, x, -x], [-y, -y, y, y], [1.0] * 4]).to(inverse)
    reached = (inverse[:, :2] @ corners).transpose(0, 1).flatten(1)
    lowest, highest = reached.amin(1).tolist(), reached.amax(1).tolist()

    def margin(beyond: float, side: int) -> int:
        # Both filters: half of their taps, in pixels.
        return min(max(math.ceil(beyond + _TAPS / 2), 0), side - 1)

    return (
        margin(-lowest[0] - x, width),
        margin(highest[0] - x, width),
        margin(-lowest[1] - y, height),
        margin(highest[1] - y, height),
    )


def _upsample(images: Tensor) -> Tensor:
    """Double the resolution: pixel i of a row becomes pixel 2i."""
    channels = images.shape[1]
    taps = _taps(images) * math.sqrt(2)
    rows = taps.reshape(1, 1, 1, -1).expand(channels, 1, 1, -1)
    images = F.conv_transpose2d(images, rows, stride=(1, 2), padding=(0, _CENTER), groups=channels)
    columns = rows.transpose(2, 3)
    return F.conv_transpose2d(images, columns, stride=(2, 1), padding=(_CENTER, 0), groups=channels)


def _downsample(images: Tensor) -> Tensor:
    """Halve the resolution: the adjoint of the upsampling, and its inverse inside the image."""
    channels = images.shape[1]
    taps = _taps(images) / math.sqrt(2)
    rows = taps.reshape(1, 1, 1, -1).expand(channels, 1, 1, -1)
    images = F.conv2d(images, rows, stride=(1, 2), groups=channels)
    return F.conv2d(images, rows.transpose(2, 3), stride=(2, 1), groups=channels)


def _taps(images: Tensor) -> Tensor:
    return torch.tensor(SYM6, dtype=images.dtype, device=images.device)


def _scaling(x: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return _matrices([[x, zero, zero], [zero, y, zero], [zero, zero, one]])


def _rotation(angle: Tensor) -> Tensor:
    sin, cos = angle.sin(), angle.cos()
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    return _matrices([[cos, -sin, zero], [sin, cos, zero], [zero, zero, one]])


def _translation(x: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return _matrices([[one, zero, x], [zero, one, y], [zero, zero, one]])


def _matrices(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """Stack 3×3 entries ``[N]`` into matrices ``[N, 3, 3]``."""
    return torch.stack([torch.stack(list(row), -1) for row in rows], -2)
