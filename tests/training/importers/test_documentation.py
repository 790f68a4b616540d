"""The commands in docs/import.md, each run with a checkpoint of the format that it names."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from service.cli.main import app
from tests.support.checkpoint_layouts import lucidrains, ncnn, stylegan2, stylegan3
from tests.support.checkpoint_layouts.animegan import anime_shapes
from tests.support.checkpoint_layouts.compact import compact_shapes
from tests.support.checkpoint_layouts.onnx_graph import write_graph
from tests.support.checkpoint_layouts.pytorch_gan import pytorch_gan_shapes
from tests.support.checkpoint_layouts.residual import resnet_shapes
from tests.support.checkpoint_layouts.rrdb import rrdb_shapes
from tests.support.checkpoint_layouts.sequential import dcgan_shapes, mlp_shapes
from tests.support.checkpoint_layouts.srgan import srgan_shapes
from tests.support.checkpoint_layouts.unet import unet_shapes
from tests.support.checkpoints import random_tensors

TEXT = (Path(__file__).parents[3] / "docs" / "import.md").read_text()
DCGAN = dcgan_shapes(9, (6, 4), 3)


def write_tensors(shapes):
    return lambda path: torch.save(random_tensors(shapes), path)


def write_stylegan2_pickle(path):
    stylegan2.write_pickle(path, stylegan2.nvidia_tensors([6, 4]))


def write_stylegan3_pickle(path):
    stylegan3.write_pickle(path, *stylegan3.pickle_content("t"))


def write_rosinality(path):
    state = stylegan2.to_rosinality(stylegan2.nvidia_tensors([6, 4]), [4, 8])
    torch.save({"g_ema": state}, path)


def write_lucidrains_with_config(path):
    path.parent.mkdir(parents=True)
    lucidrains.save_checkpoint(path, lucidrains.stylegan2_tensors([8, 6]))
    (path.parent / ".config.json").write_text('{"image_size": 8, "lr_mlp": 0.3}')


def write_two_networks(path):
    torch.save({"G_A": random_tensors(DCGAN), "G_B": random_tensors(DCGAN)}, path)


def write_ncnn(path):
    layers, weights, _ = ncnn.upscaler(np.random.default_rng(0), factor=4)
    ncnn.write_network(path, layers, weights)


# For each file of a command: the function that writes it, and text that `--explain` prints.
FILES = {
    "realesr-animevideov3-x4.param": (write_ncnn, "ncnn, 8 layers"),
    "network-snapshot-025000.pkl": (write_stylegan2_pickle, "matches StyleGAN2-ADA"),
    "stylegan3-t-ffhq-1024x1024.pkl": (write_stylegan3_pickle, "matches StyleGAN3"),
    "ffhq.pkl": (write_stylegan2_pickle, "matches StyleGAN2-ADA"),
    "models/flowers/model_150.pt": (
        write_lucidrains_with_config,
        "matches StyleGAN2 (lucidrains)",
    ),
    "550000.pt": (write_rosinality, "matches StyleGAN2 (rosinality)"),
    "RealESRGAN_x4plus.pth": (write_tensors(rrdb_shapes()), "matches ESRGAN, Real-ESRGAN"),
    "realesr-animevideov3-x4.pth": (
        write_tensors(compact_shapes()),
        "matches Real-ESRGAN Compact",
    ),
    "srgan_x4_leftthomas.pth": (write_tensors(srgan_shapes()), "matches SRGAN"),
    "latest_net_G_A.pth": (
        write_tensors(resnet_shapes(2)),
        "matches CycleGAN's residual generator",
    ),
    "latest_net_G.pth": (write_tensors(resnet_shapes(2)), "matches CycleGAN's residual generator"),
    "facades_net_G.pth": (
        write_tensors(unet_shapes(5, instance=False, dropout=False)),
        "matches pix2pix's U-Net",
    ),
    "paprika.pt": (write_tensors(anime_shapes(1)), "matches AnimeGANv2"),
    "dcgan_faces64.tar": (write_tensors(DCGAN), "matches DCGAN"),
    "conditional_dcgan.pth": (write_tensors(DCGAN), "classes: 3"),
    "mnist_cwgan_gp.pth": (
        write_tensors(pytorch_gan_shapes(1, (10, 10))),
        "matches PyTorch-GAN generator",
    ),
    "mnist_gan_mlp.ckpt": (
        write_tensors(mlp_shapes([8, 12, 784])),
        "matches Multilayer perceptron",
    ),
    "both.pth": (write_two_networks, "G_B: 13 tensors"),
    "gen.onnx": (write_graph, "is used as pixels"),
}


def documented_commands():
    """Return the arguments of `ganymede import` in each documented command with a known file."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", "").splitlines()
    commands = [
        shlex.split(line, comments=True) for line in lines if line.startswith("ganymede import")
    ]
    by_file = {words[2]: words[1:] for words in commands}
    return [by_file[file] for file in FILES]


@pytest.mark.parametrize("command", documented_commands(), ids=list(FILES))
def test_documented_commands_recognize_the_format(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    write, expected = FILES[command[1]]
    write(Path(command[1]))
    result = CliRunner().invoke(app, [*command, "--explain"], catch_exceptions=False)
    assert result.exit_code == 0
    assert expected in result.output
