"""Audio of the service: its file, with its samples and provenance."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ganymede_client.files import write_files


@dataclass(frozen=True)
class Audio:
    """One audio output. In notebooks it is shown as a player.

    Attributes:
        file: the file as the service sent it, with its provenance in the comment.
        media_type: ``audio/wav`` or ``audio/flac``.
        sample_rate: samples per second, in Hz.
        parameters: what reproduces the audio: model, version, digest, and `seed` or `z`, `class`.
    """

    file: bytes
    media_type: str
    sample_rate: int
    parameters: Mapping[str, Any]

    @property
    def seed(self) -> int | None:
        """The seed; None if the audio has another source."""
        return self.parameters.get("seed")

    @property
    def extension(self) -> str:
        """The usual file name extension of `file`, without the dot."""
        return self.media_type.rpartition("/")[2]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `file`. Raises FileExistsError if another file exists there."""
        write_files([(Path(path), self.file)])

    def _repr_html_(self) -> str:
        """Return a player for notebooks."""
        data = base64.b64encode(self.file).decode()
        return f'<audio controls src="data:{self.media_type};base64,{data}"></audio>'

    def __repr__(self) -> str:
        """Return the model, the seed and the format."""
        model, source = self.parameters["model"], "z" if self.seed is None else f"seed {self.seed}"
        return f"<Audio: {model}, {source}, {self.media_type}, {self.sample_rate} Hz>"
