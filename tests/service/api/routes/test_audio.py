"""`POST /v1/audio` and audio by class, against the real service."""

import base64
import io
import json
import zipfile

import numpy as np
import pytest
import soundfile
from PIL import Image

from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.drawn_models import CLASSES, SAMPLE_RATE, SAMPLES, Z
from tests.support.output_models import AUDIO, CAPTIONED, ENCODER, TEXT_MODEL


@pytest.fixture
def client(output_server):
    with output_server.client() as client:
        yield client


@pytest.fixture(scope="module")
def model(output_repository):
    return Model(output_repository / AUDIO / "1", Provider.CPU, ExecutionPlan(1, 1, 64))


def post(client, code=200, headers=None, **body):
    response = client.post("/v1/audio", json={"model": AUDIO} | body, headers=headers)
    assert response.status_code == code, response.text
    return response


def samples_of(content):
    samples, rate = soundfile.read(io.BytesIO(content), dtype="int16")
    assert rate == SAMPLE_RATE
    return samples


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_file_has_the_samples_of_the_seed_and_its_provenance(client, model, kind):
    response = post(client, seed=7, format=kind)
    assert response.headers["content-type"] == f"audio/{kind}"
    assert response.headers["x-ganymede-sample-rate"] == str(SAMPLE_RATE)
    assert response.headers["x-ganymede-seed"] == "7"
    assert np.array_equal(samples_of(response.content), model.generate([7])[0])
    with soundfile.SoundFile(io.BytesIO(response.content)) as file:
        word, _, text = file.comment.partition(" ")
    assert word == "ganymede"
    assert json.loads(text) == {
        "model": AUDIO,
        "version": "1",
        "digest": model.digest,
        "seed": 7,
        "class": CLASSES[7 % 3],
    }


def test_accept_header_chooses_the_format(client):
    accept = {"accept": "audio/flac, audio/wav;q=0.5"}
    assert post(client, seed=1, headers=accept).headers["content-type"] == "audio/flac"
    accept = {"accept": "audio/*"}
    assert post(client, seed=1, headers=accept).headers["content-type"] == "audio/wav"
    problem = post(client, 406, headers={"accept": "image/gif"}, seed=1).json()
    assert "audio/wav" in problem["detail"]


def test_json_has_a_file_for_each_seed(client, model):
    document = post(client, seeds=[3, 9], format="json").json()
    assert (document["sample_rate"], document["digest"]) == (SAMPLE_RATE, model.digest)
    assert [each["seed"] for each in document["audio"]] == [3, 9]
    for each in document["audio"]:
        assert each["media_type"] == "audio/wav"
        samples = samples_of(base64.b64decode(each["data"]))
        assert np.array_equal(samples, model.generate([each["seed"]])[0])


def test_zip_has_wav_files(client, model):
    response = post(client, n=2, seed=4, format="zip")
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert archive.namelist() == ["0-seed-4.wav", "1-seed-5.wav"]
        assert np.array_equal(samples_of(archive.read("1-seed-5.wav")), model.generate([5])[0])


def test_npy_is_int16(client, model):
    response = post(client, n=3, seed=0, format="npy")
    array = np.load(io.BytesIO(response.content))
    assert (array.dtype, array.shape) == (np.int16, (3, SAMPLES))
    assert np.array_equal(array, model.generate([0, 1, 2]))


def test_class_and_z(client, model):
    z = np.random.RandomState(5).randn(Z).astype(np.float32)
    response = post(client, z=[z.tolist()], **{"class": CLASSES[2]}, format="wav")
    assert np.array_equal(samples_of(response.content), model.generate([5], [2])[0])
    assert response.headers["x-ganymede-seed"] == "z"


def test_png_draws_waveform_and_spectrogram(client):
    response = post(client, seed=2, format="png")
    image = Image.open(io.BytesIO(response.content))
    assert (image.size, image.mode) == ((384, 224), "RGB")
    assert json.loads(image.text["ganymede"])["seed"] == 2


