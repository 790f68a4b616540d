"""Jobs with inputs from clients, and with results at URLs: the real service and an S3 server."""

import io
import json
import os
import signal
import subprocess
import tarfile

import httpx
import numpy as np
import pytest
from PIL import Image

from service.api_keys import add_key
from tests.support.image_to_image_models import FILL, write_translators
from tests.support.object_stores import object_store, zip_of
from tests.support.servers import (
    client_of_each_worker,
    ganymede,
    serving,
    wait_until,
    wait_until_ready,
    worker_of,
)


def png(pixels) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def noise(seed, height=16, width=18):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


IMAGES = {f"{'ab'[i % 2]}/{i}.png": noise(i, 16 + i % 2) for i in range(6)}
PHOTOS = zip_of({name: png(pixels) for name, pixels in IMAGES.items()})


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("translators")
    write_translators(folder)
    return folder


@pytest.fixture(scope="module")
def store():
    with object_store() as store:
        store.put("in/photos.zip", PHOTOS)
        store.put("private/photos.zip", PHOTOS)
        yield store


@pytest.fixture(scope="module")
def environment(store):
    return store.environment | {
        "GANYMEDE_JOBS_OUTPUTS": "s3://bucket/out,s3://nowhere/out",
        "GANYMEDE_JOBS_INPUTS": "s3://bucket/in",
        "GANYMEDE_PLAN": "default",
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="module")
def server(models, environment, folder):
    limits = {"GANYMEDE_MAX_JOB_UPLOAD": "200000", "GANYMEDE_MAX_BODY_BYTES": "100000"}
    jobs = {"GANYMEDE_JOBS": str(folder)}
    with serving(models, "--processes", "1", env=environment | limits | jobs) as server:
        yield server


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


def upload(client, archive=PHOTOS, mask=None, name="photos.zip", **fields):
    files = {"input": (name, archive)} | ({"mask": ("masks.zip", mask)} if mask else {})
    return client.post("/v1/jobs", data={"job": json.dumps(fields)}, files=files)


def finished(client, response):
    """Wait until the job of a response has ended, and return it."""
    assert response.status_code == 202, response.text
    url = response.headers["location"]

    def has_ended():
        answer = client.get(url)
        # A restarted process needs a moment to acquire the jobs folder.
        return answer.status_code == 200 and answer.json()["state"] not in ("queued", "running")

    wait_until(has_ended)
    return client.get(url).json()


def outputs_of(shard: bytes) -> dict[str, np.ndarray]:
    """The images in a tar shard, by key."""
    with tarfile.open(fileobj=io.BytesIO(shard)) as archive:
        return {
            member.name: np.asarray(Image.open(archive.extractfile(member)))
            for member in archive
            if member.name.endswith(".png")
        }


def sampled(models, tmp_path, *flags):
    """The files of `ganymede sample` but for the summary, by name."""
    command = ganymede("sample", *flags, "--models", models, "--out", tmp_path / "out")
    subprocess.run(command, check=True, capture_output=True)
    return {
        str(path.relative_to(tmp_path / "out")): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file() and path.name not in ("summary.json", "job.json")
    }


def test_uploaded_images_give_the_files_of_the_command(client, models, folder, tmp_path):
    response = upload(client, model="softer", direction="invert", image="png")
    job = finished(client, response)
    assert (job["state"], job["images"], job["failed"]) == ("done", 6, 0)
    assert job["input"] == "upload:photos.zip"
    files = {file["name"]: client.get(file["url"]).content for file in job["files"]}
    outputs = outputs_of(files["images-00000.tar"])
    assert list(outputs) == [f"photos/{name}" for name in sorted(IMAGES)]
    for name, pixels in IMAGES.items():
        np.testing.assert_array_equal(outputs[f"photos/{name}"], 255 - pixels)
    (tmp_path / "photos.zip").write_bytes(PHOTOS)
    flags = ("--input", tmp_path / "photos.zip", "--direction", "invert", "--format", "webdataset")
    expected = sampled(models, tmp_path, "softer", *flags)
    assert {name: files[name] for name in expected} == expected
    # The files name no folder of the server, which keeps no upload of a job that has ended.
    assert str(folder).encode() not in b"".join(files.values())
    assert list((folder / "uploads").iterdir()) == []


