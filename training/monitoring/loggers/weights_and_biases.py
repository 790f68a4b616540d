"""Weights & Biases: a run of the project `ganymede`, or of `WANDB_PROJECT`.

W&B reads its environment variables. With ``WANDB_MODE=offline``, nothing is sent: the files in the
folder `wandb` of the run can be uploaded later with ``wandb sync``.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb
from PIL import Image

from training.monitoring.loggers.logger import LoggedRun, Outcome
from training.monitoring.loggers.record import ServiceRecord

_EXIT_CODES: dict[Outcome, int] = {"finished": 0, "stopped": 130, "failed": 1}


class WeightsAndBiases:
    """Logs a run to W&B. The horizontal axis of every chart is `images`."""

    def __init__(self, run: LoggedRun) -> None:
        self._record = ServiceRecord("wandb", run)
        identifier = self._record.identifier or secrets.token_hex(8)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "ganymede"),
            name=run.name,
            id=identifier,
            resume="allow",
            dir=os.environ.get("WANDB_DIR", str(run.folder)),
            # The terminal belongs to the progress of the run, and the repository is not ours.
            settings=wandb.Settings(console="off", silent=True, disable_git=True, save_code=False),
        )
        # A resumed run may have a longer training, or other values with `--override`.
        config: Any = self._run.config
        config.update(dict(run.config), allow_val_change=True)
        self._run.define_metric("images", hidden=True)
        self._run.define_metric("*", step_metric="images")
        self._record.start(identifier)
        self.location = (
            f"offline; to upload: wandb sync {Path(self._run.dir).parent}"
            if self._run.offline
            else str(self._run.url)
        )

    def metrics(self, values: Mapping[str, float], images: int) -> None:
        """Log scalars."""
        self._log(values, images)

    def sheet(self, sheet: Image.Image, images: int) -> None:
        """Log the image `samples`."""
        self._log({"samples": wandb.Image(sheet, caption=f"{images:,} images")}, images)

    def text(self, name: str, text: str, images: int) -> None:
        """Send an alert, which W&B mails to users who ask for it, and keep it in the summary."""
        if self._record.is_new(images):
            self._run.summary[name] = f"{images:,} images: {text}"
            self._run.alert(title=name, text=text, level="WARN")

    def close(self, outcome: Outcome) -> None:
        """Wait until everything is sent, or written if offline."""
        self._run.finish(exit_code=_EXIT_CODES[outcome])

    def _log(self, values: Mapping[str, object], images: int) -> None:
        if values and self._record.is_new(images):
            # Not `images` as the step: rows would then appear one interval late.
            self._run.log({"images": images, **values}, step=self._record.advance(images))


def open_logger(run: LoggedRun) -> WeightsAndBiases:
    """Start a run in W&B, or continue it. Raises wandb.Error."""
    return WeightsAndBiases(run)
