"""Checkpoints: the state of a run between two turns, in one file."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from service.runtime.errors import UserError, first_line
from service.runtime.files import replacing

if TYPE_CHECKING:
    from training.games.game import Game


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

    def size(self) -> int:
        """Return the bytes of the file that `save` writes, without writing it."""
        counter = _ByteCounter()
        torch.save({"format": 1, **asdict(self)}, counter)
        return counter.bytes

    def restore(self, game: Game, path: Path) -> None:
        """Load the state into `game`. Raises CheckpointError, which names `path`."""
        try:
            game.load_state_dict(self.game)
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{path} does not fit the recipe: {first_line(error)}") from error

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> Checkpoint:
        """Read the file without executing any code in it.

        Raises CheckpointError, which for a damaged file names the checkpoint to go back to.
        """
        if path.is_file() and (member := damaged_member(path)):
            raise CheckpointError(_damage(path, f"the checksum of {member} does not fit"))
        try:
            state = torch.load(path, map_location=device, weights_only=True)
            if state.pop("format") != 1:
                raise CheckpointError(f"{path} was written by another version of Ganymede")
            return cls(**state)
        except CheckpointError:
            raise
        except Exception as error:
            if not path.is_file():
                raise CheckpointError(f"{path} is not a checkpoint: {error!s:.200}") from error
            if zipfile.is_zipfile(path):
                reason = (
                    f"{path} is not a checkpoint of a run: {str(error) or type(error).__name__}"
                )
                raise CheckpointError(reason.splitlines()[0][:300]) from error
            raise CheckpointError(_damage(path, "it is cut off or overwritten")) from error


def damaged_member(path: Path) -> str | None:
    """Return the name of an archive's member whose checksum does not fit, or None.

    PyTorch does not compare checksums: a changed bit would change a weight without notice. Returns
    None for a file that is no archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()
    except Exception:  # noqa: BLE001 - zipfile raises many kinds of errors; the reader reports them
        return None


def _damage(path: Path, reason: str) -> str:
    """Return the message about a damaged checkpoint of a run, with the one to go back to."""
    others = [
        other
        for name in ("checkpoint.pt", "best.pt")
        if (other := path.with_name(name)) != path
        and zipfile.is_zipfile(other)
        and damaged_member(other) is None
    ]
    way_on = (
        f"go back to {others[0]}: cp {others[0]} {path}"
        if others
        else f"the run has no other checkpoint: remove {path} to start again"
    )
    return f"{path} is damaged and is not a checkpoint any more: {reason}; {way_on}"


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


class _ByteCounter(io.BytesIO):
    """A file that only counts the bytes that are written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self.bytes += size
        return size