@pytest.mark.parametrize("model", ["larger", "colored", "filled"])
def test_each_task_takes_uploads(client, model):
    hole = np.zeros((16, 18), np.uint8)
    hole[2:6, 3:9] = 255
    image = {"one.png": png(noise(0))}
    masks = zip_of({"one.png": png(hole)}) if model == "filled" else None
    job = finished(client, upload(client, zip_of(image), masks, model=model))
    assert (job["state"], job["images"]) == ("done", 1)
    (output,) = outputs_of(client.get(job["files"][1]["url"]).content).values()
    if model == "filled":
        assert (output[hole > 0] == FILL).all()
        np.testing.assert_array_equal(output[hole == 0], noise(0)[hole == 0])
    else:
        assert output.shape == ((32, 36, 3) if model == "larger" else (16, 18, 3))


def test_unusable_images_are_reported_by_name_and_the_rest_is_done(client):
    archive = zip_of({"a.png": png(noise(1)), "broken.png": b"no image", "notes.txt": b""})
    job = finished(client, upload(client, archive, model="softer"))
    assert (job["state"], job["images"], job["failed"]) == ("done", 1, 1)
    summary = next(file for file in job["files"] if file["name"] == "summary.json")
    problems = client.get(summary["url"]).json()["problems"]
    assert list(problems) == ["photos/broken.png"]
    assert "not an image" in problems["photos/broken.png"]


@pytest.mark.parametrize(
    ("archive", "fields", "field"),
    [
        (b"no archive", {"model": "softer"}, "input"),
        (zip_of({"a.txt": b""}), {"model": "softer"}, "input"),
        (zip_of({"a.png": b"", "b.zip": b""}), {"model": "softer"}, "input"),
        (zip_of({"a.png": bytes(80 * 2**20)}), {"model": "softer"}, "input"),
        (PHOTOS, {"model": "softer", "input": "s3://bucket/in/photos.zip"}, "input"),
        (PHOTOS, {"model": "softer", "count": 7}, "count"),
        (PHOTOS, {"model": "softer", "seed": 1}, "seed"),
        (PHOTOS, {"model": "softer", "format": "folder"}, "format"),
        (PHOTOS, {"model": "softer", "what": 1}, "what"),
        (PHOTOS, {"model": "filled"}, "mask"),
    ],
)
def test_invalid_uploads_are_refused_and_leave_nothing(client, folder, archive, fields, field):
    response = upload(client, archive, **fields)
    assert response.status_code == 422, response.text
    assert response.json()["errors"][0]["field"] == field
    assert str(folder) not in response.text
    assert list((folder / "uploads").iterdir()) == []


def test_forms_are_checked(client, folder):
    job = {"job": json.dumps({"model": "softer"})}
    photos = ("photos.zip", PHOTOS)
    cases = [
        ({}, {"input": photos}, 422),
        (job, {"other": photos}, 422),
        (job | {"input": "text"}, {"mask": photos}, 422),
        (job, {"input": ("photos.mp4", PHOTOS)}, 422),
        ({"job": "{"}, {"input": photos}, 400),
        ({"job": "[" * 500}, {"input": photos}, 400),
        ({"job": json.dumps({"model": "unknown"})}, {"input": photos}, 404),
        (job, {"input": ("photos.zip", bytes(250_000))}, 413),
        (job, {"input": ("photos.zip", bytes(400_000))}, 413),
    ]
    for data, files, status in cases:
        response = client.post("/v1/jobs", data=data, files=files)
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/problem+json"
    broken = {"content-type": "multipart/form-data; boundary=x"}
    assert client.post("/v1/jobs", content=b"--y", headers=broken).status_code == 400
    # Bodies of other routes keep their limit.
    assert client.post("/v1/translate", files={"image": bytes(150_000)}).status_code == 413
    assert list((folder / "uploads").iterdir()) == []


