"""Checkpoints: everything that the next step of a run depends on, in one file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from service.runtime.errors import UserError
from service.runtime.files import replacing


class CheckpointError(UserError):
    """A checkpoint cannot be used; the message is one line."""


@dataclass(frozen=True)
class Checkpoint:
    """A run between two turns.

    There is no state of a random number generator in it: whatever a turn draws is a function of
    the recipe's seed and the turn's number.
    """

    turn: int
    images: int
    # Seconds of training behind it, over all sessions.
    seconds: float
    # The hardware, and the commit of Ganymede that trained it (its version outside a checkout).
    device: str
    code_revision: str
    # The names of the classes that the players were told of, by index.
    class_names: list[str]
    game: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all. Raises CannotWrite."""
        write_state({"format": 1, **asdict(self)}, path)

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> Checkpoint:
        """Read the file; nothing in it is executed. Raises CheckpointError."""
        try:
            state = torch.load(path, map_location=device, weights_only=True)
            if state.pop("format") != 1:
                raise CheckpointError(f"{path} was written by another version of Ganymede")
            return cls(**state)
        except CheckpointError:
            raise
        except Exception as error:
            raise CheckpointError(f"{path} is not a checkpoint: {error!s:.200}") from error


def write_state(state: Mapping[str, Any], path: Path) -> None:
    """Write what `torch.load` reads, whole or not at all. Raises CannotWrite."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(dict(state), file)
        except RuntimeError as error:
            # Where the disk is full, PyTorch says only that it is not where it should be.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise
