"""Colours: from sRGB to CIE L*a*b* and back, with the luminance kept to the level.

Pictures are ``[N, 3, H, W]`` in [-1, 1], as bytes ``0 … 255`` are between them. CIE 15:2004 and
IEC 61966-2-1, white point D65.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# From linear sRGB to XYZ, each relative to the white's.
_TO_XYZ = (
    (0.4124564 / 0.95047, 0.3575761 / 0.95047, 0.1804375 / 0.95047),
    (0.2126, 0.7152, 0.0722),
    (0.0193339 / 1.08883, 0.1191920 / 1.08883, 0.9503041 / 1.08883),
)
_FROM_XYZ = np.linalg.inv(np.array(_TO_XYZ)).tolist()
_CUBE_FROM = (6 / 29) ** 3
# a* and b* of sRGB lie within this.
CHROMA = 110.0


def gray_level(images: Tensor) -> Tensor:
    """Return the grey ``[N, 1, H, W]`` whose luminance is nearest, as a whole level in [0, 255].

    That of a grey picture is the picture itself.
    """
    red, green, blue = srgb_to_linear((images + 1) / 2).unbind(1)
    luminance = _TO_XYZ[1][0] * red + _TO_XYZ[1][1] * green + _TO_XYZ[1][2] * blue
    return (linear_to_srgb(luminance[:, None]) * 255).round().clamp(0, 255)


def lightness(level: Tensor) -> Tensor:
    """Return L* of grey levels, from [0, 100] brought to [-1, 1]."""
    return (116 * _root(srgb_to_linear(level / 255)) - 16) / 50 - 1


def chroma(images: Tensor) -> Tensor:
    """Return a* and b* ``[N, 2, H, W]``, brought to [-1, 1]."""
    rgb = srgb_to_linear((images + 1) / 2)
    x, y, z = (_root(sum(w * rgb[:, i] for i, w in enumerate(row))) for row in _TO_XYZ)
    return torch.stack([500 * (x - y), 200 * (y - z)], 1) / CHROMA


def to_rgb(level: Tensor, ab: Tensor) -> Tensor:
    """Return pictures of grey levels ``[N, 1, H, W]`` and a*, b* as `chroma` gives them.

    Colours beyond sRGB are drawn to the grey of the same luminance, on which linear light lies on
    a line, so that the luminance stays. Rounded to bytes it is within 0.6 of a level of grey, and
    its nearest grey is `level` again but for one pixel in some ten thousand.
    """
    y = srgb_to_linear(level / 255)
    root = _root(y)
    a, b = ab[:, :1] * CHROMA, ab[:, 1:] * CHROMA
    xyz = torch.cat([_cube(root + a / 500), y, _cube(root - b / 200)], 1)
    rgb = torch.stack([sum(w * xyz[:, i] for i, w in enumerate(row)) for row in _FROM_XYZ], 1)
    beyond = rgb - y
    # How far from the grey each channel may go, as a share of how far it goes.
    room = torch.where(beyond > 0, 1 - y, y) / beyond.abs().clamp(min=1e-6)
    kept = room.amin(1, keepdim=True).clamp(max=1)
    return linear_to_srgb((y + kept * beyond).clamp(0, 1)) * 2 - 1


def srgb_to_linear(values: Tensor) -> Tensor:
    """Return linear light of sRGB values in [0, 1]."""
    power = ((values.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4
    return torch.where(values > 0.04045, power, values / 12.92)


def linear_to_srgb(light: Tensor) -> Tensor:
    """Return sRGB values of linear light in [0, 1]."""
    power = 1.055 * light.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(light > 0.0031308, power, light * 12.92)


def _root(light: Tensor | int | float) -> Tensor:
    light = torch.as_tensor(light)
    root = light.clamp(min=_CUBE_FROM) ** (1 / 3)
    return torch.where(light > _CUBE_FROM, root, light * (841 / 108) + 4 / 29)


def _cube(root: Tensor) -> Tensor:
    return torch.where(root > 6 / 29, root**3, (root - 4 / 29) * (108 / 841))
