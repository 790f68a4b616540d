import signal
import subprocess
import time

import pytest
import torch

from tests.support.distributed import train_command, train_processes
from training.checkpoints import Checkpoint

ORIGINAL_GAN = ["generator.widths=[64]", "discriminator.widths=[32]", "discriminator.dropout=0"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "parts", "penalties"),
    [(1, 1, ()), (2, 1, ()), (1, 2, ()), (1, 2, ("game.r1=1", "game.penalty_every=2"))],
)
def test_two_processes_equal_one_with_same_global_batch(tmp_path, digits, steps, parts, penalties):
    overrides = [*ORIGINAL_GAN, f"game.discriminator_steps={steps}", *penalties]
    one = train_processes(digits, tmp_path / "one", "gan-mnist", 1, *overrides)
    in_parts = f"train.accumulate={parts}"
    two = train_processes(digits, tmp_path / "two", "gan-mnist", 2, *overrides, in_parts)
    assert (one.turn, one.images) == (two.turn, two.images)
    for player, weights in one.game["networks"].items():
        total = 0.0
        for key, weight in weights.items():
            torch.testing.assert_close(
                two.game["networks"][player][key], weight, rtol=1e-4, atol=1e-5
            )
            total += weight.abs().sum().item()
        assert total > 0
    for key, weight in one.game["average"].items():
        torch.testing.assert_close(two.game["average"][key], weight, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_interrupted_processes_save_and_resume(tmp_path, digits):
    overrides = [*ORIGINAL_GAN, "train.checkpoint_images=1280"]
    command = train_command(
        digits, tmp_path / "run", "gan-mnist", 2, "train.images=6400000", *overrides
    )
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / "run" / "checkpoint.pt").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    stopped = Checkpoint.load(tmp_path / "run" / "checkpoint.pt").images
    assert stopped % 1280 != 0 or stopped > 1280
    longer = f"train.images={stopped + 3840}"
    resumed = train_processes(digits, tmp_path / "run", "gan-mnist", 2, longer, *overrides)
    assert stopped < resumed.images <= stopped + 3840


@pytest.mark.slow
def test_rejects_batch_not_divisible_by_processes(tmp_path, digits):
    command = train_command(
        digits, tmp_path / "run", "gan-mnist", 2, "train.batch=7", *ORIGINAL_GAN
    )
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode != 0
    assert "train.batch (7) cannot be divided among 2 processes" in done.stderr


@pytest.mark.slow
def test_two_processes_train_batch_normalized_networks(tmp_path, digits):
    small = ["generator.width=4", "discriminator.width=4"]
    checkpoint = train_processes(digits, tmp_path / "run", "dcgan-fashion", 2, *small)
    assert checkpoint.images == 3840
    assert all(torch.isfinite(weight).all() for weight in checkpoint.game["average"].values())


@pytest.mark.slow
def test_two_processes_train_growing_networks(tmp_path, digits):
    small = [
        *("data.resolution=16", "data.channels=1", "train.images=960", "train.log_images=160"),
        "game.growing={start: 4, stage_images: 160, fade_images: 160}",
        *("game.path_length=2", "game.path_length_every=2", "game.penalty_every=2"),
        *("generator.w_dim=8", "generator.mapping_layers=1", "train.accumulate=2"),
        *("generator.width=4", "generator.most=4", "discriminator.width=4", "discriminator.most=4"),
    ]
    checkpoint = train_processes(digits, tmp_path / "run", "stylegan2-tiles", 2, *small)
    assert checkpoint.images == 960
    assert all(torch.isfinite(weight).all() for weight in checkpoint.game["average"].values())
    # Noise differs between processes, so the result cannot equal that of one process.
    # The optimizers have updated all weights.
    for optimizer in checkpoint.game["optimizers"].values():
        assert len(optimizer["state"]) == len(optimizer["param_groups"][0]["params"])
