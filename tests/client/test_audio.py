import io
import json

import numpy as np
import pytest
import soundfile

from ganymede_client import Client, InvalidRequest
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.drawn_models import CLASSES, SAMPLE_RATE, Z
from tests.support.output_models import AUDIO


@pytest.fixture
def client(output_server):
    with Client(str(output_server.client().base_url)) as client:
        yield client


@pytest.fixture(scope="module")
def model(output_repository):
    return Model(output_repository / AUDIO / "1", Provider.CPU, ExecutionPlan(1, 1, 64))


def samples_of(audio):
    samples, rate = soundfile.read(io.BytesIO(audio.file), dtype="int16")
    assert rate == audio.sample_rate == SAMPLE_RATE
    return samples


@pytest.mark.parametrize("kind", ["wav", "flac"])
@pytest.mark.parametrize("count", [1, 2])
def test_audio_of_consecutive_seeds(client, model, kind, count):
    audio = client.audio(AUDIO, n=count, seed=5, class_="dog", format=kind)
    expected = model.generate(range(5, 5 + count), [1] * count)
    assert len(audio) == count
    for i, each in enumerate(audio):
        assert (each.seed, each.extension, each.parameters["class"]) == (5 + i, kind, "dog")
        assert each.parameters["digest"] == model.digest
        assert np.array_equal(samples_of(each), expected[i])


def test_audio_of_a_latent(client, model):
    z = np.random.RandomState(8).randn(Z)
    (audio,) = client.audio(AUDIO, z=[z], class_=CLASSES[0])
    assert audio.seed is None
    assert np.array_equal(samples_of(audio), model.generate([8], [0])[0])


def test_saved_file_and_player(client, tmp_path):
    (audio,) = client.audio(AUDIO, seed=1)
    audio.save(tmp_path / "a.wav")
    assert (tmp_path / "a.wav").read_bytes() == audio.file
    assert "<audio controls" in audio._repr_html_()
    assert repr(audio) == "<Audio: beeps, seed 1, audio/wav, 8000 Hz>"
    assert json.dumps(audio.parameters)


def test_model_without_audio_is_refused(client):
    with pytest.raises(InvalidRequest, match="painted is for /v1/generate"):
        client.audio("painted")


def test_card_describes_the_audio(client):
    assert client.model(AUDIO).audio == {"sample_rate": SAMPLE_RATE, "samples": 2000}
