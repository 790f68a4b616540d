"""Encodes audio as WAV, FLAC and NPY.

WAV and FLAC files carry their provenance as JSON in the comment, after the word `ganymede`. An NPY
file has no room for it, and a WAV file none for more than about 50,000 characters.
"""

from __future__ import annotations

import io
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.runtime.images.encoding import KEYWORD, Provenance, encode_npy, provenance_text

Samples = NDArray[np.int16]


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


def encode_audio(
    samples: NDArray[Any], sample_rate: int, kind: AudioFormat, provenance: Provenance
) -> bytes:
    """Encode one channel of samples ``[T] int16``, without loss."""
    if kind is AudioFormat.NPY:
        return encode_npy(samples)
    # Imported here: commands read this module for the names of the formats.
    import soundfile  # noqa: PLC0415

    out = io.BytesIO()
    with soundfile.SoundFile(
        out, "w", sample_rate, channels=1, format=kind.upper(), subtype="PCM_16"
    ) as file:
        file.comment = f"{KEYWORD} {provenance_text(provenance)}"
        file.write(samples)
    return out.getvalue()
