"""Jobs of audio: the command writes folders and tar files, the service the same files."""

import contextlib
import functools
import io
import json
import signal
import subprocess
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
from tests.support.sampling import read_files, read_metadata, run_sample
from tests.support.servers import ganymede, serving, wait_until, wait_until_ready, worker_of


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
    (path,) = tmp_path.glob("sounds-*.tar")
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


def finished(client, url) -> dict:
    """Wait for a job that may be resumed, and return it."""
    deadline = time.monotonic() + 240
    while True:
        response = client.get(url)
        if response.status_code == 200 and response.json()["state"] not in ("queued", "running"):
            return response.json()
        assert time.monotonic() < deadline, response.text
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "kind"), [("folder", "wav"), ("folder", "npy"), ("webdataset", "flac")]
)
def test_killed_command_resumes_with_the_same_output(
    sample, output_repository, tmp_path, layout, kind
):
    flags = ("--count", "1500", "--shard-size", "25", "--format", layout, "--audio", kind)
    sample(AUDIO, tmp_path / "whole", *flags)
    out = tmp_path / "killed"
    shards = out / ".ganymede" / "shards"
    done = []
    for _ in range(3):
        command = ganymede("sample", AUDIO, "--models", output_repository, "--out", out, *flags)
        before = len(list(shards.glob("*.jsonl")))
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(
            lambda process=process, before=before: (
                len(list(shards.glob("*.jsonl"))) > before + 1 or process.poll() is not None
            )
        )
        process.kill()
        assert process.wait() == -signal.SIGKILL, "the job ended before it was killed"
        done.append(len(list(shards.glob("*.jsonl"))))
    # Every process continued where the last one was killed, and none was near the end.
    assert done == sorted(set(done))
    assert done[-1] < 60
    sample(AUDIO, out, *flags)
    assert read_files(out) == read_files(tmp_path / "whole")
    assert [record["seed"] for record in read_metadata(out)] == list(range(1500))


@pytest.mark.slow
@pytest.mark.parametrize("stops_server", [False, True])
def test_stopped_job_over_http_resumes_with_the_same_files(
    sample, output_repository, tmp_path, stops_server
):
    body = {
        "model": AUDIO,
        "count": 6000,
        "shard_size": 50,
        "format": "webdataset",
        "audio": "flac",
    }
    env = {"GANYMEDE_JOBS": str(tmp_path / "jobs")}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(output_repository, env=env))
        client = stack.enter_context(server.client())
        url = client.post("/v1/jobs", json=body).headers["location"]
        wait_until(lambda: client.get(url).json()["images"] >= 100)
        assert client.get(url).json()["state"] == "running"
        if stops_server:
            stack.close()
            server = stack.enter_context(serving(output_repository, env=env))
            client = stack.enter_context(server.client())
        else:
            worker_of(server).kill()
            time.sleep(0.5)
            wait_until_ready(server)
        job = finished(client, url)
        assert (job["state"], job["images"]) == ("done", 6000)
        files = {each["name"]: client.get(each["url"]).content for each in job["files"]}
    flags = ("--count", "6000", "--shard-size", "50", "--format", "webdataset", "--audio", "flac")
    sample(AUDIO, tmp_path / "whole", *flags)
    whole = read_files(tmp_path / "whole")
    tars = [name for name in whole if name.endswith(".tar")]
    assert len(tars) == 120
    for name in tars:
        assert files[name] == whole[name], name
