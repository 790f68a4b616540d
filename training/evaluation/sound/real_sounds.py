"""The real sounds of an evaluation: those of the training, and held-out ones.

Held-out sounds are real sounds that the classifier was not trained on. Whether the generator was
trained on them is part of the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from service.runtime.models.parts.outputs import AudioSpec
from service.runtime.models.parts.provenance import TrainingData
from training.data.images import DataOptions
from training.data.provenance import check_training_data
from training.data.sounds.data import SoundData, load_sounds
from training.data.sounds.options import SoundOptions
from training.data.sources import MissingSplit, name_hash
from training.evaluation.errors import QualityError

# Of data without a split `test`, the classifier holds out one in this many file names.
_HOLD_OUT = 10
# Fewer sounds have no covariance.
_FEWEST = 2


@dataclass(frozen=True)
class RealSounds:
    """The sounds that the classifier is trained on, and held-out ones, with their names.

    Attributes:
        new_to_generator: whether the generator was not trained on the held-out sounds; None if that
            is not known.
        trained_on: what the generator was trained on, in one line.
        copies: held-out sounds that were left out, because they are equal to a training sound.
    """

    training: SoundData
    held_out: SoundData
    title: str
    held_out_title: str
    new_to_generator: bool | None
    trained_on: str
    copies: int = 0

    @property
    def held_out_note(self) -> str:
        """What is held out, and from what, in one line."""
        text = f"{len(self.held_out):,} held-out sounds ({self.held_out_title})"
        if self.new_to_generator:
            text += ": neither the generator nor the classifier was trained on them"
        elif self.new_to_generator is None:
            text += ": the classifier was not trained on them; whether the generator was is unknown"
        else:
            text += (
                ": the classifier was not trained on them, but the generator was, as its data have "
                "no split test; train with data.hold_out to hold sounds out from both"
            )
        if self.copies:
            text += f"; {self.copies:,} copies of training sounds were left out"
        return text


def open_real_sounds(
    data: DataOptions, audio: AudioSpec, record: TrainingData | None, *, replaced: bool = False
) -> RealSounds:
    """Read the training sounds and the held-out ones, fitted to the output of a model.

    `data` selects the sounds that the generator was trained on; `record` identifies them.
    `replaced` are data that a user gave instead. The held-out sounds are the split `test`, or those
    of `data.hold_out`. Of other data, one in ten file names of the training sounds is held out from
    the classifier alone.

    Raises DataError, also if the data have changed since the training, and QualityError if no
    sounds can be held out.
    """
    peak = data.sound.peak if data.sound else None
    sound = SoundOptions(rate=audio.sample_rate, samples=audio.samples, peak=peak)
    data = data.model_copy(update={"sound": sound})
    training = load_sounds(data)
    if record is not None and not replaced:
        check_training_data("the generator", record, training)
    is_recorded = record is not None and record.fingerprint == training.fingerprint
    trained_on = _trained_on(training, record, is_recorded=is_recorded)
    held_out = _test_split(data)
    if held_out is None:
        training, held_out = _hold_out(training, data.dataset_title)
        title = held_out_title = data.dataset_title
        held_out_title = f"one in {_HOLD_OUT} file names of {title}"
        new_to_generator = False if is_recorded else None
    else:
        title = f"{data.dataset_title}, split {data.split_name}"
        held_out_title = f"{data.dataset_title}, split test"
        if data.hold_out:
            held_out_title += f", one in {data.hold_out} file names"
        new_to_generator = True if is_recorded else None
    known = {row.tobytes() for row in training.samples}
    new = [row.tobytes() not in known for row in held_out.samples]
    copies = len(new) - sum(new)
    if sum(new) < _FEWEST:
        reason = f": {copies:,} of {len(new):,} are equal to training sounds" if copies else ""
        raise QualityError(
            f"{held_out_title} has fewer than {_FEWEST} sounds that can be held out{reason}; "
            "provide data with a split test, or more sounds"
        )
    return RealSounds(
        training,
        _rows(held_out, np.flatnonzero(new)),
        title,
        held_out_title,
        new_to_generator,
        trained_on,
        copies,
    )


def _test_split(data: DataOptions) -> SoundData | None:
    """Return the sounds of the split `test`, or None if the data have none."""
    if not data.has_splits():
        return None
    try:
        return load_sounds(data.model_copy(update={"split": "test", "limit": None}))
    except MissingSplit:
        return None


def _hold_out(sounds: SoundData, title: str) -> tuple[SoundData, SoundData]:
    """Return the sounds without one in ten file names, and those. Raises QualityError."""
    held_out = np.array([name_hash(name) % _HOLD_OUT == 0 for name in sounds.names])
    if held_out.sum() < _FEWEST or held_out.all():
        raise QualityError(
            f"{title} has no split test, and too few sounds ({len(sounds):,}) to hold some out: "
            "provide data with a split test, or more sounds"
        )
    return _rows(sounds, np.flatnonzero(~held_out)), _rows(sounds, np.flatnonzero(held_out))


def _rows(sounds: SoundData, rows: Sequence[int] | np.ndarray) -> SoundData:
    return replace(
        sounds,
        samples=sounds.samples[rows],
        labels=None if sounds.labels is None else sounds.labels[rows],
        names=tuple(sounds.names[row] for row in rows),
    )


def _trained_on(training: SoundData, record: TrainingData | None, *, is_recorded: bool) -> str:
    if record is None:
        return "the model has no record of the sounds that it was trained on"
    text = f"the generator was trained on {record.images:,} sounds of {record.title}"
    if is_recorded:
        return f"{text}, which are these (fingerprint {record.fingerprint[:12]})"
    return (
        f"{text} (fingerprint {record.fingerprint[:12]}), not on these {len(training):,} "
        f"({training.fingerprint[:12]})"
    )
