"""Reads files that are to be reproduced: their parameters, and their pixels or samples."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from service.offline.ledger import JOB_FILE, METADATA_FILE
from service.runtime.audio.formats import AudioFormat
from service.runtime.audio.metadata import (
    audio_format_of,
    audio_provenance,
    audio_source_type,
    is_cut_off,
)
from service.runtime.images.encoding import Pixels, read_provenance
from service.runtime.video import ffmpeg
from service.runtime.video.metadata import source_type_of, video_format_of, video_provenance

# The metadata of every file of the service includes these fields.
IDENTITY = {"model", "version", "digest"}
_NPY_SIGNATURE = b"\x93NUMPY"
# More samples are in no output of a model; a small FLAC file can have any number.
_MAX_SAMPLES = 2**26
_BLOCK_SAMPLES = 2**16


@dataclass(frozen=True)
class Original:
    """What a file has.

    Attributes:
        parameters: the metadata, or None.
        file_format: the name of the format.
        values: frames ``[frames, H, W, C] uint8`` or samples ``[T] int16``. None for files of other
            software, which are not decoded, because they may be of any size.
    """

    parameters: dict[str, Any] | None
    file_format: str
    values: NDArray[Any] | None

    @property
    def is_audio(self) -> bool:
        """Whether the file has samples, and not frames."""
        return self.values is not None and self.values.ndim == 1


def read_original(content: bytes, file: Path | None = None) -> Original:
    """Return what a file has. The parameters of `file` may be in the records of its job instead.

    Raises the errors of decoders, which may be anything, and VideoUnavailable.
    """
    if (audio_format := audio_format_of(content)) is not None:
        parameters = audio_provenance(content)
        samples = _samples(content) if is_ours(parameters) else None
        return Original(parameters, audio_format, samples)
    if content.startswith(_NPY_SIGNATURE):
        parameters = None if file is None else recorded_parameters(file)
        samples = np.load(io.BytesIO(content), allow_pickle=False) if parameters else None
        if samples is not None and (samples.dtype != np.int16 or samples.ndim != 1):
            raise ValueError("expected samples [T] int16")
        return Original(parameters, AudioFormat.NPY, samples)
    if (video_format := video_format_of(content)) is not None:
        with ffmpeg.load().open(io.BytesIO(content)) as video:
            parameters = video_provenance(video)
            if not is_ours(parameters) or "film" in (parameters or ()):
                return Original(parameters, video_format, None)
            decoded = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
            return Original(parameters, video_format, np.stack(decoded))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(content)) as image:
            parameters, pillow_format = read_provenance(image), str(image.format).lower()
            frames = _frames(image) if is_ours(parameters) else None
            return Original(parameters, pillow_format, frames)


def read_parameters(content: bytes) -> dict[str, Any] | None:
    """Return the metadata of an image, a video or audio, or None. Nothing is decoded.

    Raises the errors of decoders, which may be anything, and VideoUnavailable.
    """
    if audio_format_of(content) is not None:
        return audio_provenance(content)
    if video_format_of(content) is not None:
        with ffmpeg.load().open(io.BytesIO(content)) as video:
            return video_provenance(video)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(content)) as image:
            return read_provenance(image)


def read_mark(content: bytes) -> str | None:
    """Return the URI of the digital source type of an image, a video or audio, or None."""
    if audio_format_of(content) is not None:
        return audio_source_type(content)
    return source_type_of(content)


def is_ours(parameters: Mapping[str, Any] | None) -> bool:
    """Return whether Ganymede wrote the metadata: other software uses comments, too."""
    return parameters is not None and set(parameters) >= IDENTITY


def check_audio(content: bytes) -> None:
    """Decode WAV or FLAC, to notice damage. Raises ValueError, and the errors of libsndfile."""
    import soundfile  # noqa: PLC0415

    if is_cut_off(content):
        raise ValueError("the file ends before its samples do")
    with soundfile.SoundFile(io.BytesIO(content)) as file:
        count = sum(len(block) for block in file.blocks(_BLOCK_SAMPLES, dtype="int16"))
        if count < file.frames:
            raise ValueError("the file ends before its samples do")


def recorded_parameters(file: Path) -> dict[str, Any] | None:
    """Return the parameters of a file in the folder of a finished job, from its records, or None.

    Raises OSError and ValueError if the records are damaged.
    """
    file = file.absolute()
    for folder in (file.parent, file.parent.parent):
        job, metadata = folder / JOB_FILE, folder / METADATA_FILE
        if not (job.is_file() and metadata.is_file()):
            continue
        name = file.relative_to(folder).as_posix()
        identity = json.loads(job.read_text())
        with metadata.open(encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line)
                if record.get("file_name") == name:
                    return {**{key: identity[key] for key in sorted(IDENTITY)}, **record}
    return None


def _samples(content: bytes) -> NDArray[np.int16]:
    import soundfile  # noqa: PLC0415

    check_audio(content)
    with soundfile.SoundFile(io.BytesIO(content)) as file:
        if file.channels != 1 or file.frames > _MAX_SAMPLES:
            raise ValueError(f"{file.channels} channels of {file.frames:,} samples")
        samples: NDArray[np.int16] = file.read(dtype="int16")
        return samples


def _frames(image: Image.Image) -> Pixels:
    """Return all frames ``[frames, H, W, 4]``."""
    frames = [np.asarray(frame.convert("RGBA")) for frame in ImageSequence.Iterator(image)]
    return np.stack(frames)
