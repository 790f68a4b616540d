import json
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.marks import skip_without_cuda, slow_except
from tests.support.servers import ganymede
from tests.support.tiny_recipes import TINY
from training.checkpoints import Checkpoint
from training.export.errors import ExportError
from training.export.exporter import export_run
from training.games.noise_to_image.game import NoiseToImage
from training.monitoring.metrics import TrainingDiverged
from training.recipe.errors import RecipeError
from training.recipe.loading import load_recipe
from training.run import Run
from training.trainer import TrainingInterrupted, train

OFTEN = ["train.checkpoint_images=640", "train.log_images=640", "train.sample_images=1280"]


def command(recipe, digits, out, *more) -> list[str]:
    overrides = [*TINY[recipe], f"data.path={digits}", *OFTEN, *more]
    return ganymede("train", recipe, *overrides, "--out", out)


def flatten(state, prefix="") -> dict[str, torch.Tensor]:
    tensors = {}
    items = state.items() if isinstance(state, dict) else enumerate(state)
    for key, value in items:
        if isinstance(value, torch.Tensor):
            tensors[f"{prefix}{key}"] = value
        elif isinstance(value, dict | list):
            tensors |= flatten(value, f"{prefix}{key}.")
    return tensors


def assert_same_checkpoint(one: Path, other: Path) -> None:
    first, second = (Checkpoint.load(Run(run).checkpoint_path) for run in (one, other))
    assert (first.turn, first.images) == (second.turn, second.images)
    left, right = flatten(first.game), flatten(second.game)
    assert left.keys() == right.keys()
    for key, tensor in left.items():
        torch.testing.assert_close(tensor, right[key], rtol=0, atol=0, msg=key)


