"""Recognition of networks in a file, and published weights if they are installed."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from service.runtime.errors import UserError
from service.runtime.latent import seeds
from tests.support.checkpoints import import_checkpoint, random_tensors, recognize, to_levels
from training.importers.errors import ModelImportError, UnsafeFileError
from training.importers.options import UserOptions
from training.importers.reading.files import read_file


def dcgan_tensors(z=10, widths=(16, 8, 4), channels=3, prefix="main."):
    shapes, fan_in = {}, z
    for i, width in enumerate((*widths, channels)):
        shapes[f"{prefix}{3 * i}.weight"] = (fan_in, width, 4, 4)
        if i < len(widths):
            for name in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{prefix}{3 * i + 1}.{name}"] = (width,)
            shapes[f"{prefix}{3 * i + 1}.num_batches_tracked"] = ()
        fan_in = width
    return random_tensors(shapes, scale=0.5)


def reference_output(t, z, prefix="main."):
    """Return the images of a DCGAN in float64."""
    x, i = z[:, :, None, None], 0
    while f"{prefix}{i}.weight" in t:
        step = {} if i == 0 else {"stride": 2, "padding": 1}
        x = F.conv_transpose2d(x, t[f"{prefix}{i}.weight"].double(), **step)
        norm = f"{prefix}{i + 1}"
        if f"{norm}.weight" in t:
            mean, var, scale, shift = (
                t[f"{norm}.{name}"].double()[:, None, None]
                for name in ("running_mean", "running_var", "weight", "bias")
            )
            x = ((x - mean) / torch.sqrt(var + 1e-5) * scale + shift).clamp(min=0)
        i += 3
    return torch.tanh(x)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.", "netG."])
def test_recognizes_dcgan_in_any_wrapper(tmp_path, channels, wrapper):
    tensors = dcgan_tensors(channels=channels)
    torch.save(
        {"netG_state_dict": {wrapper + name: value for name, value in tensors.items()}},
        tmp_path / "g.tar",
    )
    best, model = import_checkpoint(tmp_path / "g.tar", tmp_path / "models")
    assert best.format.name == "dcgan"
    z = torch.from_numpy(seeds.draw([0, 3], 10)).double()
    expected = to_levels(reference_output(tensors, z))
    assert np.abs(model.generate([0, 3]).astype(int) - expected).max() <= 1
    assert model.manifest.provenance.kind == "import"


def test_classes_option_adds_one_hot_classes(tmp_path):
    tensors = dcgan_tensors(z=13)
    torch.save(tensors, tmp_path / "g.pth")
    _, model = import_checkpoint(tmp_path / "g.pth", tmp_path / "models", UserOptions(classes=3))
    assert model.manifest.latent.dimension == 10
    z = torch.from_numpy(seeds.draw([5], 10)).double()
    for index in range(3):
        with_class = torch.cat([z, F.one_hot(torch.tensor([index]), 3).double()], 1)
        expected = to_levels(reference_output(tensors, with_class))
        assert np.abs(model.generate([5], [index]).astype(int) - expected).max() <= 1


def test_requires_network_option_for_several_networks(tmp_path):
    torch.save({"G_A": dcgan_tensors(), "G_B": dcgan_tensors(z=7)}, tmp_path / "both.pth")
    with pytest.raises(UserError, match=r"--network G_A .*--network G_B"):
        recognize(tmp_path / "both.pth")
    assert recognize(tmp_path / "both.pth", network="G_B").network.name == "G_B"


def test_rejects_unknown_formats(tmp_path):
    torch.save({f"block{i}.weird": torch.zeros(2, 2) for i in range(9)}, tmp_path / "x.pth")
    with pytest.raises(ModelImportError, match="matches no known format"):
        recognize(tmp_path / "x.pth")


def test_rejects_torchscript(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "script.pt"))
    with pytest.raises(UnsafeFileError, match="TorchScript"):
        read_file(tmp_path / "script.pt")


WEIGHTS = Path(os.environ.get("GANYMEDE_WEIGHTS", Path(__file__).parents[4] / "shared/weights"))


@pytest.mark.parametrize(
    ("file", "name", "options"),
    [
        ("dcgan_faces64.tar", "dcgan", UserOptions()),
        ("mnist_gan_mlp.ckpt", "mlp", UserOptions()),
        ("mnist_cwgan_gp.pth", "pytorch-gan", UserOptions(latent="unit")),
        ("srgan_x4_leftthomas.pth", "srgan", UserOptions()),
        ("realesr-animevideov3-x4.pth", "compact", UserOptions()),
    ],
)
def test_recognizes_published_weights(file, name, options):
    if not (WEIGHTS / file).exists():
        pytest.skip("the weights are not installed")
    assert recognize(WEIGHTS / file, options).format.name == name
