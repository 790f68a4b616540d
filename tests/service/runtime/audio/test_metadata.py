"""The mark and the provenance in WAV and FLAC."""

import io
import struct

import numpy as np
import pytest
import soundfile

from service.runtime.audio.encoding import encode_audio
from service.runtime.audio.formats import AudioFormat
from service.runtime.audio.metadata import (
    audio_format_of,
    audio_provenance,
    audio_source_type,
    is_cut_off,
    marked,
)
from service.runtime.images.xmp import SourceType

KINDS = [AudioFormat.WAV, AudioFormat.FLAC]
SAMPLES = np.arange(-500, 501, dtype=np.int16)


@pytest.mark.parametrize("kind", KINDS)
def test_mark_and_provenance_are_read(kind):
    provenance = {"model": "beeps", "class": "Übung = ☂"}
    data = encode_audio(SAMPLES, 8000, kind, provenance)
    assert audio_format_of(data) is kind
    assert audio_source_type(data) == SourceType.GENERATED.uri
    plain = encode_audio(SAMPLES, 8000, kind, provenance, marked=False)
    assert audio_source_type(plain) is None
    assert audio_provenance(plain) == audio_provenance(data) == provenance
    # The mark is added without encoding again.
    assert marked(plain, SourceType.GENERATED) == data
    samples, rate = soundfile.read(io.BytesIO(data), dtype="int16")
    assert rate == 8000
    assert np.array_equal(samples, SAMPLES)


@pytest.mark.parametrize("kind", KINDS)
def test_comments_of_other_software_are_no_provenance(kind):
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", 8000, 1, format=kind.upper()) as out:
        out.comment = "ganymede is a moon"
        out.write(SAMPLES)
    assert audio_provenance(file.getvalue()) is None
    assert audio_source_type(file.getvalue()) is None


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_raise_nothing(kind):
    data = encode_audio(SAMPLES, 8000, kind, {"a": 1})
    for length in range(len(data)):
        audio_provenance(data[:length])
        audio_source_type(data[:length])
        is_cut_off(data[:length])
    rng = np.random.default_rng(0)
    for _ in range(300):
        noisy = bytearray(data)
        for at in rng.integers(4, 120, 4):
            noisy[at] = rng.integers(256)
        audio_provenance(bytes(noisy))
        audio_source_type(bytes(noisy))
        is_cut_off(bytes(noisy))


def test_cut_off_wav_is_noticed():
    data = encode_audio(SAMPLES, 8000, AudioFormat.WAV, {"a": 1}, marked=False)
    assert not is_cut_off(data)
    # The comment is before the samples.
    for length in (20, 44, len(data) - 1):
        assert is_cut_off(data[:length])
    assert not is_cut_off(encode_audio(SAMPLES, 8000, AudioFormat.FLAC, {}))


def test_stream_of_unknown_length_is_not_cut_off():
    data = encode_audio(SAMPLES, 8000, AudioFormat.WAV, {}, marked=False)
    at = data.index(b"data") + 4
    for size in (0, 0xFFFFFFFF):
        assert not is_cut_off(data[:at] + struct.pack("<I", size) + data[at + 4 :])


def test_other_files_are_no_audio():
    assert audio_format_of(b"RIFF\0\0\0\0WEBPVP8 ") is None
    assert audio_format_of(b"") is None
    assert not is_cut_off(b"")
