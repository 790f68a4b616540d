"""What makes pictures small and poor: the other side of super-resolution.

Everything is a function of the pictures and of the generator that draws. Pictures are
``[N, C, H, W] uint8`` unless said otherwise.
"""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from training.networks.layers.resizing import resize


def downscale(pixels: Tensor, factor: int) -> Tensor:
    """Return pictures a `factor`-th as large a side, by a cubic filter as wide as it has to be."""
    height, width = pixels.shape[2] // factor, pixels.shape[3] // factor
    return _bytes(resize(pixels.float(), height, width, "cubic"))


def upscale(pixels: Tensor, factor: int) -> Tensor:
    """Return pictures `factor` times as large a side, by cubic interpolation."""
    height, width = pixels.shape[2] * factor, pixels.shape[3] * factor
    return _bytes(resize(pixels.float(), height, width, "cubic"))


def degrade(pixels: Tensor, factor: int, rng: np.random.Generator) -> Tensor:
    """Return pictures a `factor`-th as large a side, as if from an old camera, copied and copied.

    Wang et al. 2021, arXiv:2107.10833, section 3: blur, resize, noise and JPEG, twice; each picture
    by draws of its own. What is drawn is narrower than there, since pictures here are small.
    """
    height, width = pixels.shape[2] // factor, pixels.shape[3] // factor
    made = []
    for picture in torch.split(pixels.float(), 1):
        x = picture
        for scale in ((0.5, 1.2), (0.7, 1.2)):
            x = gaussian_blur(x, *_sigmas(rng), rng.uniform(0, math.pi))
            side = float(rng.uniform(*scale))
            # Never below the size that comes out.
            x = resize(
                x,
                max(round(x.shape[2] * side), height),
                max(round(x.shape[3] * side), width),
                "cubic" if rng.random() < 0.5 else "linear",
            )
            x = add_noise(x, rng)
            x = jpeg_round_trip(_bytes(x), int(rng.integers(40, 95))).float()
        made.append(_bytes(resize(x, height, width, "cubic")))
    return torch.cat(made)


def gaussian_blur(images: Tensor, along: float, across: float, angle: float) -> Tensor:
    """Smooth pictures of floats by a Gaussian, its two sigmas in pixels, turned by `angle`."""
    radius = max(math.ceil(3 * max(along, across)), 1)
    steps = torch.arange(-radius, radius + 1, dtype=torch.float32)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    u = x * math.cos(angle) + y * math.sin(angle)
    v = y * math.cos(angle) - x * math.sin(angle)
    kernel = torch.exp(-((u / max(along, 1e-3)) ** 2 + (v / max(across, 1e-3)) ** 2) / 2)
    kernel = (kernel / kernel.sum())[None, None]
    padded = F.pad(images, (radius,) * 4, mode="replicate")
    blurred = F.conv2d(padded.flatten(0, 1)[:, None], kernel)
    return blurred.reshape(images.shape)


def add_noise(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Add noise to pictures of float numbers in [0, 255]: of the sensor, or of the light.

    Half of the time it is the same in all channels.
    """
    shape = list(images.shape)
    if rng.random() < 0.5:
        shape[1] = 1
    drawn = torch.from_numpy(rng.standard_normal(shape)).float()
    if rng.random() < 0.5:
        return images + drawn * float(rng.uniform(0, 10))
    # Of light the variance grows with the light.
    return images + drawn * (images.clamp(min=0) / 255).sqrt() * float(rng.uniform(0, 12))


def jpeg_round_trip(pixels: Tensor, quality: int) -> Tensor:
    """Return pictures as they come back from JPEG; those with transparency as they are."""
    if pixels.shape[1] == 4:
        return pixels
    made = []
    for picture in pixels.permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).save(
            file, "JPEG", quality=quality
        )
        decoded: NDArray[np.uint8] = np.asarray(Image.open(file))
        made.append(torch.from_numpy(decoded.reshape(picture.shape).copy()))
    return torch.stack(made).permute(0, 3, 1, 2)


def _sigmas(rng: np.random.Generator) -> tuple[float, float]:
    """One for both directions, or one for each, as often."""
    along = float(rng.uniform(0.1, 1.5))
    return along, along if rng.random() < 0.5 else float(rng.uniform(0.1, 1.5))


def _bytes(images: Tensor) -> Tensor:
    return images.round().clamp(0, 255).to(torch.uint8)
