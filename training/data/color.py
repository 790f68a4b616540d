"""Conversion between sRGB and CIE L*a*b*, preserving the luminance to one gray level.

Images are ``[N, 3, H, W]`` in [-1, 1]. CIE 15:2004 and IEC 61966-2-1, white point D65.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# Linear sRGB to XYZ relative to the white point.
_TO_XYZ = (
    (0.4124564 / 0.95047, 0.3575761 / 0.95047, 0.1804375 / 0.95047),
    (0.2126, 0.7152, 0.0722),
    (0.0193339 / 1.08883, 0.1191920 / 1.08883, 0.9503041 / 1.08883),
)
_FROM_XYZ = np.linalg.inv(np.array(_TO_XYZ)).tolist()
# CIE L*a*b* is linear below this ratio.
_LINEAR_LIMIT = (6 / 29) ** 3
# |a*| and |b*| of sRGB colors are below this.
CHROMA = 110.0


def gray_level(images: Tensor) -> Tensor:
    """Return the gray ``[N, 1, H, W]`` of nearest luminance, as whole levels in [0, 255].

    Gray images keep their own levels.
    """
    red, green, blue = srgb_to_linear((images + 1) / 2).unbind(1)
    luminance = _TO_XYZ[1][0] * red + _TO_XYZ[1][1] * green + _TO_XYZ[1][2] * blue
    return (linear_to_srgb(luminance[:, None]) * 255).round().clamp(0, 255)


def lightness(level: Tensor) -> Tensor:
    """Return L* of gray levels in [0, 255], scaled from [0, 100] to [-1, 1]."""
    return (116 * _lab_root(srgb_to_linear(level / 255)) - 16) / 50 - 1


def chroma(images: Tensor) -> Tensor:
    """Return a* and b* ``[N, 2, H, W]``, scaled by `CHROMA` to [-1, 1]."""
    rgb = srgb_to_linear((images + 1) / 2)
    x, y, z = (_lab_root(sum(w * rgb[:, i] for i, w in enumerate(row))) for row in _TO_XYZ)
    return torch.stack([500 * (x - y), 200 * (y - z)], 1) / CHROMA


def to_rgb(level: Tensor, ab: Tensor) -> Tensor:
    """Return images ``[N, 3, H, W]`` from gray levels ``[N, 1, H, W]`` and `chroma`'s a*, b*.

    Colors outside sRGB are desaturated at constant luminance. After rounding to 8 bits the
    luminance is within 0.6 gray levels, and `gray_level` returns `level` except for about one
    pixel in ten thousand.
    """
    y = srgb_to_linear(level / 255)
    root = _lab_root(y)
    a, b = ab[:, :1] * CHROMA, ab[:, 1:] * CHROMA
    xyz = torch.cat([_lab_root_inverse(root + a / 500), y, _lab_root_inverse(root - b / 200)], 1)
    rgb = torch.stack([sum(w * xyz[:, i] for i, w in enumerate(row)) for row in _FROM_XYZ], 1)
    offset = rgb - y
    # The largest multiple of the offset from gray that stays within [0, 1], per channel.
    headroom = torch.where(offset > 0, 1 - y, y) / offset.abs().clamp(min=1e-6)
    saturation = headroom.amin(1, keepdim=True).clamp(max=1)
    return linear_to_srgb((y + saturation * offset).clamp(0, 1)) * 2 - 1


def srgb_to_linear(values: Tensor) -> Tensor:
    """Return linear light of sRGB values in [0, 1]."""
    power = ((values.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4
    return torch.where(values > 0.04045, power, values / 12.92)


def linear_to_srgb(light: Tensor) -> Tensor:
    """Return sRGB values of linear light in [0, 1]."""
    power = 1.055 * light.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(light > 0.0031308, power, light * 12.92)


def _lab_root(light: Tensor | int | float) -> Tensor:
    """The function f of CIE L*a*b*: a cube root with a linear segment near 0."""
    light = torch.as_tensor(light)
    root = light.clamp(min=_LINEAR_LIMIT) ** (1 / 3)
    return torch.where(light > _LINEAR_LIMIT, root, light * (841 / 108) + 4 / 29)


def _lab_root_inverse(root: Tensor) -> Tensor:
    return torch.where(root > 6 / 29, root**3, (root - 4 / 29) * (108 / 841))
