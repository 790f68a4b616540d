"""A small model with weights that are large enough to be stored as fp16 or in a second file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from service.runtime.models.parts.outputs import ImageSpec
from training.importers.formats.base import converted_generator
from training.importers.import_model import ImportTarget, import_model
from training.importers.recognition import FORMATS


class TwoLayerGenerator(nn.Module):
    """Latents ``[N, 16]`` to images ``[N, 3, 8, 8]``."""

    def __init__(self) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.inner = nn.Linear(16, 64)
        self.outer = nn.Linear(64, 192)
        for layer in (self.inner, self.outer):
            layer.weight.data = torch.randn(layer.weight.shape, generator=rng) * 0.2
            layer.bias.data = torch.randn(layer.bias.shape, generator=rng) * 0.2

    def forward(self, z, class_weights=None):
        return torch.tanh(self.outer(torch.tanh(self.inner(z)))).reshape(-1, 3, 8, 8)


def write_model(folder: Path, *, fp16: bool = False, report=lambda _: None) -> Path:
    """Write the generator as a model folder below `folder`."""
    source = folder / "weights.pth"
    folder.mkdir(exist_ok=True)
    source.write_bytes(b"weights")
    converted = converted_generator(
        "Two layers", TwoLayerGenerator(), 16, ImageSpec(height=8, width=8, channels=3)
    )
    target = ImportTarget(folder / "models", "two-layers", fp16=fp16)
    return import_model(source, FORMATS[0], converted, target, report=report)
