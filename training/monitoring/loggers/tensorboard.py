"""TensorBoard: event files in the folder `tensorboard` of a run."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from training.monitoring.loggers.logger import LoggedRun, Outcome


class TensorBoard:
    """Writes event files. `tensorboard --logdir runs` compares all runs of a folder."""

    # Documented for every run; a line for each run would repeat it.
    location = ""

    def __init__(self, run: LoggedRun) -> None:
        # Events after the checkpoint are removed: the resumed run writes them again.
        self._writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.images + 1)

    def metrics(self, values: Mapping[str, float], images: int) -> None:
        """Write scalars."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, images)

    def sheet(self, sheet: Image.Image, images: int) -> None:
        """Write the image `samples`."""
        pixels = np.atleast_3d(np.asarray(sheet))
        self._writer.add_image("samples", pixels, images, dataformats="HWC")

    def text(self, name: str, text: str, images: int) -> None:
        """Write a text."""
        self._writer.add_text(name, text, images)

    def close(self, outcome: Outcome) -> None:  # noqa: ARG002 - event files have no outcome
        """Write what is still in memory."""
        self._writer.close()


def open_logger(run: LoggedRun) -> TensorBoard:
    """Open the event files of a run."""
    return TensorBoard(run)