def test_inputs_and_results_at_urls(client, store, models, tmp_path):
    body = {"model": "softer", "input": "s3://bucket/in/photos.zip", "direction": "invert"}
    output = {"output": "s3://bucket/out/inverted", "format": "folder"}
    response = client.post("/v1/jobs", json=body | output)
    job = finished(client, response)
    assert (job["state"], job["images"], job["files"]) == ("done", 6, [])
    assert (job["input"], job["output"]) == (body["input"], output["output"])
    files = store.files("out/inverted/")
    assert json.loads(files.pop("summary.json"))["images"] == 6
    del files["job.json"]
    (tmp_path / "photos.zip").write_bytes(PHOTOS)
    flags = ("softer", "--input", tmp_path / "photos.zip", "--direction", "invert")
    assert files == sampled(models, tmp_path, *flags)
    download = client.get(f"/v1/jobs/{job['id']}/files/summary.json")
    assert (download.status_code, download.json()["type"].rpartition(":")[2]) == (
        404,
        "results-elsewhere",
    )
    assert output["output"] in download.json()["detail"]
    # The same job again is done at once; another one does not mix its files with it.
    assert finished(client, client.post("/v1/jobs", json=body | output))["images"] == 6
    other = client.post("/v1/jobs", json=body | output | {"image": "webp"})
    assert other.status_code == 409
    # Deleting the job leaves its results.
    assert client.delete(f"/v1/jobs/{job['id']}").status_code == 200
    assert client.get(f"/v1/jobs/{job['id']}").status_code == 404
    assert "summary.json" in store.files("out/inverted/")


@pytest.mark.parametrize(
    ("field", "url", "status", "kind"),
    [
        ("output", "s3://bucket/other", 403, "url-not-allowed"),
        ("output", "s3://bucket-evil/out/x", 403, "url-not-allowed"),
        ("output", "file:///tmp/x", 403, "url-not-allowed"),
        ("output", "s3://bucket/out/../private", 422, "invalid-request"),
        ("output", "simplecache::s3://bucket/out", 422, "invalid-request"),
        ("output", "s3://key:hidden@bucket/out", 422, "invalid-request"),
        ("output", "/tmp/x", 422, "invalid-request"),
        ("output", "s3://nowhere/out/x", 422, "output-not-writable"),
        ("input", "s3://bucket/private/photos.zip", 403, "url-not-allowed"),
        ("input", "http://169.254.169.254/latest/a.zip", 403, "url-not-allowed"),
        ("output", "s3://bucket/out/*", 422, "invalid-request"),
        ("input", "s3://bucket/in/none.zip", 422, "invalid-request"),
        ("mask", "s3://bucket/private/photos.zip", 403, "url-not-allowed"),
    ],
)
def test_urls_are_refused_with_the_field_and_without_secrets(client, field, url, status, kind):
    body = {"model": "softer", "input": "s3://bucket/in/photos.zip"} | {field: url}
    response = client.post("/v1/jobs", json=body)
    assert response.status_code == status, response.text
    problem = response.json()
    assert problem["type"].rpartition(":")[2] == kind
    assert problem["detail"].startswith(f"{field}: ")
    for secret in ("secret-access-key", "access-key-id", "hidden", "127.0.0.1"):
        assert secret not in response.text


@pytest.mark.parametrize("prefix", ["", "upload:", "upload://"])
def test_files_on_the_machine_of_the_service_cannot_be_named(client, tmp_path, prefix):
    archive = tmp_path / "photos.zip"
    archive.write_bytes(PHOTOS)
    for path in (archive, tmp_path):
        response = client.post("/v1/jobs", json={"model": "softer", "input": f"{prefix}{path}"})
        assert response.status_code in (403, 422), response.text
        assert response.json()["detail"].startswith("input: ")


def test_nothing_is_allowed_by_default(models, tmp_path):
    jobs = {"GANYMEDE_JOBS": str(tmp_path), "GANYMEDE_MAX_JOB_UPLOAD": "0"}
    with serving(models, "--processes", "1", env=jobs) as server, server.client() as client:
        for field in ("input", "output"):
            body = {"model": "softer", "input": "s3://bucket/in/photos.zip"}
            if field == "output":
                body = {"model": "softer", field: "s3://bucket/out"}
            response = client.post("/v1/jobs", json=body)
            assert response.status_code == 403
            assert f"--jobs-{field}s" in response.json()["detail"]
        assert upload(client, model="softer").json()["type"].endswith("uploads-not-allowed")


