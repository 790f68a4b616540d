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
from training.trainer import Interrupted, train

OFTEN = ["train.checkpoint_images=640", "train.log_images=640", "train.sample_images=1280"]


def command(recipe, digits, out, *more) -> list[str]:
    overrides = [*TINY[recipe], f"data.path={digits}", *OFTEN, *more]
    return ganymede("train", recipe, *overrides, "--out", out)


def flat(state, prefix="") -> dict[str, torch.Tensor]:
    found = {}
    items = state.items() if isinstance(state, dict) else enumerate(state)
    for key, value in items:
        if isinstance(value, torch.Tensor):
            found[f"{prefix}{key}"] = value
        elif isinstance(value, dict | list):
            found |= flat(value, f"{prefix}{key}.")
    return found


def assert_equal_bit_for_bit(one: Path, other: Path) -> None:
    first, second = (Checkpoint.load(Run(run).checkpoint_path) for run in (one, other))
    assert (first.turn, first.images) == (second.turn, second.images)
    left, right = flat(first.game), flat(second.game)
    assert left.keys() == right.keys()
    for key, tensor in left.items():
        torch.testing.assert_close(tensor, right[key], rtol=0, atol=0, msg=key)


def kill_in_the_middle(arguments, run: Path, after: int) -> None:
    """Start the command and SIGKILL it when the run has a checkpoint at `after` images or more."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    path = Run(run).checkpoint_path
    deadline = time.monotonic() + 120
    while not path.exists() or Checkpoint.load(path).images < after:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("recipe", TINY)
def test_a_run_killed_and_started_again_equals_one_that_was_not(tmp_path, digits, recipe):
    longer = ["train.images=64000", "data.flip=true"]
    unbroken = command(recipe, digits, tmp_path / "unbroken", *longer)
    subprocess.run(unbroken, check=True, capture_output=True)
    broken = command(recipe, digits, tmp_path / "broken", *longer)
    kill_in_the_middle(broken, tmp_path / "broken", after=3_000)
    assert Checkpoint.load(tmp_path / "broken" / "checkpoint.pt").images < 60_000
    subprocess.run(broken, check=True, capture_output=True)
    assert_equal_bit_for_bit(tmp_path / "unbroken", tmp_path / "broken")
    logged = [
        [json.loads(line)["images"] for line in (tmp_path / run / "log.jsonl").open()]
        for run in ("unbroken", "broken")
    ]
    assert logged[0] == logged[1]


def test_balanced_players_go_on_exactly_where_they_were(tmp_path, digits):
    # A target that is missed for some turns and met in others, and a stop within a round of looks.
    balanced = ["game.balance={target: 0.95, most: 4}", f"data.path={digits}", "train.batch=32"]
    overrides = [*TINY["gan-mnist"], *balanced]
    last = [*overrides, "train.images=6400"]
    train(load_recipe("gan-mnist", last), Run(tmp_path / "unbroken"))
    for recipe in ([*overrides, "train.images=3232"], last):
        train(load_recipe("gan-mnist", recipe), Run(tmp_path / "broken"))
    assert_equal_bit_for_bit(tmp_path / "unbroken", tmp_path / "broken")
    game = Checkpoint.load(tmp_path / "broken" / "checkpoint.pt").game
    steps = [
        game["optimizers"][name]["state"][0]["step"] for name in ("discriminator", "generator")
    ]
    assert steps[0] == 200
    assert 50 <= steps[1] < 200


def test_a_run_that_goes_on_remembers_which_alarms_ring(tmp_path, digits):
    overrides = [*TINY["gan-mnist"], f"data.path={digits}", "train.batch=16", *OFTEN[1:]]
    overrides += ["optimizer.discriminator.learning_rate=0.000000001"]
    run = Run(tmp_path / "run")
    for images in (5_120, 10_240):
        train(load_recipe("gan-mnist", [*overrides, f"train.images={images}"]), run)
    entries = [json.loads(line) for line in run.log_path.open()]
    rings = [entry for entry in entries if entry.get("alarm") == "generator wins"]
    assert len(rings) == 1
    assert rings[0]["images"] <= 5_120
    assert entries[-1]["state"] == "generator wins"


def growing(digits, network) -> list[str]:
    """Overrides of `stylegan-tiles`: tiny players that grow from 4 to 16 pixels in 640 images."""
    return [
        *(f"data.path={digits}", "data.resolution=16", "data.channels=1", "train.batch=16"),
        *("train.images=800", "train.sample_images=80"),
        "game.growing={start: 4, stage_images: 160, fade_images: 160}",
        *(f"generator.network={network}", f"discriminator.network={network}"),
        *("generator.w_dim=8", "generator.mapping_layers=1", "generator.z_dim=8"),
        *("generator.width=4", "generator.most=4", "discriminator.width=4", "discriminator.most=4"),
    ]


@contextmanager
def stopped_at(images):
    """Ask a run in this process to stop when it has seen so many images."""
    turn = NoiseToImage.turn

    def stopping(game, batches, rng, number, images_seen):
        if images_seen + len(batches[0].images) == images:
            signal.raise_signal(signal.SIGTERM)
        return turn(game, batches, rng, number, images_seen)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NoiseToImage, "turn", stopping)
        yield


@pytest.mark.parametrize("network", ["stylegan", "stylegan2"])
def test_a_run_that_grows_equals_one_that_was_not_stopped_and_is_exported_when_grown(
    tmp_path, digits, network
):
    overrides = growing(digits, network)
    whole, broken = Run(tmp_path / "whole"), Run(tmp_path / "broken")
    train(load_recipe("stylegan-tiles", overrides), whole)
    # Stopped in the middle of a stage, of a fade, and of another stage.
    for images in (80, 240, 400):
        with stopped_at(images), pytest.raises(Interrupted):
            train(load_recipe("stylegan-tiles", overrides), broken)
        with pytest.raises(ExportError, match=f"is at {images} images, and grown at 640"):
            export_run(broken, "x", tmp_path / "models")
    assert not (tmp_path / "models").exists()
    train(load_recipe("stylegan-tiles", overrides), broken)
    assert_equal_bit_for_bit(whole.folder, broken.folder)
    # Sheets have full size, however small the pictures on them still are.
    assert {Image.open(sheet).size for sheet in broken.samples.glob("*.png")} == {(128, 128)}
    model = Model(
        export_run(broken, "x", tmp_path / "models"), Provider.CPU, ExecutionPlan(1, 1, 8)
    )
    assert model.generate(range(3)).shape == (3, 16, 16, 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_asked_to_stop_is_saved_and_says_so(tmp_path, digits, number):
    arguments = command("gan-mnist", digits, tmp_path / "run", "train.images=6400000")
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run" / "checkpoint.pt").exists():
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "run the same command again to resume" in said
    assert "Error" not in said
    assert "Traceback" not in said


def test_the_run_folder_holds_what_the_user_wants_to_see(tmp_path, digits):
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
    assert [sheet.stem for sheet in sheets] == ["0000001280", "0000002560"]
    assert Image.open(sheets[0]).size == (8 * 28, 8 * 28)
    assert np.asarray(Image.open(sheets[0])).std() > 0
    logged = [json.loads(line) for line in run.log_path.open()]
    assert [entry["images"] for entry in logged if "diversity" in entry] == [1280, 2560]
    entries = [entry for entry in logged if "loss_generator" in entry]
    assert [entry["images"] for entry in entries] == [640, 1280, 1920, 2560]
    assert {"loss_discriminator", "loss_generator", "real_score", "fake_score"} <= entries[0].keys()
    assert 0 < entries[0]["real_score"] < 1
    assert scalars(run) >= {"loss_generator", "images_per_second"}


def scalars(run) -> set[str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.tensorboard))
    events.Reload()
    assert events.Tags()["images"] == ["samples"]
    return set(events.Tags()["scalars"])


def test_a_finished_run_is_finished_and_a_longer_one_goes_on(tmp_path, digits):
    overrides = [*TINY["gan-mnist"], f"data.path={digits}"]
    run = Run(tmp_path / "run")
    assert train(load_recipe("gan-mnist", overrides), run).images == 640
    before = run.checkpoint_path.read_bytes()
    assert train(load_recipe("gan-mnist", overrides), run).images == 640
    assert run.checkpoint_path.read_bytes() == before
    assert train(load_recipe("gan-mnist", [*overrides, "train.images=1280"]), run).images == 1280


def test_a_run_that_diverges_stops_and_keeps_the_last_good_checkpoint(tmp_path, digits):
    overrides = [*TINY["gan-mnist"], f"data.path={digits}", "train.checkpoint_images=128"]
    run = Run(tmp_path / "run")
    train(load_recipe("gan-mnist", overrides), run)
    checkpoint = Checkpoint.load(run.checkpoint_path)
    # A step so large that the weights overflow.
    for group in checkpoint.game["optimizers"]["generator"]["param_groups"]:
        group["lr"] = float("inf")
    checkpoint.save(run.checkpoint_path)
    good = run.checkpoint_path.read_bytes()
    with pytest.raises(TrainingDiverged, match="lower the learning rates"):
        train(load_recipe("gan-mnist", [*overrides, "train.images=1280"]), run)
    assert run.checkpoint_path.read_bytes() == good


def test_a_device_that_is_not_there_is_one_line(tmp_path, digits):
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    arguments = command("gan-mnist", digits, tmp_path / "run", "device.device=cuda")
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("Error: device.device is 'cuda'")
    assert "Traceback" not in done.stderr


def test_a_run_of_another_recipe_is_refused(tmp_path, digits):
    run = Run(tmp_path / "run")
    overrides = [*TINY["gan-mnist"], f"data.path={digits}"]
    train(load_recipe("gan-mnist", overrides), run)
    with pytest.raises(RecipeError, match="another recipe"):
        train(load_recipe("gan-mnist", [*overrides, "generator.z_dim=7"]), run)


def test_bfloat16_trains_too(tmp_path, digits):
    overrides = [*TINY["dcgan-fashion"], f"data.path={digits}", "device.precision=bfloat16"]
    result = train(load_recipe("dcgan-fashion", overrides), Run(tmp_path / "run"))
    assert result.images == 640
    assert result.metrics["loss_generator"] > 0
