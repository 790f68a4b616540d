"""What the trainer asks of a game."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from training.data.images import ImageData
from training.evaluation.during_training import EvaluateOptions
from training.losses import AdversarialLoss

Pixels = NDArray[np.uint8]


class Game(Protocol):
    """The players of a game and its rules."""

    loss: AdversarialLoss

    @property
    def batches_per_turn(self) -> int:
        """Batches of real images that one turn takes."""

    def turn(
        self, batches: Any, rng: torch.Generator, number: int, images_seen: int
    ) -> Mapping[str, Tensor]:
        """Train every player by its steps of turn `number`, and return the metrics.

        `batches` are this process's part of the data; `rng` draws the same in all processes.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next turn depends on."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""


class GameSetup(Protocol):
    """A game with its data."""

    data: ImageData
    # The names of the classes of conditional networks.
    class_names: tuple[str, ...]

    @property
    def game(self) -> Game:
        """The players and rules."""

    def batches(self, turn: int) -> Sequence[Any]:
        """Return this process's batches of a turn."""

    def sample_sheet(self) -> tuple[Image.Image, Mapping[str, float]]:
        """Return samples of the averaged generator as one image, and metrics of them."""

    def validate(self, options: EvaluateOptions) -> Callable[[], dict[str, float]]:
        """Return what measures the averaged generator when called.

        Raises QualityError, DataError.
        """


class Validation(Protocol):
    """Measures generators during training, against real images."""

    # The real images, for people.
    title: str

    def measure(self, generate: Callable[..., Pixels]) -> dict[str, float]:
        """Return the metrics of the images ``[N, H, W, C] uint8`` that `generate` returns."""
