"""The commands of docs/import.md, each with a file of the layout that it speaks of."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from service.cli.main import app
from tests.support.checkpoints import drawn
from tests.training.importers.formats.image.test_animegan import anime_shapes
from tests.training.importers.formats.image.test_compact import compact_shapes
from tests.training.importers.formats.image.test_residual import resnet_shapes
from tests.training.importers.formats.image.test_rrdb import rrdb_shapes
from tests.training.importers.formats.image.test_srgan import srgan_shapes
from tests.training.importers.formats.image.test_unet import unet_shapes
from tests.training.importers.formats.noise import test_lucidrains as lucidrains
from tests.training.importers.formats.noise import test_stylegan2 as stylegan2
from tests.training.importers.formats.noise import test_stylegan3 as stylegan3
from tests.training.importers.formats.noise.test_pytorch_gan import doubling_shapes
from tests.training.importers.formats.noise.test_sequential import dcgan_shapes, mlp_shapes
from tests.training.importers.reading.test_hostile_files import graph_file

TEXT = (Path(__file__).parents[3] / "docs" / "import.md").read_text()
DCGAN = dcgan_shapes(9, (6, 4), 3)


def saved(shapes):
    return lambda path: torch.save(drawn(shapes), path)


def rosinality(path):
    state = stylegan2.to_rosinality(stylegan2.weights([6, 4]), [4, 8])
    torch.save({"g_ema": state}, path)


def with_configuration(path):
    path.parent.mkdir(parents=True)
    lucidrains.save(path, lucidrains.stylegan2([8, 6]))
    (path.parent / ".config.json").write_text('{"image_size": 8, "lr_mlp": 0.3}')


# What each file is, and what `--explain` says of it.
FILES = {
    "network-snapshot-025000.pkl": (
        lambda path: stylegan2.nvidia_file(path, stylegan2.weights([6, 4])),
        "it is StyleGAN2-ADA",
    ),
    "stylegan3-t-ffhq-1024x1024.pkl": (
        lambda path: stylegan3.write_pickle(path, *stylegan3.layout("t")),
        "it is StyleGAN3",
    ),
    "ffhq.pkl": (
        lambda path: stylegan2.nvidia_file(path, stylegan2.weights([6, 4])),
        "it is StyleGAN2-ADA",
    ),
    "models/flowers/model_150.pt": (with_configuration, "it is StyleGAN2 (lucidrains)"),
    "550000.pt": (rosinality, "it is StyleGAN2 (rosinality)"),
    "RealESRGAN_x4plus.pth": (saved(rrdb_shapes()), "it is ESRGAN, Real-ESRGAN"),
    "realesr-animevideov3-x4.pth": (saved(compact_shapes()), "it is Real-ESRGAN Compact"),
    "srgan_x4_leftthomas.pth": (saved(srgan_shapes()), "it is SRGAN"),
    "latest_net_G_A.pth": (saved(resnet_shapes(2)), "it is CycleGAN's residual generator"),
    "latest_net_G.pth": (saved(resnet_shapes(2)), "it is CycleGAN's residual generator"),
    "facades_net_G.pth": (
        saved(unet_shapes(5, instance=False, dropout=False)),
        "it is pix2pix's U-Net",
    ),
    "paprika.pt": (saved(anime_shapes(1)), "it is AnimeGANv2"),
    "dcgan_faces64.tar": (saved(DCGAN), "it is DCGAN"),
    "conditional_dcgan.pth": (saved(DCGAN), "classes: 3"),
    "mnist_cwgan_gp.pth": (saved(doubling_shapes(1, (10, 10))), "it is Doubling generator"),
    "mnist_gan_mlp.ckpt": (saved(mlp_shapes([8, 12, 784])), "it is Perceptron"),
    "both.pth": (
        lambda path: torch.save({"G_A": drawn(DCGAN), "G_B": drawn(DCGAN)}, path),
        "G_B: 13 tensors",
    ),
    "gen.onnx": (graph_file, "is taken for pixels"),
}


def commands():
    blocks = re.findall(r"^```sh\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", "").splitlines()
    found = [
        shlex.split(line, comments=True) for line in lines if line.startswith("ganymede import")
    ]
    named = {words[2]: words[1:] for words in found}
    return [named[file] for file in FILES]


@pytest.mark.parametrize("command", commands(), ids=list(FILES))
def test_the_commands_of_the_documentation_know_their_files(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    write, says = FILES[command[1]]
    write(Path(command[1]))
    result = CliRunner().invoke(app, [*command, "--explain"], catch_exceptions=False)
    assert result.exit_code == 0
    assert says in result.output