def test_sample_classes_has_a_folder_for_each_class(client, model):
    body = {"model": AUDIO, "per_class": 1, "seed": 0, "format": "zip"}
    response = client.post("/v1/sample-classes", json=body)
    assert response.status_code == 200, response.text
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert archive.namelist() == [
            "cat/0-seed-0.wav",
            "dog/1-seed-1.wav",
            "night-owl/2-seed-2.wav",
        ]
        expected = model.generate([0, 1, 2], [0, 1, 2])
        for name, samples in zip(archive.namelist(), expected, strict=True):
            assert np.array_equal(samples_of(archive.read(name)), samples)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"format": "webp"}, "format"),
        ({"c2pa": True}, "c2pa"),
        ({"rank": 0.5}, "rank"),
        ({"truncation": 0.5}, "truncation"),
        ({"model": "painted", "format": "wav"}, "model"),
    ],
)
def test_sample_classes_refuses_what_audio_does_not_have(client, body, field):
    body = {"model": AUDIO, "per_class": 1} | body
    response = client.post("/v1/sample-classes", json=body)
    assert response.status_code == 422, response.text
    assert response.json()["errors"][0]["field"] == field


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"seed": -1}, "seed"),
        ({"n": 0}, "n"),
        ({"n": 100_000}, "n"),
        ({"seeds": []}, "seeds"),
        ({"seed": 1, "seeds": [2]}, "seeds"),
        ({"z": [[1.0]]}, "z"),
        ({"class": "bird"}, "class"),
        ({"class": 3}, "class"),
        ({"truncation": 0.5}, "truncation"),
        ({"format": "mp3"}, "format"),
        ({"w": [[1.0]]}, "w"),
        ({"model": "painted"}, "model"),
        ({"model": TEXT_MODEL}, "model"),
        ({"model": ENCODER}, "model"),
    ],
)
def test_invalid_field_is_named(client, body, field):
    problem = post(client, 422, **body).json()
    assert problem["errors"][0]["field"].startswith(field)


def test_unknown_model(client):
    assert post(client, 404, model="nobody").json()["type"].endswith("model-not-found")


_PIXEL = base64.b64encode(b"x").decode()
OTHER_ROUTES = [
    ("/v1/generate", {"n": 1}),
    ("/v1/mix-styles", {"rows": [1], "columns": [2]}),
    ("/v1/interpolate", {"sources": [1, 2], "frames": 4}),
    ("/v1/edit", {"n": 1, "directions": {"smile": 1.0}}),
    ("/v1/images/generations", {"prompt": "1"}),
    ("/v1/jobs", {"count": 2, "resize": "8x8"}),
    ("/v1/jobs", {"count": 2, "format": "parquet"}),
]


@pytest.mark.parametrize("name", [AUDIO, TEXT_MODEL, ENCODER, CAPTIONED])
@pytest.mark.parametrize(("path", "body"), OTHER_ROUTES)
def test_routes_of_other_tasks_refuse_the_model(client, name, path, body):
    if (path, name) == ("/v1/images/generations", CAPTIONED):
        pytest.skip("serves text to image")
    response = client.post(path, json={"model": name} | body)
    # OpenAI's routes answer 400.
    assert response.status_code in (400, 422), (response.status_code, response.text)


@pytest.mark.parametrize("name", [AUDIO, TEXT_MODEL, ENCODER])
@pytest.mark.parametrize("path", ["/images/1.png", "/directions/x.webp"])
def test_images_of_the_model_are_refused(client, name, path):
    assert 400 <= client.get(f"/v1/models/{name}{path}").status_code < 500


@pytest.mark.parametrize("name", [AUDIO, TEXT_MODEL, ENCODER, CAPTIONED])
def test_open_inference_describes_the_model_without_an_error(client, name):
    assert client.get(f"/v2/models/{name}").status_code == (404 if name == ENCODER else 200)


def test_open_inference_runs_an_audio_model(client, model):
    z = np.random.RandomState(1).randn(1, Z).astype(np.float32)
    tensor = {"name": "z", "shape": [1, Z], "datatype": "FP32", "data": z.ravel().tolist()}
    response = client.post(f"/v2/models/{AUDIO}/infer", json={"inputs": [tensor]})
    assert response.status_code == 200, response.text
    (output,) = response.json()["outputs"]
    assert (output["name"], output["datatype"]) == ("samples", "INT16")
    assert output["data"] == model.generate([1], [0])[0].tolist()


def test_models_are_listed_with_their_output(client):
    cards = {card["id"]: card for card in client.get("/v1/models").json()["data"]}
    assert cards[AUDIO]["audio"] == {"sample_rate": SAMPLE_RATE, "samples": SAMPLES}
    assert "image" not in cards[AUDIO]
    assert cards[TEXT_MODEL]["text"]["unit"] == "character"
    assert cards[ENCODER]["text_encoder"]["dimension"] == 8
    assert cards[CAPTIONED]["text_input"]["encoder"] == ENCODER
    for name in cards:
        assert client.get(f"/v1/models/{name}").status_code == 200
