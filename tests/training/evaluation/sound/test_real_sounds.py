"""Which real sounds are held out, and from what."""

import shutil

import numpy as np
import pytest

from service.runtime.models.parts.outputs import AudioSpec
from service.runtime.models.parts.provenance import TrainingData
from tests.support.sounds import sound_file, tone, write_tones
from training.data.images import DataOptions
from training.data.sounds.data import load_sounds
from training.data.sounds.options import SoundOptions
from training.data.sources import DataError
from training.evaluation.errors import QualityError
from training.evaluation.sound.real_sounds import open_real_sounds

AUDIO = AudioSpec(sample_rate=8000, samples=512)
SOUND = SoundOptions(rate=8000, samples=512)


def options(folder, **more) -> DataOptions:
    return DataOptions(path=str(folder), sound=SOUND, **more)


def record_of(data: DataOptions) -> TrainingData:
    """Return the record of a generator that was trained on `data`."""
    sounds = load_sounds(data)
    return TrainingData(
        title="tones", license="CC0", images=len(sounds), fingerprint=sounds.fingerprint
    )


def opened(data: DataOptions, **more):
    return open_real_sounds(data, AUDIO, record_of(data), **more)


@pytest.fixture
def split_tones(tmp_path):
    return write_tones(tmp_path / "tones")


@pytest.fixture
def tones(split_tones):
    """Two class folders without splits."""
    shutil.rmtree(split_tones / "test")
    for name in ("high", "low"):
        (split_tones / "train" / name).rename(split_tones / name)
    (split_tones / "train").rmdir()
    for i in range(30):
        samples = tone(400 + 20 * i, 0.05)
        (split_tones / ("high" if i > 15 else "low") / f"more-{i}.wav").write_bytes(
            sound_file(samples)
        )
    return split_tones


def test_split_test_is_new_to_the_generator(split_tones):
    real = opened(options(split_tones))
    assert (len(real.training), len(real.held_out)) == (24, 6)
    assert all(name.startswith("test/") for name in real.held_out.names)
    assert real.new_to_generator is True
    assert "neither the generator nor the classifier" in real.held_out_note
    assert "24 sounds of tones, which are these" in real.trained_on


def test_without_splits_only_the_classifier_holds_sounds_out(tones):
    data = options(tones)
    real = opened(data)
    # Disjoint, and together what the generator was trained on.
    assert not set(real.training.names) & set(real.held_out.names)
    assert {*real.training.names, *real.held_out.names} == set(load_sounds(data).names)
    assert real.new_to_generator is False
    assert "but the generator was" in real.held_out_note
    assert "data.hold_out" in real.held_out_note


def test_hold_out_of_the_recipe_is_new_to_the_generator(tones):
    data = options(tones, hold_out=4)
    real = opened(data)
    assert set(real.training.names) == set(load_sounds(data).names)
    assert not set(real.training.names) & set(real.held_out.names)
    assert real.new_to_generator is True
    assert "one in 4 file names" in real.held_out_note


def test_data_without_a_test_split_hold_sounds_out_from_the_classifier(tones):
    (tones / "train").mkdir()
    for name in ("high", "low"):
        (tones / name).rename(tones / "train" / name)
    real = opened(options(tones))
    assert real.new_to_generator is False
    assert len(real.held_out) >= 2


def test_limit_of_the_training_does_not_hold_out_more(tones):
    data = options(tones, limit=40)
    real = opened(data)
    assert len(real.training) + len(real.held_out) == 40


@pytest.mark.parametrize("has_record", [True, False])
def test_other_data_are_not_called_new(split_tones, tmp_path, has_record):
    other = write_tones(tmp_path / "other", count=8)
    record = record_of(options(split_tones)) if has_record else None
    real = open_real_sounds(options(other), AUDIO, record, replaced=True)
    assert real.new_to_generator is None
    assert "unknown" in real.held_out_note
    assert ("not on these 8" if has_record else "no record") in real.trained_on


def test_refuses_data_that_have_changed(split_tones):
    record = record_of(options(split_tones))
    (split_tones / "train" / "low" / "train-0.wav").unlink()
    with pytest.raises(DataError, match=r"24 sounds with the fingerprint .* found 23"):
        open_real_sounds(options(split_tones), AUDIO, record)


def test_copies_of_training_sounds_are_left_out(split_tones):
    copied = split_tones / "train" / "low" / "train-3.wav"
    shutil.copy(copied, split_tones / "test" / "low" / "copy.wav")
    real = opened(options(split_tones))
    assert (real.copies, len(real.held_out)) == (1, 6)
    assert "test/low/copy.wav" not in real.held_out.names
    assert len(real.held_out.labels) == 6
    assert "1 copies" in real.held_out_note


def test_refuses_a_generator_that_was_trained_on_the_split_test(split_tones):
    with pytest.raises(QualityError, match="6 of 6 are equal to training sounds"):
        opened(options(split_tones, split="test"))


def test_refuses_too_few_sounds(tmp_path):
    for name in ("high", "low"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.wav").write_bytes(sound_file(np.zeros(100)))
    with pytest.raises(QualityError, match="too few sounds"):
        opened(options(tmp_path))
