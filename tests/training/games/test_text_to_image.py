"""The game text_to_image: resuming, held-out captions, and the exported model."""

import numpy as np
import pytest
import torch

from service.runtime.models.golden import check_golden
from service.runtime.models.model import GoldenMatch, Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.text_to_image import TINY, write_drawings
from training.checkpoints import Checkpoint
from training.export.exporter import export_run
from training.recipe.loading import load_recipe
from training.run import Run
from training.trainer import train


@pytest.fixture
def drawings(tmp_path):
    return write_drawings(tmp_path / "drawings")


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


def test_truncated_captions_are_counted_in_the_output_and_in_the_record(tmp_path, capsys):
    folder = write_drawings(tmp_path / "long", "thing " * 300)
    run = Run(tmp_path / "run")
    train(recipe(folder, "train.images=16", "data.hold_out=null"), run)
    line = "48 of 48 captions truncated to the first 256 tokens, the limit of wordllama"
    assert capsys.readouterr().err.count(line) == 1
    assert run.provenance().data[0].preparation == line
    short = write_drawings(tmp_path / "short")
    assert recipe(short).game.prepare_data(recipe(short)).preparation is None
