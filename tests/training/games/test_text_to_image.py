"""The game text_to_image: resuming, held-out captions, and the exported model."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from service.runtime.models.golden import check_golden
from service.runtime.models.model import GoldenMatch, Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from training.checkpoints import Checkpoint
from training.export.exporter import export_run
from training.recipe.loading import load_recipe
from training.run import Run
from training.trainer import train

TINY = [
    "data.resolution=16",
    "game.captions.style=false",
    "generator.width=2",
    "generator.most=8",
    "generator.w_dim=8",
    "generator.class_width=8",
    "generator.z_dim=8",
    "generator.mapping_layers=1",
    "discriminator.width=2",
    "discriminator.most=8",
    "train.batch=8",
    "train.images=48",
    "train.log_images=16",
    "train.sample_images=48",
    "train.loggers=[]",
    "device.precision=float32",
]
COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


@pytest.fixture
def drawings(tmp_path):
    folder = tmp_path / "drawings"
    folder.mkdir()
    lines = []
    for number in range(48):
        name, color = list(COLORS.items())[number % 3]
        Image.new("RGB", (16, 16), color).save(folder / f"{number:02}.png")
        lines.append({"file_name": f"{number:02}.png", "text": f"{name} thing {number // 6}"})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def recipe(folder, *overrides):
    return load_recipe("text2emoji", [*TINY, f"data.path={folder}", *overrides])


def test_resumed_run_equals_an_uninterrupted_one(drawings, tmp_path):
    whole, parts = Run(tmp_path / "whole"), Run(tmp_path / "parts")
    train(recipe(drawings), whole)
    for images in (16, 48):
        train(recipe(drawings, f"train.images={images}"), parts)
    states = [Checkpoint.load(run.checkpoint_path).game["networks"] for run in (whole, parts)]
    for name in ("generator", "discriminator"):
        for key, weight in states[0][name].items():
            assert torch.equal(weight, states[1][name][key]), key


@pytest.mark.parametrize(
    ("hold_out", "note"), [("4", "held-out images"), ("null", "training images")]
)
def test_preview_names_the_origin_of_its_prompts(drawings, tmp_path, hold_out, note):
    run = Run(tmp_path / "run")
    train(recipe(drawings, "train.images=16", f"data.hold_out={hold_out}"), run)
    folder = export_run(run, "drawings", tmp_path / "models")
    assert f"captions of {note}" in (folder / "README.md").read_text()
    model = Model(folder, Provider.CPU, ExecutionPlan(1, 1, 8))
    assert check_golden(model, folder) is GoldenMatch.EXACT
    text = np.zeros((1, 256), np.float32)
    pixels = model.run("generator", {"z": np.zeros((1, 8), np.float32), "text": text})["pixels"]
    assert pixels.shape == (1, 16, 16, 3)
