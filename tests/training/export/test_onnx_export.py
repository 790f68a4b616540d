"""The ONNX export and its checks against PyTorch."""

import pytest
import torch
from torch import nn

from service.runtime.latent import seeds
from service.runtime.onnx.sessions import ExecutionPlan, Provider, Session
from training.export.errors import ExportError
from training.export.onnx_export import export_generator
from training.networks.layers.shapes import ImageShape
from training.networks.noise.dcgan import DCGANGenerator
from training.preview.grids import to_pixels

PLAN = ExecutionPlan(1, 1, 64)


class BatchDependent(nn.Module):
    """A generator whose rows depend on the other rows of the batch."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 784)

    def forward(self, z, class_index=None):
        images = self.linear(z - z.mean(0, keepdim=True))
        return torch.tanh(images).reshape(-1, 1, 28, 28)


class Unfoldable(nn.Module):
    """A generator with a batch normalization that cannot be folded into a previous layer."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.linear = nn.Linear(16, 784)

    def forward(self, z, class_index=None):
        images = torch.sin(self.linear(z)).reshape(-1, 1, 28, 28)
        return torch.tanh(self.norm(images))


def test_pixels_match_pytorch_except_for_rounding(tmp_path):
    torch.manual_seed(0)
    generator = DCGANGenerator(16, ImageShape(3, 28, 28), 8).eval()
    for module in generator.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    graph = export_generator(generator, 16, tmp_path)["generator"]
    z = seeds.draw(range(50), 16)
    session = Session(tmp_path / graph.file, Provider.CPU, PLAN)
    with torch.no_grad():
        expected = to_pixels(generator(torch.from_numpy(z)))
    difference = session.run({"z": z})["pixels"].astype(int) - expected.astype(int)
    assert abs(difference).max() <= 1
    assert (difference == 0).mean() > 0.99


def test_rejects_batch_dependent_generators(tmp_path):
    with pytest.raises(ExportError, match=r"differ|one by one"):
        export_generator(BatchDependent(), 16, tmp_path)
    assert not list(tmp_path.iterdir())


def test_rejects_unfolded_batch_norm(tmp_path):
    with pytest.raises(ExportError, match="BatchNormalization"):
        export_generator(Unfoldable().eval(), 16, tmp_path)
    assert not list(tmp_path.iterdir())