def kill_after(arguments, run: Path, images: int) -> None:
    """Start the command and kill it once a checkpoint has at least `images` images."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    path = Run(run).checkpoint_path
    deadline = time.monotonic() + 120
    while not path.exists() or Checkpoint.load(path).images < images:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", TINY)
def test_killed_and_resumed_run_equals_uninterrupted_run(tmp_path, digits, recipe):
    settings = ["train.images=64000", "data.flip=true"]
    uninterrupted = command(recipe, digits, tmp_path / "uninterrupted", *settings)
    subprocess.run(uninterrupted, check=True, capture_output=True)
    interrupted = command(recipe, digits, tmp_path / "interrupted", *settings)
    kill_after(interrupted, tmp_path / "interrupted", images=3_000)
    assert Checkpoint.load(tmp_path / "interrupted" / "checkpoint.pt").images < 60_000
    subprocess.run(interrupted, check=True, capture_output=True)
    assert_same_checkpoint(tmp_path / "uninterrupted", tmp_path / "interrupted")
    logged = [
        [json.loads(line)["images"] for line in (tmp_path / run / "log.jsonl").open()]
        for run in ("uninterrupted", "interrupted")
    ]
    assert logged[0] == logged[1]


@pytest.mark.slow
def test_resumed_run_with_balance_equals_uninterrupted_run(tmp_path, digits):
    # The target is missed in some turns and met in others; the run is resumed mid-interval.
    balanced = ["game.balance={target: 0.95, most: 4}", f"data.path={digits}", "train.batch=32"]
    overrides = [*TINY["gan-mnist"], *balanced]
    last = [*overrides, "train.images=6400"]
    train(load_recipe("gan-mnist", last), Run(tmp_path / "uninterrupted"))
    for recipe in ([*overrides, "train.images=3232"], last):
        train(load_recipe("gan-mnist", recipe), Run(tmp_path / "interrupted"))
    assert_same_checkpoint(tmp_path / "uninterrupted", tmp_path / "interrupted")
    game = Checkpoint.load(tmp_path / "interrupted" / "checkpoint.pt").game
    steps = [
        game["optimizers"][name]["state"][0]["step"] for name in ("discriminator", "generator")
    ]
    assert steps[0] == 200
    assert 50 <= steps[1] < 200


@pytest.mark.slow
def test_resumed_run_does_not_repeat_active_alarms(tmp_path, digits):
    overrides = [*TINY["gan-mnist"], f"data.path={digits}", "train.batch=16", *OFTEN[1:]]
    overrides += ["optimizer.discriminator.learning_rate=0.000000001"]
    run = Run(tmp_path / "run")
    for images in (5_120, 10_240):
        train(load_recipe("gan-mnist", [*overrides, f"train.images={images}"]), run)
    entries = [json.loads(line) for line in run.log_path.open()]
    alarms = [entry for entry in entries if entry.get("alarm") == "generator wins"]
    assert len(alarms) == 1
    assert alarms[0]["images"] <= 5_120
    assert entries[-1]["state"] == "generator wins"


def growing(digits, network) -> list[str]:
    """Overrides of `stylegan-tiles`: tiny networks that grow from 4 to 16 pixels in 640 images."""
    return [
        *(f"data.path={digits}", "data.resolution=16", "data.channels=1", "train.batch=16"),
        *("train.images=800", "train.sample_images=80"),
        "game.growing={start: 4, stage_images: 160, fade_images: 160}",
        *(f"generator.network={network}", f"discriminator.network={network}"),
        *("generator.w_dim=8", "generator.mapping_layers=1", "generator.z_dim=8"),
        *("generator.width=4", "generator.most=4", "discriminator.width=4", "discriminator.most=4"),
    ]


@contextmanager
def interrupt_at(images):
    """Interrupt a run in this process when it has seen `images` images."""
    turn = NoiseToImage.turn

    def interrupting_turn(game, batches, rng, number, images_seen):
        if images_seen + len(batches[0].images) == images:
            signal.raise_signal(signal.SIGTERM)
        return turn(game, batches, rng, number, images_seen)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NoiseToImage, "turn", interrupting_turn)
        yield


@pytest.mark.slow
@pytest.mark.parametrize("network", ["stylegan", "stylegan2"])
def test_resumed_growing_run_equals_uninterrupted_run_and_exports_once_grown(
    tmp_path, digits, network
):
    overrides = growing(digits, network)
    uninterrupted, interrupted = Run(tmp_path / "uninterrupted"), Run(tmp_path / "interrupted")
    train(load_recipe("stylegan-tiles", overrides), uninterrupted)
    # Interrupt the run within a stage, within a fade and within another stage.
    for images in (80, 240, 400):
        with interrupt_at(images), pytest.raises(TrainingInterrupted):
            train(load_recipe("stylegan-tiles", overrides), interrupted)
        with pytest.raises(ExportError, match=f"trained on {images} images, and needs 640"):
            export_run(interrupted, "x", tmp_path / "models")
    assert not (tmp_path / "models").exists()
    train(load_recipe("stylegan-tiles", overrides), interrupted)
    assert_same_checkpoint(uninterrupted.folder, interrupted.folder)
    # Sheets have full size at every resolution of the growing networks.
    assert {Image.open(sheet).size for sheet in interrupted.samples.glob("*.png")} == {(128, 128)}
    model = Model(
        export_run(interrupted, "x", tmp_path / "models"), Provider.CPU, ExecutionPlan(1, 1, 8)
    )
    assert model.generate(range(3)).shape == (3, 16, 16, 1)


@pytest.mark.parametrize("number", slow_except(signal.SIGTERM, [signal.SIGINT, signal.SIGTERM]))
def test_interrupted_run_is_saved_and_tells_how_to_resume(tmp_path, digits, number):
    arguments = command("gan-mnist", digits, tmp_path / "run", "train.images=6400000")
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run" / "checkpoint.pt").exists():
        time.sleep(0.05)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "run the same command again to resume" in stderr
    assert "Error" not in stderr
    assert "Traceback" not in stderr


@pytest.mark.slow
def test_run_writes_progress_samples_and_log(tmp_path, digits):
    done = subprocess.run(
        command("dcgan-fashion", digits, tmp_path / "run", "train.images=2560"),
        check=True,
        capture_output=True,
        text=True,
    )
    assert "D(x)" in done.stderr
    assert "D(G(z))" in done.stderr
    assert "images/s" in done.stderr
    assert "ETA" in done.stderr
    run = Run(tmp_path / "run")
    sheets = sorted(run.samples.glob("*.png"))
    # A slow machine also writes sheets between these, at times of its own.
    assert {"0000001280", "0000002560"} <= {sheet.stem for sheet in sheets}
    assert Image.open(sheets[0]).size == (8 * 28, 8 * 28)
    assert np.asarray(Image.open(sheets[0])).std() > 0
    logged = [json.loads(line) for line in run.log_path.open()]
    assert [entry["images"] for entry in logged if "diversity" in entry] == [1280, 2560]
    entries = [entry for entry in logged if "loss_generator" in entry]
    assert [entry["images"] for entry in entries] == [640, 1280, 1920, 2560]
    assert {"loss_discriminator", "loss_generator", "real_score", "fake_score"} <= entries[0].keys()
    assert 0 < entries[0]["real_score"] < 1
    assert scalars(run) >= {"loss_generator", "images_per_second"}


def test_early_reports_and_sheets_do_not_change_run_or_log(tmp_path, digits, monkeypatch, capfd):
    recipe = load_recipe("dcgan-fashion", [*TINY["dcgan-fashion"], f"data.path={digits}", *OFTEN])
    plain, watched = Run(tmp_path / "plain"), Run(tmp_path / "watched")
    train(recipe, plain)
    # Everything is due after every turn.
    monkeypatch.setattr("training.trainer.INTERVALS", (0.0, 0.0))
    monkeypatch.setattr("training.trainer._SHEETS", (0.0, 0.0))
    capfd.readouterr()
    train(recipe, watched)
    assert capfd.readouterr().err.count("images/s") == 5
    assert len(list(watched.samples.glob("*.png"))) == 5
    assert_same_checkpoint(plain.folder, watched.folder)

    def metrics(run: Run) -> list[dict]:
        timing = ("seconds", "images_per_second")
        return [{k: v for k, v in line.items() if k not in timing} for line in run.read_log()]

    assert metrics(watched) == metrics(plain)


def scalars(run) -> set[str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.tensorboard))
    events.Reload()
    assert events.Tags()["images"] == ["samples"]
    return set(events.Tags()["scalars"])


def test_finished_run_is_unchanged_unless_extended(tmp_path, digits):
    overrides = [*TINY["gan-mnist"], f"data.path={digits}"]
    run = Run(tmp_path / "run")
    assert train(load_recipe("gan-mnist", overrides), run).images == 640
    before = run.checkpoint_path.read_bytes()
    assert train(load_recipe("gan-mnist", overrides), run).images == 640
    assert run.checkpoint_path.read_bytes() == before
    assert train(load_recipe("gan-mnist", [*overrides, "train.images=1280"]), run).images == 1280


def test_diverged_run_keeps_last_good_checkpoint(tmp_path, digits):
    overrides = [*TINY["gan-mnist"], f"data.path={digits}", "train.checkpoint_images=128"]
    run = Run(tmp_path / "run")
    train(load_recipe("gan-mnist", overrides), run)
    good = run.checkpoint_path.read_bytes()
    # The step is so large that the weights overflow.
    too_fast = [*overrides, "train.images=1280", "optimizer.generator.learning_rate=.inf"]
    with pytest.raises(TrainingDiverged, match="lower the learning rates"):
        train(load_recipe("gan-mnist", too_fast), run, override=True)
    assert run.checkpoint_path.read_bytes() == good


@pytest.mark.cuda
@skip_without_cuda
@pytest.mark.parametrize("recipe", ["gan-mnist", "dcgan-fashion"])
def test_run_trained_on_cuda_is_exported_and_generates(tmp_path, digits, recipe):
    overrides = [*TINY[recipe], f"data.path={digits}", "device.device=cuda"]
    run = Run(tmp_path / "run")
    train(load_recipe(recipe, overrides), run)
    folder = export_run(run, recipe, tmp_path / "models")
    images = Model(folder, Provider.CPU, ExecutionPlan(1, 1, 4)).generate(range(4))
    assert images.shape == (4, 28, 28, 1)
    assert images.std() > 0


def test_unavailable_device_gives_one_line_error(tmp_path, digits):
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    arguments = command("gan-mnist", digits, tmp_path / "run", "device.device=cuda")
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("Error: device.device is 'cuda'")
    assert "Traceback" not in done.stderr


def test_rejects_run_of_another_recipe(tmp_path, digits):
    run = Run(tmp_path / "run")
    overrides = [*TINY["gan-mnist"], f"data.path={digits}"]
    train(load_recipe("gan-mnist", overrides), run)
    with pytest.raises(RecipeError, match="another recipe"):
        train(load_recipe("gan-mnist", [*overrides, "generator.z_dim=7"]), run)


def test_override_changes_learning_rate_and_is_recorded(tmp_path, digits):
    overrides = [*TINY["gan-mnist"], f"data.path={digits}"]
    run = Run(tmp_path / "run")
    train(load_recipe("gan-mnist", overrides), run)
    slower = [*overrides, "train.images=1280", "optimizer.generator.learning_rate=0.00003"]
    with pytest.raises(RecipeError, match="with --override"):
        train(load_recipe("gan-mnist", slower), run)
    train(load_recipe("gan-mnist", slower), run, override=True)
    optimizer = Checkpoint.load(run.checkpoint_path).game["optimizers"]["generator"]
    assert optimizer["param_groups"][0]["lr"] == 0.00003
    train(load_recipe("gan-mnist", slower), run)
    card = (export_run(run, "x", tmp_path / "models") / "README.md").read_text()
    change = "after 640 images: optimizer.generator.learning_rate was 0.0002, now 3e-05"
    assert f"| Changed during the run | {change} |" in card


def test_resuming_with_other_images_is_refused(tmp_path):
    for name, gray in (("a", 10), ("b", 200)):
        Image.new("L", (28, 28), gray).save(tmp_path / f"{name}.png")
    (tmp_path / "images").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "images/a.png")
    small = [*TINY["gan-mnist"], "generator.widths=[8]", "train.batch=16", "train.images=32"]
    small.append(f"data.path={tmp_path / 'images'}")
    run = Run(tmp_path / "run")
    train(load_recipe("gan-mnist", small), run)
    before = run.provenance()
    (tmp_path / "b.png").rename(tmp_path / "images/b.png")
    longer = load_recipe("gan-mnist", [*small, "train.images=64"])
    with pytest.raises(RecipeError, match=r"data was images, 1 images.* now images, 2 images"):
        train(longer, run)
    assert run.provenance() == before
    assert run.recipe().train.images == 32
    assert train(longer, run, override=True).images == 64
    assert [override.images for override in run.provenance().overrides] == [32]


def test_trains_in_bfloat16(tmp_path, digits):
    overrides = [*TINY["dcgan-fashion"], f"data.path={digits}", "device.precision=bfloat16"]
    result = train(load_recipe("dcgan-fashion", overrides), Run(tmp_path / "run"))
    assert result.images == 640
    assert result.metrics["loss_generator"] > 0
