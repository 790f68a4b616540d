"""Image degradations: the low-resolution inputs of super-resolution.

All functions are deterministic given the images and the random generator `rng`. Images are
``[N, C, H, W] uint8`` unless stated otherwise.
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
    """Reduce the sides by `factor` with an antialiased cubic filter."""
    height, width = pixels.shape[2] // factor, pixels.shape[3] // factor
    return _to_uint8(resize(pixels.float(), height, width, "cubic"))


def upscale(pixels: Tensor, factor: int) -> Tensor:
    """Enlarge the sides by `factor` with cubic interpolation."""
    height, width = pixels.shape[2] * factor, pixels.shape[3] * factor
    return _to_uint8(resize(pixels.float(), height, width, "cubic"))


def degrade(pixels: Tensor, factor: int, rng: np.random.Generator) -> Tensor:
    """Reduce the sides by `factor` with random second-order degradation.

    Real-ESRGAN (Wang et al. 2021, arXiv:2107.10833, section 3): blur, resize, noise and JPEG,
    twice, with parameters drawn for each image. The ranges are narrower than in the paper, because
    the images are smaller.
    """
    height, width = pixels.shape[2] // factor, pixels.shape[3] // factor
    outputs = []
    for image in torch.split(pixels.float(), 1):
        x = image
        for scale in ((0.5, 1.2), (0.7, 1.2)):
            x = gaussian_blur(x, *_sigmas(rng), rng.uniform(0, math.pi))
            side = float(rng.uniform(*scale))
            # Never below the output size.
            x = resize(
                x,
                max(round(x.shape[2] * side), height),
                max(round(x.shape[3] * side), width),
                "cubic" if rng.random() < 0.5 else "linear",
            )
            x = add_noise(x, rng)
            x = jpeg_round_trip(_to_uint8(x), int(rng.integers(40, 95))).float()
        outputs.append(_to_uint8(resize(x, height, width, "cubic")))
    return torch.cat(outputs)


def gaussian_blur(images: Tensor, sigma_x: float, sigma_y: float, angle: float) -> Tensor:
    """Blur float images with an anisotropic Gaussian.

    `sigma_x` and `sigma_y` are in pixels, along axes rotated by `angle` radians.
    """
    radius = max(math.ceil(3 * max(sigma_x, sigma_y)), 1)
    steps = torch.arange(-radius, radius + 1, dtype=torch.float32)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    u = x * math.cos(angle) + y * math.sin(angle)
    v = y * math.cos(angle) - x * math.sin(angle)
    kernel = torch.exp(-((u / max(sigma_x, 1e-3)) ** 2 + (v / max(sigma_y, 1e-3)) ** 2) / 2)
    kernel = (kernel / kernel.sum())[None, None]
    padded = F.pad(images, (radius,) * 4, mode="replicate")
    blurred = F.conv2d(padded.flatten(0, 1)[:, None], kernel)
    return blurred.reshape(images.shape)


def add_noise(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Add Gaussian (sensor) or signal-dependent (shot) noise to float images in [0, 255].

    With probability ½ the noise is the same in all channels.
    """
    shape = list(images.shape)
    if rng.random() < 0.5:
        shape[1] = 1
    noise = torch.from_numpy(rng.standard_normal(shape)).float()
    if rng.random() < 0.5:
        return images + noise * float(rng.uniform(0, 10))
    # The variance of shot noise is proportional to the signal.
    return images + noise * (images.clamp(min=0) / 255).sqrt() * float(rng.uniform(0, 12))


def jpeg_round_trip(pixels: Tensor, quality: int) -> Tensor:
    """Encode and decode images as JPEG. Images with an alpha channel are returned unchanged."""
    if pixels.shape[1] == 4:
        return pixels
    outputs = []
    for image in pixels.permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(
            file, "JPEG", quality=quality
        )
        decoded: NDArray[np.uint8] = np.asarray(Image.open(file))
        outputs.append(torch.from_numpy(decoded.reshape(image.shape).copy()))
    return torch.stack(outputs).permute(0, 3, 1, 2)


def _sigmas(rng: np.random.Generator) -> tuple[float, float]:
    """Draw the blur's two sigmas, which are equal with probability ½."""
    sigma = float(rng.uniform(0.1, 1.5))
    return sigma, sigma if rng.random() < 0.5 else float(rng.uniform(0.1, 1.5))


def _to_uint8(images: Tensor) -> Tensor:
    return images.round().clamp(0, 255).to(torch.uint8)
