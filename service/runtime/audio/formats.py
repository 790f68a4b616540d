"""The file formats of audio."""

from __future__ import annotations

from enum import StrEnum


class AudioFormat(StrEnum):
    """A file format for one audio output."""

    WAV = "wav"
    FLAC = "flac"
    NPY = "npy"

    @property
    def media_type(self) -> str:
        """The media type for Content-Type."""
        return "application/x-npy" if self is AudioFormat.NPY else f"audio/{self.value}"

    @property
    def extension(self) -> str:
        """The usual file name extension, without the dot."""
        return self.value
