"""Jobs of audio: the command writes folders and tar files, the service the same files."""

import functools
import io
import json
import tarfile
import time

import numpy as np
import pytest
import soundfile

from service.offline.job import make_job
from service.offline.rendering import ShardRenderer
from service.runtime.audio.formats import AudioFormat
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.drawn_models import CLASSES
from tests.support.output_models import AUDIO
from tests.support.sampling import read_metadata, run_sample


@pytest.fixture(scope="module")
def model(output_repository):
    return Model(output_repository / AUDIO / "1", Provider.CPU, ExecutionPlan(1, 1, 64))


@pytest.fixture(scope="module")
def sample(output_repository):
    return functools.partial(run_sample, output_repository)


def test_folder_has_a_file_for_each_seed_in_the_folder_of_its_class(sample, model, tmp_path):
    sample(AUDIO, tmp_path / "out", "--count", "6", "--audio", "flac", "--classes", "balanced")
    records = read_metadata(tmp_path / "out")
    assert [record["seed"] for record in records] == list(range(6))
    expected = model.generate(range(6), [i % 3 for i in range(6)])
    for record, samples in zip(records, expected, strict=True):
        name = record["file_name"]
        assert name.endswith(".flac")
        assert name.startswith(record["class"].replace(" ", "-") + "/")
        written, _ = soundfile.read(tmp_path / "out" / name, dtype="int16")
        assert np.array_equal(written, samples)


def test_shard_does_not_depend_on_the_shards_before_it(sample, model, tmp_path):
    flags = ("--count", "4", "--shard-size", "2", "--audio", "flac")
    sample(AUDIO, tmp_path / "out", *flags)
    job = make_job(model.manifest, count=4, shard_size=2, audio=AudioFormat.FLAC)
    rendered = list(ShardRenderer(model, job).shard(1))
    assert [each.item.seed for each in rendered] == [2, 3]
    for each in rendered:
        assert (tmp_path / "out" / f"{each.item.stem}.flac").read_bytes() == each.file


def test_tar_has_labels_and_parameters(sample, model, tmp_path):
    sample(AUDIO, tmp_path, "--count", "3", "--format", "webdataset", "--audio", "npy")
    (path,) = tmp_path.glob("*.tar")
    with tarfile.open(path) as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}
    assert sorted(members) == sorted(
        f"seed-{seed}.{extension}" for seed in range(3) for extension in ("npy", "cls", "json")
    )
    assert members["seed-2.cls"] == b"2"
    assert json.loads(members["seed-1.json"])["class"] == CLASSES[1]
    assert np.array_equal(np.load(io.BytesIO(members["seed-1.npy"])), model.generate([1])[0])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--resize", "8x8"), "--resize: beeps returns sounds"),
        (("--image", "webp"), "--image: beeps returns sounds"),
        (("--mix", "coarse"), "--mix"),
        (("--format", "parquet"), "--format"),
    ],
)
def test_options_of_images_are_refused(sample, tmp_path, flags, message):
    process = sample(AUDIO, tmp_path / "out", "--count", "2", *flags, code=2)
    assert message in process.stderr


def test_audio_is_refused_for_images(sample, tmp_path):
    process = sample("painted", tmp_path / "out", "--count", "2", "--audio", "wav", code=2)
    assert "--audio: painted returns images" in process.stderr


def test_job_over_http_has_the_files_of_the_command(output_server, sample, tmp_path):
    body = {"model": AUDIO, "count": 3, "format": "webdataset", "audio": "flac"}
    with output_server.client() as client:
        response = client.post("/v1/jobs", json=body)
        assert response.status_code == 202, response.text
        url, deadline = response.headers["location"], time.monotonic() + 120
        while (job := client.get(url).json())["state"] in ("queued", "running"):
            assert time.monotonic() < deadline, job
            time.sleep(0.2)
        assert job["state"] == "done", job
        (tar,) = (each for each in job["files"] if each["name"].endswith(".tar"))
        content = client.get(tar["url"]).content
    sample(AUDIO, tmp_path / "out", "--count", "3", "--format", "webdataset", "--audio", "flac")
    assert content == (tmp_path / "out" / tar["name"]).read_bytes()