@pytest.mark.slow
def test_job_with_output_resumes_after_kill(drawn_repository, store, environment, tmp_path):
    body = {"model": "painted-classes", "count": 3000, "shard_size": 50}
    body |= {"output": "s3://bucket/out/killed"}
    jobs = {"GANYMEDE_JOBS": str(tmp_path / "jobs")}
    with (
        serving(drawn_repository, "--processes", "1", env=environment | jobs) as server,
        server.client() as client,
    ):
        response = client.post("/v1/jobs", json=body)
        url = response.headers["location"]
        wait_until(lambda: client.get(url).json()["images"] >= 100)
        assert client.get(url).json()["state"] == "running"
        worker = worker_of(server)
        worker.kill()
        worker.wait()
        kept = {
            each["Key"]: each["LastModified"]
            for each in store.client.list_objects_v2(Bucket="bucket", Prefix="out/killed/images")[
                "Contents"
            ]
        }
        wait_until_ready(server)
    with (
        serving(drawn_repository, "--processes", "1", env=environment | jobs) as server,
        server.client() as client,
    ):
        wait_until(lambda: client.get(url).status_code == 200)
        job = finished(client, response)
    assert (job["state"], job["images"]) == ("done", 3000)
    files = store.files("out/killed/")
    expected = sampled(
        drawn_repository,
        tmp_path,
        *("painted-classes", "--count", "3000", "--shard-size", "50", "--format", "webdataset"),
    )
    assert {name: files[name] for name in expected} == expected
    assert not [name for name in files if name.startswith(".ganymede")]
    # All but the shard that was being written were kept, unless the process died before its record.
    head = store.client.head_object
    unchanged = [head(Bucket="bucket", Key=key)["LastModified"] == at for key, at in kept.items()]
    assert sum(unchanged) >= len(kept) - 1


@pytest.mark.slow
def test_upload_survives_kill_during_the_job_and_not_during_itself(models, tmp_path):
    images = {f"{i:04}.png": png(noise(i, 64, 64)) for i in range(400)}
    jobs = {"GANYMEDE_JOBS": str(tmp_path), "GANYMEDE_PLAN": "default"}
    flags = ("--processes", "2", "--drain-s", "1")
    with serving(models, *flags, env=jobs) as server:
        with client_of_each_worker(server) as clients:
            # The process that receives the files may be another one than the one that runs the job.
            wait_until(lambda: all(each.get("/v1/jobs").status_code == 200 for each in clients))
            responses = [
                upload(each, zip_of(images), model="softer", shard_size=20) for each in clients
            ]
            urls = [response.headers["location"] for response in responses]
            wait_until(lambda: clients[0].get(urls[0]).json()["images"] >= 20)
        # An upload that never ends, and a job that runs.
        connection = server.connect()
        head = (
            "POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
            'Content-Disposition: form-data; name="input"; filename="a.zip"\r\n\r\n'
        )
        connection.sendall(head.encode() + bytes(200_000))
        uploads = tmp_path / "uploads"
        wait_until(lambda: any(uploads.glob("*/input/.a.zip.part")))
        # The supervisor and its workers at once.
        os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait()
        connection.close()
    with serving(models, *flags, env=jobs) as server, server.client() as client:
        wait_until(lambda: client.get(urls[0]).status_code == 200)
        for response in responses:
            job = finished(client, response)
            assert (job["state"], job["images"]) == ("done", 400)
        wait_until(lambda: not list(uploads.iterdir()))


def test_keys_cannot_see_uploads_of_others_and_limits_apply(models, tmp_path):
    file = tmp_path / "keys.json"
    keys = {"a": add_key(file, "a"), "b": add_key(file, "b", pixels_per_minute=2000)}
    environment = {
        "GANYMEDE_JOBS": str(tmp_path / "jobs"),
        "GANYMEDE_KEYS": str(file),
        "GANYMEDE_PLAN": "default",
    }
    with serving(models, "--processes", "1", env=environment) as server:
        assert upload(httpx.Client(base_url=server.url), model="softer").status_code == 401
        a, b = (server.client(headers={"x-api-key": key}) for key in keys.values())
        with a, b:
            response = upload(a, model="softer")
            assert finished(a, response)["images"] == 6
            assert b.get(response.headers["location"]).status_code == 404
            assert finished(b, upload(b, model="softer"))["state"] == "done"
            assert upload(b, model="softer").status_code == 429
