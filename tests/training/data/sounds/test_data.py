import io
import tarfile
import zipfile

import numpy as np
import pytest

from tests.support.sounds import RATE, sound_file, tone, write_tones
from training.data.images import DataOptions, load_images
from training.data.sounds.data import load_sounds
from training.data.sources import DataError

SHAPE = {"rate": RATE, "samples": 1024}


def load(path, sound=SHAPE, **options):
    return load_sounds(DataOptions(path=str(path), sound=sound, **options))


def test_folders_and_archives_give_the_same_sounds(tmp_path):
    folder = write_tones(tmp_path / "tones")
    files = [path for path in folder.rglob("*") if path.is_file()]
    with zipfile.ZipFile(tmp_path / "tones.zip", "w") as archive:
        for path in files:
            archive.write(path, path.relative_to(folder))
    with tarfile.open(tmp_path / "tones.tar.gz", "w:gz") as tar:
        tar.add(folder, ".")
    one, *others = (load(tmp_path / name) for name in ("tones", "tones.zip", "tones.tar.gz"))
    assert one.class_names == ("high", "low")
    assert one.summary() == "high 12, low 12"
    for other in others:
        np.testing.assert_array_equal(one.samples, other.samples)
        np.testing.assert_array_equal(one.labels, other.labels)
        assert one.fingerprint == other.fingerprint
    assert len(load(folder, split="test")) == 6


def test_int16_samples_are_kept_exactly_and_padded(tmp_path):
    levels = np.array([-32768, -1, 0, 1, 32767], np.int16)
    (tmp_path / "a.wav").write_bytes(sound_file(levels))
    data = load(tmp_path)
    np.testing.assert_array_equal(data.samples[0, :5], levels)
    assert not data.samples[0, 5:].any()


@pytest.mark.parametrize(("kind", "subtype"), [("WAV", "FLOAT"), ("FLAC", None), ("OGG", "VORBIS")])
def test_reads_the_formats(tmp_path, kind, subtype):
    # The suffix is not one of a sound.
    (tmp_path / "sound.bin").write_bytes(sound_file(tone(440, 0.1), RATE, kind, subtype))
    spectrum = np.abs(np.fft.rfft(load(tmp_path).samples[0, :800]))
    assert spectrum.argmax() * RATE / 800 == 440


def test_says_what_was_resampled_mixed_down_padded_and_cropped(tmp_path):
    (tmp_path / "a.wav").write_bytes(sound_file(tone(500, 0.5)))
    stereo = np.stack([tone(500, 0.1, 44_100), np.zeros(4410)], 1)
    (tmp_path / "b.wav").write_bytes(sound_file(stereo, 44_100))
    data = load(tmp_path)
    assert data.preparation == (
        "1,024 samples at 8,000 Hz; of 2 sounds, 1 padded with silence at the end, 1 cropped at "
        "the end, 1 resampled, 1 mixed down to one channel"
    )
    assert data.preparation in data.warnings()
    spectrum = np.abs(np.fft.rfft(data.samples[1, :800]))
    assert spectrum.argmax() * RATE / 800 == 500
    # The mean of a tone with an amplitude of 0.5 and silence.
    assert abs(data.samples[1].max() / 2**15 - 0.25) < 0.01


def test_scales_to_the_peak(tmp_path):
    (tmp_path / "a.wav").write_bytes(sound_file(0.1 * tone(500, 0.1)))
    (tmp_path / "silence.wav").write_bytes(sound_file(np.zeros(100)))
    data = load(tmp_path, {**SHAPE, "peak": 0.9})
    assert abs(int(np.abs(data.samples[0]).max()) - round(0.9 * 2**15)) <= 1
    assert not data.samples[1].any()


def test_lists_damaged_files_and_other_files(tmp_path):
    write_tones(tmp_path / "tones")
    low = tmp_path / "tones" / "train" / "low"
    (low / "cut.flac").write_bytes(sound_file(tone(300, 0.2), RATE, "FLAC")[:300])
    (low / "empty.wav").write_bytes(b"")
    (low / "text.wav").write_bytes(b"no sound at all")
    (low / "notes.txt").write_bytes(b"notes")
    (low / "nan.wav").write_bytes(sound_file(np.full(100, np.nan), RATE, "WAV", "FLOAT"))
    data = load(tmp_path / "tones")
    assert len(data) == 24
    assert [line.partition(":")[0].rpartition("/")[2] for line in data.skipped] == [
        "cut.flac", "empty.wav", "nan.wav", "text.wav",
    ]  # fmt: skip
    assert data.ignored == {"train/low/notes.txt": "is not a sound"}


def test_refuses_data_without_sounds(tmp_path, digits):
    with pytest.raises(DataError, match="contains no sounds"):
        load(digits)
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(DataError, match="none of 1 sounds can be read"):
        load(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        load(tmp_path / "absent")


def test_a_cut_off_archive_is_reported(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.wav", sound_file(tone(440, 0.1)))
    (tmp_path / "a.zip").write_bytes(file.getvalue()[:-30])
    with pytest.raises(DataError):
        load(tmp_path / "a.zip")


@pytest.mark.parametrize("key", [{"flip": True}, {"channels": 1}, {"resolution": 32}])
def test_refuses_options_of_images(key):
    with pytest.raises(ValueError, match="applies to images"):
        DataOptions(path="x", sound=SHAPE, **key)


def test_says_what_was_clipped(tmp_path):
    loud = sound_file(3 * tone(500, 0.1), RATE, "WAV", "FLOAT")
    (tmp_path / "loud.wav").write_bytes(loud)
    (tmp_path / "quiet.wav").write_bytes(sound_file(tone(500, 0.1)))
    data = load(tmp_path)
    assert data.samples.max() == 32767
    assert "1 clipped at full scale" in data.preparation
    assert "clipped" not in load(tmp_path, {**SHAPE, "peak": 0.9}).preparation


def test_reads_24_bits_and_names_in_unicode(tmp_path):
    stereo = np.stack([tone(500, 0.1, 48_000)] * 2, 1)
    (tmp_path / "Töne 音.wav").write_bytes(sound_file(stereo, 48_000, "WAV", "PCM_24"))
    data = load(tmp_path)
    assert data.names == ("Töne 音.wav",)
    assert "1 resampled, 1 mixed down" in data.preparation


def test_images_are_not_read_from_a_folder_of_sounds(tmp_path):
    write_tones(tmp_path)
    with pytest.raises(DataError, match="30: is a sound, which is read by recipes"):
        load_images(DataOptions(path=str(tmp_path), split=None))
