"""Encodes audio as WAV, FLAC and NPY.

WAV and FLAC files carry their provenance as JSON in the comment, after the word `ganymede`, and the
mark of generated audio. An NPY file has no room for them, and a WAV file none for a comment of more
than about 50,000 characters.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.runtime.audio.formats import AudioFormat
from service.runtime.audio.metadata import marked as with_mark
from service.runtime.images.encoding import KEYWORD, Provenance, encode_npy, provenance_text
from service.runtime.images.xmp import SourceType

Samples = NDArray[np.int16]


def encode_audio(
    samples: NDArray[Any],
    sample_rate: int,
    kind: AudioFormat,
    provenance: Provenance,
    *,
    marked: bool = True,
) -> bytes:
    """Encode one channel of samples ``[T] int16``, without loss.

    Only files of earlier versions, made again, are not `marked` as generated.
    """
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
    content = out.getvalue()
    return with_mark(content, SourceType.of(provenance)) if marked else content
