"""MLflow Tracking: a run of the experiment `ganymede`, or of `MLFLOW_EXPERIMENT_NAME`.

MLflow reads its environment variables. Without ``MLFLOW_TRACKING_URI``, it writes a database in the
working directory, or, without SQLAlchemy (in `mlflow-skinny`), files in the folder `mlruns`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

# Read when MLflow is imported. Files are supported by MLflow, but not its default any more.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from training.monitoring.loggers.logger import LoggedRun, Outcome
from training.monitoring.loggers.record import ServiceRecord
from training.recipe.options import flat

_STATUS: dict[Outcome, str] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
# The limits of MLflow on the parameters of a run.
_MAX_PARAMETER = 6000


class MLflow:
    """Logs a run to MLflow. The step of every metric is the number of images seen."""

    def __init__(self, run: LoggedRun) -> None:
        self._record = ServiceRecord("mlflow", run)
        address = _tracking_address(self._record.address)
        self._client = MlflowClient(tracking_uri=address)
        self._id = self._continued() or self._created(run)
        self._record.start(self._id, address)
        self._log_recipe(run.config)
        self.location = f"run {self._id} in {address}"

    def metrics(self, values: Mapping[str, float], images: int) -> None:
        """Log scalars."""
        if self._record.is_new(images):
            self._record.advance(images)
            for name, value in values.items():
                self._client.log_metric(self._id, name, value, step=images)

    def sheet(self, sheet: Image.Image, images: int) -> None:
        """Log an artifact in the folder `samples`; the name is the number of images."""
        self._client.log_image(self._id, np.asarray(sheet), f"samples/{images:010}.png")

    def text(self, name: str, text: str, images: int) -> None:
        """Set the tag `name` to the message."""
        self._client.set_tag(self._id, name, f"{images:,} images: {text}")

    def close(self, outcome: Outcome) -> None:
        """Set the status of the run."""
        self._client.set_terminated(self._id, _STATUS[outcome])

    def _continued(self) -> str | None:
        """Return the recorded run, running again, or None if the server does not have it."""
        identifier = self._record.identifier
        if identifier is None:
            return None
        try:
            self._client.update_run(identifier, status="RUNNING")
        except MlflowException:
            return None
        return identifier

    def _created(self, run: LoggedRun) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "ganymede")
        experiment = self._client.get_experiment_by_name(name)
        identifier = (
            experiment.experiment_id if experiment else self._client.create_experiment(name)
        )
        created: str = self._client.create_run(identifier, run_name=run.name).info.run_id
        return created

    def _log_recipe(self, config: Mapping[str, Any]) -> None:
        """Log the recipe as an artifact, and its values as parameters.

        MLflow does not let parameters change; those of a resumed run keep their first values.
        """
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        self._client.log_text(self._id, text, "recipe.yaml")
        known = self._client.get_run(self._id).data.params
        for key, value in flat(config).items():
            if key not in known:
                self._client.log_param(self._id, key, str(value)[:_MAX_PARAMETER])


def open_logger(run: LoggedRun) -> MLflow:
    """Create a run in MLflow, or continue it. Raises MlflowException."""
    return MLflow(run)


def _tracking_address(recorded: str | None) -> str:
    """Return the address of the tracking server or store; `recorded` is that of a resumed run."""
    if "MLFLOW_TRACKING_URI" in os.environ:
        return os.environ["MLFLOW_TRACKING_URI"]
    if recorded:
        return recorded
    if find_spec("sqlalchemy") is None:
        return Path("mlruns").absolute().as_uri()
    default: str = mlflow.get_tracking_uri()
    return default
