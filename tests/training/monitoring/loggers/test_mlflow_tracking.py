"""MLflow with a file store. Skipped without the extra `mlflow`."""

import os

import numpy as np
import pytest
from PIL import Image

from tests.support.tiny_recipes import TINY
from training.monitoring.loggers.logger import LoggedRun, LoggerUnavailable, open_loggers
from training.recipe.loading import load_recipe
from training.run import Run
from training.trainer import train

pytest.importorskip("mlflow", reason="needs the extra mlflow")


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    """The address of an empty file store."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    address = (tmp_path / "mlruns").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return address


@pytest.fixture
def client(store):
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=store)


def logged(folder, config, images):
    return open_loggers(["mlflow"], LoggedRun(folder, "first", config, images))


def runs(client):
    experiment = client.get_experiment_by_name("ganymede")
    return client.search_runs([experiment.experiment_id], order_by=["attribute.start_time"])


def steps(client, run, metric):
    return [each.step for each in client.get_metric_history(run.info.run_id, metric)]


def test_metrics_sheets_and_recipe_are_logged_by_a_run(digits, tmp_path, client):
    overrides = [*TINY["gan-mnist"], f"data.path={digits}", "train.loggers=[mlflow]"]
    overrides += ["train.log_images=320", "train.sample_images=640"]
    run = Run(tmp_path / "runs" / "digits")
    train(load_recipe("gan-mnist", overrides), run)
    (recorded,) = runs(client)
    assert recorded.info.run_name == "digits"
    assert recorded.info.status == "FINISHED"
    assert recorded.data.params["train.batch"] == "128"
    assert steps(client, recorded, "loss_generator") == [384, 640]
    assert steps(client, recorded, "diversity") == [640]
    identifier = recorded.info.run_id
    sheet = client.download_artifacts(identifier, "samples/0000000640.png", str(tmp_path))
    assert np.array_equal(Image.open(sheet), Image.open(run.samples / "0000000640.png"))
    recipe = client.download_artifacts(identifier, "recipe.yaml", str(tmp_path))
    assert load_recipe(recipe) == load_recipe("gan-mnist", overrides)

    # A longer training continues the same run.
    train(load_recipe("gan-mnist", [*overrides, "train.images=1280"]), run)
    (recorded,) = runs(client)
    assert steps(client, recorded, "loss_generator") == [384, 640, 1024, 1280]
    recipe = client.download_artifacts(identifier, "recipe.yaml", str(tmp_path / "runs"))
    assert load_recipe(recipe).train.images == 1280


def test_resumed_run_does_not_repeat_values(tmp_path, client):
    for images, values in ((0, (10, 20, 30)), (10, (20, 30, 40))):
        with logged(tmp_path, {}, images) as loggers:
            for each in values:
                loggers.metrics({"loss": 1 / each}, each)
    (run,) = runs(client)
    assert steps(client, run, "loss") == [10, 20, 30, 40]


def test_run_that_starts_anew_or_was_deleted_is_another_run(tmp_path, client):
    for images in (0, 0):
        with logged(tmp_path, {}, images) as loggers:
            loggers.metrics({"loss": 1.0}, 20)
    assert len(runs(client)) == 2
    client.delete_run(runs(client)[-1].info.run_id)
    with logged(tmp_path, {}, 10) as loggers:
        loggers.metrics({"loss": 1.0}, 20)
    assert [steps(client, run, "loss") for run in runs(client)] == [[20], [20]]


def test_alarms_and_failures_are_recorded(tmp_path, client):
    def session():
        with logged(tmp_path, {}, 0) as loggers:
            loggers.text("alarms/mode collapse", "diversity is low", 5_000)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        session()
    (run,) = runs(client)
    assert run.info.status == "FAILED"
    assert run.data.tags["alarms/mode collapse"] == "5,000 images: diversity is low"


def test_unreachable_store_is_one_line_before_the_training(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "file" / "mlruns").as_uri())
    with (
        pytest.raises(LoggerUnavailable, match=r"^train\.loggers: mlflow: ") as raised,
        logged(tmp_path, {}, 0),
    ):
        pytest.fail("opened")
    assert "\n" not in str(raised.value)
