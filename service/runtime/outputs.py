"""Writes a row of a model's output as a file: an image, or audio.

Another kind of output adds its writer here; responses and jobs use `encode_output`.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from service.runtime.audio.encoding import encode_audio
from service.runtime.audio.formats import AudioFormat
from service.runtime.audio.preview import preview_image
from service.runtime.images import encoding
from service.runtime.images.encoding import ImageFormat, Pixels, Provenance
from service.runtime.models.manifest import Manifest

FileFormat = ImageFormat | AudioFormat


def encode_output(
    manifest: Manifest,
    row: NDArray[Any],
    kind: FileFormat,
    provenance: Provenance,
    *,
    marked: bool = True,
) -> bytes:
    """Return the file of one image ``[H, W, C] uint8``, or of audio ``[T] int16``.

    An image format of audio is its preview. Raises ValueError for an audio format of an image.
    """
    if isinstance(kind, ImageFormat):
        return encoding.encode(drawn(manifest, row), kind, provenance, marked=marked)
    if manifest.audio is None:
        raise ValueError(f"{manifest.name} returns no audio")
    return encode_audio(row, manifest.audio.sample_rate, kind, provenance, marked=marked)


def drawn(manifest: Manifest, row: NDArray[Any]) -> Pixels:
    """Return the image that shows a row: of audio, its waveform and spectrogram."""
    return row if manifest.audio is None else preview_image(row)
