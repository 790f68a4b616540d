"""Writes one output of a model as a file: an image or audio; or a text as a line of one.

Another kind of output adds its writer here; responses and jobs use `encode_output`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from service.runtime.audio.encoding import encode_audio
from service.runtime.audio.formats import AudioFormat
from service.runtime.audio.preview import preview_image
from service.runtime.images import encoding
from service.runtime.images.encoding import ImageFormat, Pixels, Provenance
from service.runtime.models.manifest import Manifest
from service.runtime.text.records import TextFormat, record_line

FileFormat = ImageFormat | AudioFormat | TextFormat
# Arrays of images and audio; the record of a text.
Output = NDArray[Any] | Mapping[str, Any]


def encode_output(
    manifest: Manifest,
    row: Output,
    kind: FileFormat,
    provenance: Provenance,
    *,
    marked: bool = True,
) -> bytes:
    """Return the file of one image ``[H, W, C] uint8`` or of audio ``[T] int16``, or a text's line.

    An image format of audio is its preview. Raises ValueError for a format of another output.
    """
    if isinstance(kind, TextFormat) != isinstance(row, Mapping):
        raise ValueError(f"{manifest.name} cannot be written as {kind}")
    if isinstance(row, Mapping):
        return record_line({**provenance, **row})
    if isinstance(kind, ImageFormat):
        return encoding.encode(drawn(manifest, row), kind, provenance, marked=marked)
    if manifest.audio is None or isinstance(kind, TextFormat):
        raise ValueError(f"{manifest.name} returns no audio")
    return encode_audio(row, manifest.audio.sample_rate, kind, provenance, marked=marked)


def drawn(manifest: Manifest, row: NDArray[Any]) -> Pixels:
    """Return the image that shows a row: of audio, its waveform and spectrogram."""
    return row if manifest.audio is None else preview_image(row)
