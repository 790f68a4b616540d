"""Loggers are chosen in the recipe, and never change or end a run."""

import logging
import subprocess
import sys

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from service.runtime.errors import UserError
from tests.support.tiny_recipes import TINY
from training.checkpoints import Checkpoint
from training.monitoring.loggers import logger
from training.monitoring.loggers.logger import (
    LoggedRun,
    LoggerUnavailable,
    check_installed,
    open_loggers,
)
from training.recipe.errors import RecipeError
from training.recipe.loading import load_recipe
from training.run import Run
from training.trainer import TrainingInterrupted, train


def recipe(digits, *more):
    often = ["train.log_images=320", "train.sample_images=320"]
    return load_recipe("gan-mnist", [*TINY["gan-mnist"], f"data.path={digits}", *often, *more])


def tensorboard(folder):
    return EventAccumulator(str(folder / "tensorboard")).Reload().Tags()


def test_loggers_do_not_change_the_training(digits, tmp_path):
    weights = []
    for name, loggers in {"without": "[]", "with": "[tensorboard]"}.items():
        run = Run(tmp_path / name)
        train(recipe(digits, f"train.loggers={loggers}"), run)
        weights.append(Checkpoint.load(run.checkpoint_path).game["average"])
        assert len(run.read_log()) == 4
        assert run.tensorboard.exists() == (name == "with")
    for key, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][key], rtol=0, atol=0)
    tags = tensorboard(tmp_path / "with")
    assert {"loss_generator", "diversity"} <= set(tags["scalars"])
    assert tags["images"] == ["samples"]


def test_resumed_run_may_have_other_loggers(digits, tmp_path):
    run = Run(tmp_path / "run")
    train(recipe(digits, "train.loggers=[]"), run)
    train(recipe(digits, "train.images=1280"), run)
    assert Checkpoint.load(run.checkpoint_path).images == 1280
    assert run.recipe().train.loggers == ("tensorboard",)


def test_run_of_an_earlier_version_is_resumed(digits, tmp_path):
    run = Run(tmp_path / "run")
    train(recipe(digits), run)
    text = run.recipe_path.read_text()
    run.recipe_path.write_text(text.replace("  loggers:\n  - tensorboard\n", ""))
    assert run.recipe_path.read_text() != text
    train(recipe(digits, "train.images=1280"), run)
    assert Checkpoint.load(run.checkpoint_path).images == 1280


@pytest.mark.parametrize("loggers", ["[tensorbord]", "[tensorboard, tensorboard]", "wandb"])
def test_rejects_unknown_and_repeated_loggers(digits, loggers):
    with pytest.raises(RecipeError, match=r"^train\.loggers"):
        recipe(digits, f"train.loggers={loggers}")


def test_missing_package_is_one_line_before_anything_is_written(digits, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(
        LoggerUnavailable, match=r"mlflow is not installed: pip install 'ganymede\["
    ) as raised:
        train(recipe(digits, "train.loggers=[tensorboard, mlflow]"), Run(tmp_path / "run"))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_packages_are_imported_only_if_named():
    code = (
        "import sys, training.trainer, training.recipe.loading as r; r.load_recipe('gan-mnist');"
        "print([name for name in ('wandb', 'mlflow', 'tensorboard') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


class Recorded:
    """A logger that keeps what it gets; fails on the second sheet."""

    location = "in memory"

    def __init__(self):
        self.values, self.sheets, self.texts, self.outcome = [], [], [], None

    def metrics(self, values, images):
        self.values.append((images, dict(values)))

    def sheet(self, sheet, images):
        if self.sheets:
            raise ConnectionError("the server is gone\nwith a long story")
        self.sheets.append((images, sheet.size))

    def text(self, name, text, images):
        self.texts.append((images, name, text))

    def close(self, outcome):
        self.outcome = outcome


@pytest.fixture
def recorded(monkeypatch):
    """A logger in the place of TensorBoard's."""
    from training.monitoring.loggers import tensorboard as module

    kept = Recorded()
    monkeypatch.setattr(module, "open_logger", lambda run: kept)
    return kept


def open_recorded(folder):
    return open_loggers(["tensorboard"], LoggedRun(folder, "run", {}, 0))


def test_failing_logger_is_reported_once_and_the_run_goes_on(digits, tmp_path, recorded, caplog):
    run = Run(tmp_path / "run")
    with caplog.at_level(logging.WARNING):
        result = train(recipe(digits), run)
    assert result.images == 640
    assert [images for images, _ in recorded.values] == [384, 384, 640]
    (message,) = [r.getMessage() for r in caplog.records if r.name == logger.__name__]
    assert "tensorboard failed" in message
    assert "the server is gone" in message
    assert "\n" not in message
    assert run.read_log()[-1]["images"] == 640


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "finished"),
        (TrainingInterrupted(2, 640), "stopped"),
        (UserError("no"), "failed"),
        (RuntimeError("bug"), "failed"),
        (KeyboardInterrupt(), "failed"),
    ],
)
def test_loggers_learn_how_a_session_ended(tmp_path, recorded, error, outcome):
    def session():
        with open_recorded(tmp_path) as loggers:
            assert loggers.locations == ["tensorboard: in memory"]
            loggers.sheet(Image.new("RGB", (2, 2)), 1)
            if error:
                raise error

    if error:
        with pytest.raises(type(error)):
            session()
    else:
        session()
    assert recorded.outcome == outcome


def test_logger_that_cannot_start_is_one_line(tmp_path, monkeypatch):
    from training.monitoring.loggers import tensorboard as module

    def refuse(run):
        raise RuntimeError("no key\nsecond line")

    monkeypatch.setattr(module, "open_logger", refuse)
    with (
        pytest.raises(LoggerUnavailable, match=r"^train\.loggers: tensorboard: no key$"),
        open_recorded(tmp_path),
    ):
        pytest.fail("opened")


def test_included_loggers_are_installed():
    check_installed(["tensorboard"])
