"""The interfaces between the trainer and the games."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from training.data.dataset import Dataset
from training.evaluation.during_training import EvaluateOptions
from training.losses import AdversarialLoss

Pixels = NDArray[np.uint8]


class Game(Protocol):
    """The players of a game and how they are trained."""

    loss: AdversarialLoss

    @property
    def batches_per_turn(self) -> int:
        """Number of batches of real images in one turn."""

    @property
    def weights(self) -> Mapping[str, nn.Module]:
        """The networks with weights: `generator`, `discriminator`, and the `average`."""

    def turn(
        self, batches: Any, rng: torch.Generator, number: int, images_seen: int
    ) -> Mapping[str, Tensor]:
        """Take all training steps of turn `number` and return the metrics as scalar tensors.

        `batches` are this process's part of the data. `rng` has the same state in all processes.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next turn depends on."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""


class GameSetup(Protocol):
    """A game together with its data."""

    # The class names of conditional networks.
    class_names: tuple[str, ...]

    @property
    def data(self) -> Dataset:
        """The training data."""

    @property
    def game(self) -> Game:
        """The players and rules."""

    def batches(self, turn: int) -> Sequence[Any]:
        """Return this process's batches of a turn."""

    def sample_sheet(self, *, measure: bool = True) -> tuple[Image.Image, Mapping[str, float]]:
        """Return samples of the averaged generator as one image, and their metrics.

        Without `measure`, returns no metrics, and does not affect the metrics of later sheets.
        """

    def validate(self, options: EvaluateOptions) -> Callable[[], dict[str, float]]:
        """Return a function that measures the averaged generator.

        Raises QualityError, DataError.
        """


class Validation(Protocol):
    """Measures generators against real images during training."""

    # A human-readable name of the real images.
    title: str

    def measure(self, generate: Callable[..., Pixels]) -> dict[str, float]:
        """Return the metrics of the images ``[N, H, W, C] uint8`` that `generate` returns."""
