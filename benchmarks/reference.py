"""Reference generators for benchmarks: well-known networks with initial weights.

Speed does not depend on the values of the weights, so nothing is trained or downloaded. Only the
statistics of batch normalization are estimated; otherwise the images would be uniform gray, which
encoders compress unrealistically fast.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

from service.runtime.models.manifest import MANIFEST_FILE, Manifest
from service.runtime.models.parts.latent import LatentSpace, Truncation
from service.runtime.models.parts.outputs import ImageSpec
from service.runtime.models.parts.provenance import TrainingProvenance
from training.export.graphs import generator_graph_specs, style_space
from training.export.model_folder import new_folder
from training.export.onnx_export import export_graph
from training.networks.layers.shapes import ImageShape
from training.networks.noise.dcgan import DCGANGeneratorOptions
from training.networks.noise.stylegan2 import StyleGAN2GeneratorOptions

# 3.8 million parameters, as in PyTorch's example.
DCGAN64 = "dcgan64"
# StyleGAN2 with 8192 / side channels, at most 512.
STYLEGAN256 = "stylegan256"
_OPTIONS: dict[str, DCGANGeneratorOptions | StyleGAN2GeneratorOptions] = {
    DCGAN64: DCGANGeneratorOptions(network="dcgan", z_dim=128, width=64),
    STYLEGAN256: StyleGAN2GeneratorOptions(network="stylegan2", width=32, most=512),
}
# Rows for the check against PyTorch; ten more take a minute on the large network.
_CHECKED = 4
_SIDES = {DCGAN64: 64, STYLEGAN256: 256}


def model_folder(name: str, models: Path) -> Path:
    """Return the folder of a reference model below `models`; export the model if it is missing."""
    folder = models / name / "1"
    if folder.exists():
        return folder
    options, side = _OPTIONS[name], _SIDES[name]
    torch.manual_seed(0)
    shape = ImageShape(3, side, side)
    generator = options.build(shape)
    _estimate_batch_statistics(generator, options.z_dim)
    with new_folder(folder) as part:
        parts = generator_graph_specs(generator.eval(), options.z_dim, rows=_CHECKED)
        graphs = {piece.role: export_graph(piece, part / f"{piece.role}.onnx") for piece in parts}
        truncates = any("truncation" in graph.inputs for graph in graphs.values())
        manifest = Manifest(
            name=name,
            version="1",
            task="generate",
            summary="untrained reference for benchmarks",
            graphs=graphs,
            image=ImageSpec(height=side, width=side, channels=3),
            latent=LatentSpace(
                dimension=options.z_dim, truncation=Truncation() if truncates else None
            ),
            styles=style_space(generator),
            provenance=TrainingProvenance(
                recipe=name,
                dataset="none",
                dataset_license="none",
                images=1,
                turns=1,
                seconds=0.0,
                device="cpu",
                seed=0,
                code_revision="none",
            ),
            license="Apache-2.0",
        )
        (part / MANIFEST_FILE).write_text(manifest.to_json())
    return folder


def _estimate_batch_statistics(generator: nn.Module, z_dim: int) -> None:
    norms = [module for module in generator.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the mean of all batches
    if norms:
        generator.train()
        with torch.no_grad():
            for _ in range(8):
                generator(torch.randn(32, z_dim))


if __name__ == "__main__":
    print(model_folder(sys.argv[1], Path(sys.argv[2])))
