"""W&B, offline: the files that it writes are read. Skipped without the extra `wandb`."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support import wandb_files
from tests.support.servers import ganymede
from tests.support.tiny_recipes import TINY
from training.monitoring.loggers.logger import LoggedRun, open_loggers
from training.recipe.loading import load_recipe
from training.run import Run
from training.trainer import train

pytest.importorskip("wandb", reason="needs the extra wandb")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")


def sessions(run: Path) -> list[Path]:
    """The sessions of a run, in the order in which they were started."""
    files = sorted(
        run.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns
    )
    return [file.parent for file in files]


def identifier(session: Path) -> str:
    (file,) = session.glob("run-*.wandb")
    return file.name


def logged(folder, config, images):
    return open_loggers(["wandb"], LoggedRun(folder, "first", config, images))


def test_metrics_sheets_and_recipe_are_logged_by_a_run(digits, tmp_path):
    run = Run(tmp_path / "run")
    overrides = [*TINY["gan-mnist"], f"data.path={digits}", "train.loggers=[wandb]"]
    overrides += ["train.log_images=320", "train.sample_images=640"]
    train(load_recipe("gan-mnist", overrides), run)
    (session,) = sessions(run.folder)
    rows = wandb_files.rows(session)
    losses = [(row["images"], row["_step"]) for row in rows if "loss_generator" in row]
    assert losses == [(384, 0), (640, 1)]
    (sheet,) = [row for row in rows if "samples.path" in row]
    logged_sheet = Image.open(session / "files" / sheet["samples.path"])
    assert np.array_equal(logged_sheet, Image.open(run.samples / "0000000640.png"))
    assert wandb_files.config(session)["train"]["batch"] == 128
    assert wandb_files.exit_code(session) == 0
    assert not run.tensorboard.exists()


def test_resumed_run_continues_without_repeating_rows(tmp_path):
    config = {"train": {"batch": 4}}
    with logged(tmp_path, config, 0) as loggers:
        for images in (10, 20, 30):
            loggers.metrics({"loss": 1 / images}, images)
    # The checkpoint was written at 10 images; the values until 30 are computed again.
    with logged(tmp_path, config, 10) as loggers:
        for images in (20, 30, 40):
            loggers.metrics({"loss": 1 / images}, images)
    first, second = sessions(tmp_path)
    assert identifier(first) == identifier(second)
    rows = [wandb_files.rows(session) for session in (first, second)]
    assert [(row["_step"], row["images"]) for row in rows[0] + rows[1]] == [
        (0, 10),
        (1, 20),
        (2, 30),
        (3, 40),
    ]


def test_values_of_another_recipe_are_logged_again(tmp_path):
    with logged(tmp_path, {"rate": 1}, 0) as loggers:
        loggers.metrics({"loss": 1.0}, 20)
    with logged(tmp_path, {"rate": 2}, 10) as loggers:
        loggers.metrics({"loss": 0.5}, 20)
    first, second = sessions(tmp_path)
    assert identifier(first) == identifier(second)
    (row,) = wandb_files.rows(second)
    assert (row["_step"], row["loss"]) == (1, 0.5)
    assert wandb_files.config(second)["rate"] == 2


def test_alarms_are_in_the_summary(tmp_path):
    with logged(tmp_path, {}, 0) as loggers:
        loggers.text("alarms/mode collapse", "diversity is low", 5_000)
    (session,) = sessions(tmp_path)
    summary = wandb_files.summary(session)
    assert summary["alarms/mode collapse"] == "5,000 images: diversity is low"


def test_run_that_starts_anew_is_another_run(tmp_path):
    for _ in range(2):
        with logged(tmp_path, {}, 0) as loggers:
            loggers.metrics({"loss": 1.0}, 20)
    first, second = sessions(tmp_path)
    assert identifier(first) != identifier(second)
    assert len(wandb_files.rows(second)) == 1


@pytest.mark.slow
def test_without_a_key_the_error_says_so_before_the_training(digits, tmp_path):
    command = ganymede("train", "gan-mnist", f"data.path={digits}", "train.loggers=[wandb]")
    shown = subprocess.run(
        [*command, "--out", tmp_path / "run"],
        env={**os.environ, "WANDB_MODE": "online", "HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 2
    assert shown.stderr.splitlines()[-1].startswith("Error: train.loggers: wandb: No API key")
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
