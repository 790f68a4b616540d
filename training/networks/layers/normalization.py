"""Normalization layers and weight initialization of image-to-image networks."""

from __future__ import annotations

from typing import Literal

from torch import nn

ImageNormalization = Literal["batch", "instance", "spectral", "none"]


def normalization_layers(kind: ImageNormalization, width: int) -> list[nn.Module]:
    """Return the normalization layers that follow a convolution with `width` outputs.

    The list is empty for spectral normalization, which parametrizes the convolution's weight.
    """
    match kind:
        case "batch":
            return [nn.BatchNorm2d(width)]
        case "instance":
            return [nn.InstanceNorm2d(width, affine=True)]
        case "spectral" | "none":
            return []


def init_weights(module: nn.Module) -> None:
    """Initialize a layer from N(0, 0.02), as in pix2pix and CycleGAN; for `nn.Module.apply`."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
