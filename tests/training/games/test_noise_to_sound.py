import json

import numpy as np
import pytest
import soundfile
import torch

from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.sounds import write_tones
from training.checkpoints import Checkpoint
from training.export.errors import ExportError
from training.export.exporter import export_run
from training.recipe.errors import RecipeError
from training.recipe.loading import load_recipe
from training.run import Run
from training.trainer import train

TINY = [
    "classes=2",
    "data.sound.samples=512",
    "generator.width=2",
    "generator.z_dim=8",
    "discriminator.width=2",
    "train.batch=8",
    "train.images=64",
    "train.log_images=16",
    "train.sample_images=32",
    "train.checkpoint_images=32",
    "train.loggers=[]",
    "device.device=cpu",
]


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    return write_tones(tmp_path_factory.mktemp("sounds") / "tones")


def tiny(tones, *more):
    return load_recipe("wavegan-digits", [*TINY, f"data.path={tones}", *more])


@pytest.fixture(scope="module")
def run(tones, tmp_path_factory) -> Run:
    run = Run(tmp_path_factory.mktemp("runs") / "tones")
    train(tiny(tones), run)
    return run


def test_resumed_run_equals_uninterrupted_run(tones, run, tmp_path):
    resumed = Run(tmp_path / "run")
    train(tiny(tones, "train.images=32"), resumed)
    train(tiny(tones), resumed)
    one, other = (Checkpoint.load(each.checkpoint_path) for each in (run, resumed))
    assert (one.turn, one.images) == (other.turn, other.images) == (4, 64)
    for name, network in one.game["networks"].items():
        for key, tensor in network.items():
            assert torch.equal(tensor, other.game["networks"][name][key]), key
    entries = [entry for entry in run.read_log() if "loss_generator" in entry]
    assert all(np.isfinite(entry["penalty"]) for entry in entries)
    assert any("diversity" in entry for entry in run.read_log())
    assert len(list(run.samples.iterdir())) >= 2


def test_the_record_states_padding(run):
    (record,) = run.provenance().data
    assert record.images == 24
    assert record.preparation is not None
    assert "24 padded" not in record.preparation
    assert "padded with silence" in record.preparation


def test_exported_model_returns_int16_samples(run, tmp_path):
    folder = export_run(run, "tones", tmp_path)
    model = Model(folder, Provider.CPU, ExecutionPlan(workers=1, threads=1, max_rows=16))
    manifest = model.manifest
    assert (manifest.task, manifest.image) == ("audio", None)
    assert manifest.audio is not None
    assert (manifest.audio.sample_rate, manifest.audio.samples) == (8000, 512)
    samples = model.generate(range(4))
    assert samples.dtype == np.int16
    assert samples.shape == (4, 512)
    assert samples.any()
    # Rows are independent, and classes differ.
    np.testing.assert_array_equal(model.generate([2])[0], samples[2])
    assert (model.generate([2], [1]) != model.generate([2], [0])).any()
    heard, rate = soundfile.read(folder / "preview.wav", dtype="int16")
    assert rate == 8000
    np.testing.assert_array_equal(heard[:512], samples[0])
    card = (folder / "README.md").read_text()
    assert "Limits:" in card
    assert "24 sounds" in card
    assert "images" not in json.loads((folder / "model.json").read_text())["summary"]


def test_refuses_to_export_the_discriminator(run, tmp_path):
    with pytest.raises(ExportError, match="sounds"):
        export_run(run, "tones", tmp_path, discriminator=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("game.augment={kind: ada}", "augment transforms images"),
        ("game.growing={start: 8}", "growing grows the resolution of images"),
        ("game.style_mixing=0.5", "style_mixing needs a generator with styles"),
        ("evaluate={}", "only images are evaluated during training"),
        ("game.kind=noise_to_image", "needs images"),
        ("data.flip=true", "flip applies to images"),
        ("data.sound=null", "needs sounds"),
        ("data.sound.samples=8190", "WaveGAN needs"),
        ("discriminator={network: dcgan}", "dcgan has images"),
    ],
)
def test_refuses_what_does_not_apply_to_sounds(option, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("wavegan-digits", [option])


def test_refuses_a_network_for_sounds_in_a_game_of_images():
    with pytest.raises(RecipeError, match="wavegan is a network for sounds"):
        load_recipe("dcgan-fashion", ["generator={network: wavegan}"])
