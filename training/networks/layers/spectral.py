"""Spectral normalization of weights (Miyato et al. 2018, arXiv:1802.05957)."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.parametrizations import spectral_norm


def spectral_conv(fan_in: int, fan_out: int, kernel: int, *, bias: bool = True) -> nn.Module:
    """Build a spectrally normalized convolution with "same" padding."""
    return with_spectral_norm(nn.Conv2d(fan_in, fan_out, kernel, padding=kernel // 2, bias=bias))


def with_spectral_norm(layer: nn.Module) -> nn.Module:
    """Apply spectral normalization to a layer's weight (Miyato et al. 2018, arXiv:1802.05957)."""
    # Modules on the `meta` device have no values, and the initial power iteration takes seconds.
    if layer.get_parameter("weight").is_meta:
        return layer
    normalized: nn.Module = spectral_norm(layer)
    return normalized
