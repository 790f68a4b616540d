"""Decoded sound data sets: all sounds of a source in one array of fixed length."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from service.runtime.errors import UserError
from training.data.datasets import class_names
from training.data.findings import LabeledData
from training.data.images import DataOptions, Progress
from training.data.sounds.decoding import decode_sound, fit_sound
from training.data.sounds.options import SoundOptions
from training.data.sources import DataError


@dataclass(frozen=True)
class SoundData(LabeledData):
    """A decoded data set: `samples` ``[N, T] int16`` and `labels` ``[N] int64`` or None.

    The other fields are those of `ImageData`. `preparation` tells how many sounds were padded,
    cropped, resampled, mixed down and clipped.
    """

    kind: ClassVar[str] = "sounds"

    samples: NDArray[np.int16]
    labels: NDArray[np.int64] | None
    class_names: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    ignored: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    fingerprint: str = ""
    preparation: str | None = None

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def decoded_bytes(self) -> int:
        """The size of the decoded sounds."""
        return self.samples.nbytes


def load_sounds(options: DataOptions, progress: Progress | None = None) -> SoundData:
    """Decode the sounds of a data set into memory.

    Corrupt files are skipped and listed in `skipped`. Raises DataError if none can be read, or if
    the options are for images.
    """
    sound = options.required_sound
    source = options.open()
    count = len(source.names)
    samples = np.zeros((count, sound.samples), np.int16)
    kept: list[int] = []
    skipped: list[str] = []
    lengths: list[int] = []
    changes: Counter[str] = Counter()
    fingerprint = hashlib.sha256()
    for index in range(count):
        label = "" if source.labels is None else source.class_names[source.labels[index]]
        digest = "unreadable"
        try:
            file = source.file(index) or b""
            digest = hashlib.sha256(file).hexdigest()
            fitted = fit_sound(decode_sound(file), sound)
        except (OSError, ValueError, UserError) as error:
            skipped.append(f"{source.names[index]}: {error}")
        else:
            samples[len(kept)] = fitted.samples
            kept.append(index)
            lengths.append(fitted.length)
            changes["resampled"] += fitted.resampled
            changes["mixed down to one channel"] += fitted.mixed_down
            changes["clipped at full scale"] += fitted.clipped
        fingerprint.update(f"{digest} {label}\n".encode())
        if progress and (index % 256 == 0 or index + 1 == count):
            progress(index + 1, count)
    if not kept:
        raise DataError(f"none of {count} sounds can be read; first: {skipped[0]}")
    preparation = _preparation(sound, lengths, changes)
    labels = None if source.labels is None else np.asarray(source.labels, np.int64)[kept]
    return SoundData(
        samples=samples[: len(kept)],
        labels=labels,
        class_names=class_names(options.known_name, source.class_names),
        skipped=tuple(skipped),
        names=tuple(source.names[index] for index in kept),
        ignored=source.ignored,
        notes=(*source.notes, preparation),
        fingerprint=fingerprint.hexdigest(),
        preparation=preparation,
    )


def _preparation(options: SoundOptions, lengths: list[int], changes: Counter[str]) -> str:
    padded = sum(length < options.samples for length in lengths)
    cropped = sum(length > options.samples for length in lengths)
    text = (
        f"{options.samples:,} samples at {options.rate:,} Hz; of {len(lengths):,} sounds, "
        f"{padded:,} padded with silence at the end, {cropped:,} cropped at the end"
    )
    for change, count in changes.items():
        text += f", {count:,} {change}" if count else ""
    return text if options.peak is None else f"{text}; all scaled to a peak of {options.peak:g}"
