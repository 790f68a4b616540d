import io
import json

import numpy as np
import pytest
import soundfile

from service.runtime.audio.encoding import encode_audio
from service.runtime.audio.formats import AudioFormat

SAMPLES = np.random.RandomState(0).randint(-32768, 32768, 5000).astype(np.int16)


@pytest.mark.parametrize("kind", [AudioFormat.WAV, AudioFormat.FLAC])
@pytest.mark.parametrize("length", [10, 30_000])
def test_samples_and_provenance_are_kept(kind, length):
    provenance = {"model": "beeps", "z": "x" * length, "class": "Übung"}
    data = encode_audio(SAMPLES, 8000, kind, provenance)
    samples, rate = soundfile.read(io.BytesIO(data), dtype="int16")
    assert rate == 8000
    assert np.array_equal(samples, SAMPLES)
    text = data.partition(b"ganymede ")[2].decode(errors="replace")
    assert json.JSONDecoder().raw_decode(text)[0] == provenance
    assert encode_audio(SAMPLES, 8000, kind, provenance) == data


def test_npy_has_the_samples():
    assert np.array_equal(
        np.load(io.BytesIO(encode_audio(SAMPLES, 1, AudioFormat.NPY, {}))), SAMPLES
    )
