"""Checkpoints: the state of a run between two turns, in one file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from service.runtime.errors import UserError
from service.runtime.files import replacing


class CheckpointError(UserError):
    """A checkpoint cannot be used. The message is a single line."""


@dataclass(frozen=True)
class Checkpoint:
    """The complete state of a run between two turns.

    The states of random number generators are not included: all random numbers of a turn are
    derived from the recipe's seed and the number of the turn.
    """

    turn: int
    images: int
    # Seconds of training so far, over all sessions.
    seconds: float
    # The hardware, and the commit of Ganymede (or its version, outside of a checkout).
    device: str
    code_revision: str
    # The class names of conditional networks, by index.
    class_names: list[str]
    game: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write the file atomically. Raises CannotWrite."""
        write_state({"format": 1, **asdict(self)}, path)

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> Checkpoint:
        """Read the file without executing any code in it. Raises CheckpointError."""
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
    """Write a file for `torch.load` atomically. Raises CannotWrite."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(dict(state), file)
        except RuntimeError as error:
            # On a full disk, PyTorch raises an error about the file position and keeps the OSError
            # as its context.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise
