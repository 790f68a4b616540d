"""Jobs over HTTP, with the real service: begun, watched, fetched, cancelled, gone on with."""

import signal
import subprocess
import time

import httpx
import pytest

from service.api_keys import add_key
from tests.support.servers import ganymede, serving, wait_until_ready, worker_of


@pytest.fixture
def place(tmp_path):
    return {"GANYMEDE_JOBS": str(tmp_path / "jobs"), "GANYMEDE_CACHE": str(tmp_path / "cache")}


def begin(client, **body):
    until = time.monotonic() + 20
    while True:
        answer = client.post("/v1/jobs", json={"model": "painted-classes"} | body)
        # A moment passes until a new process has its folder.
        if answer.status_code != 503 or time.monotonic() > until:
            break
        time.sleep(0.1)
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"
    return answer.headers["location"]


def ended(client, url, seconds=120):
    until = time.monotonic() + seconds
    while True:
        answer = client.get(url)
        assert answer.status_code == 200, (answer.status_code, answer.text)
        job = answer.json()
        if job["state"] not in ("queued", "running"):
            break
        assert time.monotonic() < until, job
        time.sleep(0.1)
    return job


def fetched(client, job):
    return {file["name"]: client.get(file["url"]).content for file in job["files"]}


def sampled(models, out, *flags):
    command = ganymede("sample", "painted-classes", "--models", models, "--out", out, *flags)
    subprocess.run(command, check=True, capture_output=True)
    return {path.name: path.read_bytes() for path in out.iterdir()}


def without_summary(files):
    return {name: content for name, content in files.items() if name != "summary.json"}


@pytest.mark.parametrize("layout", ["webdataset", "parquet"])
def test_a_job_makes_what_the_command_makes(drawn_repository, tmp_path, place, layout):
    with serving(drawn_repository, env=place) as server, server.client() as client:
        said = {"count": 250, "seed": 3, "classes": ["dog", 0], "truncation": 0.7}
        url = begin(client, **said, shard_size=100, format=layout)
        job = ended(client, url)
        assert (job["state"], job["images"], job["failed"]) == ("done", 250, 0)
        files = fetched(client, job)
        assert {file["name"]: file["bytes"] for file in job["files"]} == {
            name: len(content) for name, content in files.items()
        }
    flags = ["--count", "250", "--seed", "3", "--classes", "dog,0", "--truncation", "0.7"]
    flags += ["--shard-size", "100", "--format", layout]
    whole = sampled(drawn_repository, tmp_path / "whole", *flags)
    assert without_summary(files) == without_summary(whole)


def test_requests_are_served_while_a_job_is_done_and_it_can_be_cancelled(
    drawn_repository, tmp_path, place
):
    with serving(drawn_repository, env=place) as server, server.client() as client:
        url = begin(client, count=1_000_000, shard_size=200)
        second = begin(client, count=5)
        until = time.monotonic() + 60
        while not ((job := client.get(url).json())["files"] and job["images"]):
            assert time.monotonic() < until
            time.sleep(0.1)
        assert job["state"] == "running"
        assert 0 < job["images"] < 1_000_000
        assert job["images_per_second"] > 0
        # Whole already, while the rest is being made.
        assert len(client.get(job["files"][0]["url"]).content) == job["files"][0]["bytes"]
        assert client.get(second).json()["state"] == "queued"
        for seed in range(20):
            body = {"model": "painted-classes", "seed": seed}
            assert client.post("/v1/generate", json=body).status_code == 200
        assert client.delete(url).json()["state"] == "cancelled"
        assert ended(client, second)["state"] == "done"
        assert client.get(url).json()["state"] == "cancelled"
        # A second time it is forgotten, with its files.
        assert client.delete(url).status_code == 200
        assert client.get(url).status_code == 404
        assert not (tmp_path / "jobs" / url.rpartition("/")[2]).exists()
        assert [job["count"] for job in client.get("/v1/jobs").json()["data"]] == [5]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_service_that_comes_back_goes_on_with_its_jobs(drawn_repository, tmp_path, place, number):
    said = {"count": 6000, "shard_size": 50}
    with serving(drawn_repository, env=place) as server, server.client() as client:
        url = begin(client, **said)
        until = time.monotonic() + 60
        while client.get(url).json()["images"] < 100:
            assert time.monotonic() < until
            time.sleep(0.01)
        if number is signal.SIGKILL:
            worker_of(server).kill()
            time.sleep(0.5)
            wait_until_ready(server)
            job = ended(client, url)
        else:
            server.process.send_signal(number)
            server.process.wait(30)
    if number is signal.SIGTERM:
        with serving(drawn_repository, env=place) as server, server.client() as client:
            until = time.monotonic() + 20
            while client.get(url).status_code == 503:
                assert time.monotonic() < until
                time.sleep(0.1)
            job = ended(client, url)
            files = fetched(client, job)
        assert job["state"] == "done"
        flags = ["--count", "6000", "--shard-size", "50", "--format", "webdataset"]
        whole = sampled(drawn_repository, tmp_path / "whole", *flags)
        assert without_summary(files) == without_summary(whole)
    assert (job["state"], job["images"]) == ("done", 6000)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "count"),
        ({"count": 0}, "count"),
        ({"count": 2_000_000}, "count"),
        ({"seeds": "9-3"}, "seeds"),
        ({"count": 1, "classes": ["lion"]}, "classes"),
        ({"count": 1, "classes": {"cat": -1}}, "classes"),
        ({"count": 1, "truncation": 99}, "truncation"),
        ({"count": 1, "mix": "nowhere"}, "mix"),
        ({"count": 1, "resize": "0x0"}, "resize"),
        ({"count": 1, "format": "folder"}, "format"),
        ({"count": 1, "what": 1}, "what"),
    ],
)
def test_what_cannot_be_is_refused_by_its_field(drawn_server, body, field):
    with drawn_server.client() as client:
        answer = client.post("/v1/jobs", json={"model": "painted-classes"} | body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"].startswith(field), answer.text


def test_unknown_models_jobs_and_files_are_404(drawn_repository, place):
    with serving(drawn_repository, env=place) as server, server.client() as client:
        url = begin(client, count=1)
        ended(client, url)
        assert client.post("/v1/jobs", json={"model": "x", "count": 1}).status_code == 404
        for path in ("/v1/jobs/nobody", f"{url}/files/nothing", f"{url}/files/..%2fjobs.sqlite"):
            assert client.get(path).status_code == 404, path
        assert client.delete("/v1/jobs/nobody").status_code == 404


def test_each_key_sees_its_own_jobs_and_an_administrator_all(drawn_repository, tmp_path, place):
    file = tmp_path / "keys.json"
    keys = {name: add_key(file, name, admin=name == "admin") for name in ("a", "b", "admin")}
    with serving(drawn_repository, env=place | {"GANYMEDE_KEYS": str(file)}) as server:
        of = {
            name: httpx.Client(base_url=server.url, headers={"x-api-key": key})
            for name, key in keys.items()
        }
        url = begin(of["a"], count=3)
        assert ended(of["a"], url)["state"] == "done"
        (job,) = [of["a"].get(url).json()]
        assert of["b"].get(url).status_code == 404
        assert of["b"].delete(url).status_code == 404
        assert of["b"].get(job["files"][0]["url"]).status_code == 404
        assert of["b"].get("/v1/jobs").json()["data"] == []
        assert len(of["admin"].get("/v1/jobs").json()["data"]) == 1
        assert of["admin"].get(job["files"][0]["url"]).status_code == 200
        assert httpx.get(f"{server.url}{url}").status_code == 401


def test_an_allowance_is_no_smaller_for_jobs(drawn_repository, tmp_path, place):
    file = tmp_path / "keys.json"
    headers = {"x-api-key": add_key(file, "poor", pixels_per_minute=24 * 24 * 10)}
    with (
        serving(drawn_repository, env=place | {"GANYMEDE_KEYS": str(file)}) as server,
        httpx.Client(base_url=server.url, headers=headers) as client,
    ):
        ended(client, begin(client, count=10))
        refused = client.post("/v1/jobs", json={"model": "painted-classes", "count": 5})
        assert refused.status_code == 429
        assert "retry-after" in refused.headers
        never = client.post("/v1/jobs", json={"model": "painted-classes", "count": 11})
        assert never.status_code == 422


def test_a_folder_that_cannot_be_written_is_said(drawn_repository, tmp_path):
    (tmp_path / "file").write_text("")
    env = {"GANYMEDE_JOBS": str(tmp_path / "file" / "jobs")}
    with serving(drawn_repository, env=env) as server, server.client() as client:
        time.sleep(0.5)
        answer = client.post("/v1/jobs", json={"model": "painted", "count": 1})
        assert answer.status_code == 503
        assert "--jobs" in answer.json()["detail"]
        assert client.post("/v1/generate", json={"model": "painted"}).status_code == 200
