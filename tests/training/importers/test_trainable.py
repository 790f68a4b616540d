"""Training continues from imported generators."""

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from service.cli.main import app
from service.runtime.models.manifest import read_manifest
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.checkpoint_layouts.stylegan2 import W, Z, nvidia_tensors, write_pickle
from tests.support.checkpoints import random_tensors, to_levels
from training.checkpoints import Checkpoint
from training.fine_tuning.trainable import read_trainable
from training.recipe.loading import load_recipe
from training.run import Run
from training.trainer import train

# Sides 4, 8 and 16.
WIDTHS = (8, 8, 4)
DCGAN = {
    "main.0.weight": (6, 4, 4, 4),
    "main.3.weight": (4, 3, 4, 4),
    "main.6.weight": (3, 1, 4, 4),
}


def imported(file, models, *arguments):
    command = ["import", str(file), "--name", "m", "--models", str(models), *arguments]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return models / "m" / "1"


@pytest.fixture(scope="module")
def style_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported")
    write_pickle(folder / "network.pkl", nvidia_tensors(WIDTHS))
    return imported(folder / "network.pkl", folder, "--trainable", "--license", "MIT")


def test_a_recipe_of_the_same_shapes_takes_all_tensors(style_model, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    rng = np.random.default_rng(0)
    for i in range(4):
        pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(data / f"{i}.png")
    recipe = load_recipe(
        "stylegan2-tiles",
        [
            f"from={style_model}",
            f"data.path={data}",
            "data.resolution=16",
            "generator.width=4",
            "generator.most=8",
            f"generator.z_dim={Z}",
            f"generator.w_dim={W}",
            "generator.mapping_layers=2",
            "discriminator.width=4",
            "discriminator.most=8",
            "train.batch=4",
            "train.images=8",
            "fine_tune.freeze_generator_images=8",
            "device.device=cpu",
        ],
    )
    run = Run(tmp_path / "run")
    train(recipe, run)
    record = run.provenance().fine_tuned
    assert {each.network: each.share for each in record.networks} == {
        "generator": 1.0,
        "average": 1.0,
    }
    assert (record.source, record.license) == ("m@1", "MIT")

    generator = recipe.build_generator()
    generator.load_state_dict(Checkpoint.load(run.checkpoint_path).game["average"])
    model = Model(style_model, Provider.CPU, ExecutionPlan(1, 1, 8))
    z = torch.from_numpy(model.feeds([0, 1])["z"])
    with torch.no_grad():
        images = to_levels(generator.eval()(z))
    assert np.abs(images - model.generate([0, 1]).astype(int)).max() <= 1


def test_says_what_is_kept(style_model):
    manifest = read_manifest(style_model)
    assert manifest.trainable.networks == ("average",)
    assert "discriminator" in manifest.trainable.description
    card = (style_model / "README.md").read_text()
    assert manifest.trainable.description in card


def test_keeps_the_weights_before_layers_are_folded(tmp_path):
    tensors = random_tensors(DCGAN)
    torch.save({"netG": tensors}, tmp_path / "g.pth")
    folder = imported(tmp_path / "g.pth", tmp_path, "--trainable")
    kept = read_trainable(folder, read_manifest(folder)).networks["average"]
    for tensor in tensors.values():
        assert any(torch.equal(tensor, each) for each in kept.values())


def test_without_the_flag_only_graphs_are_written(tmp_path):
    torch.save({"netG": random_tensors(DCGAN)}, tmp_path / "g.pth")
    folder = imported(tmp_path / "g.pth", tmp_path)
    assert read_manifest(folder).trainable is None
    assert not list(folder.glob("*.safetensors"))
