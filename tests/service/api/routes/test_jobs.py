"""Jobs over HTTP, against the real service: start, progress, files, cancellation, resumption."""

import signal
import subprocess
import time

import httpx
import pytest

from service.api_keys import add_key
from tests.support.jobs import (
    download_files,
    start_job,
    wait_for_images,
    wait_for_job,
    without_summary,
)
from tests.support.servers import ganymede, serving, wait_until_ready, worker_of


@pytest.fixture
def job_environment(tmp_path):
    return {"GANYMEDE_JOBS": str(tmp_path / "jobs"), "GANYMEDE_CACHE": str(tmp_path / "cache")}


def run_command(models, out, *flags):
    """Run `ganymede sample`, and return the content of its files, by name."""
    command = ganymede("sample", "painted-classes", "--models", models, "--out", out, *flags)
    subprocess.run(command, check=True, capture_output=True)
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["webdataset", "parquet"])
def test_job_writes_same_files_as_sample_command(
    drawn_repository, tmp_path, job_environment, layout
):
    with serving(drawn_repository, env=job_environment) as server, server.client() as client:
        options = {"count": 250, "seed": 3, "classes": ["dog", 0], "truncation": 0.7}
        url = start_job(client, **options, shard_size=100, format=layout)
        job = wait_for_job(client, url)
        assert (job["state"], job["images"], job["failed"]) == ("done", 250, 0)
        files = download_files(client, job)
        assert {file["name"]: file["bytes"] for file in job["files"]} == {
            name: len(content) for name, content in files.items()
        }
    flags = ["--count", "250", "--seed", "3", "--classes", "dog,0", "--truncation", "0.7"]
    flags += ["--shard-size", "100", "--format", layout]
    expected = run_command(drawn_repository, tmp_path / "expected", *flags)
    assert without_summary(files) == without_summary(expected)


@pytest.mark.slow
def test_serves_requests_during_job_and_cancels_it(drawn_repository, tmp_path, job_environment):
    with serving(drawn_repository, env=job_environment) as server, server.client() as client:
        url = start_job(client, count=1_000_000, shard_size=200)
        second = start_job(client, count=5)
        deadline = time.monotonic() + 60
        while not ((job := client.get(url).json())["files"] and job["images"]):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert job["state"] == "running"
        assert 0 < job["images"] < 1_000_000
        assert job["images_per_second"] > 0
        # The first shard is complete while the job is running.
        assert len(client.get(job["files"][0]["url"]).content) == job["files"][0]["bytes"]
        assert client.get(second).json()["state"] == "queued"
        for seed in range(20):
            body = {"model": "painted-classes", "seed": seed}
            assert client.post("/v1/generate", json=body).status_code == 200
        assert client.delete(url).json()["state"] == "cancelled"
        assert wait_for_job(client, second)["state"] == "done"
        assert client.get(url).json()["state"] == "cancelled"
        # Deleting a cancelled job removes it with its files.
        assert client.delete(url).status_code == 200
        assert client.get(url).status_code == 404
        assert not (tmp_path / "jobs" / url.rpartition("/")[2]).exists()
        assert [job["count"] for job in client.get("/v1/jobs").json()["data"]] == [5]


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
def test_resumes_jobs_after_restart(drawn_repository, tmp_path, job_environment, signal_number):
    options = {"count": 6000, "shard_size": 50}
    with serving(drawn_repository, env=job_environment) as server, server.client() as client:
        url = start_job(client, **options)
        wait_for_images(client, url, 100)
        if signal_number is signal.SIGKILL:
            worker_of(server).kill()
            time.sleep(0.5)
            wait_until_ready(server)
            job = wait_for_job(client, url)
        else:
            server.process.send_signal(signal_number)
            server.process.wait(30)
    if signal_number is signal.SIGTERM:
        with serving(drawn_repository, env=job_environment) as server, server.client() as client:
            deadline = time.monotonic() + 20
            while client.get(url).status_code == 503:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            job = wait_for_job(client, url)
            files = download_files(client, job)
        assert job["state"] == "done"
        flags = ["--count", "6000", "--shard-size", "50", "--format", "webdataset"]
        expected = run_command(drawn_repository, tmp_path / "expected", *flags)
        assert without_summary(files) == without_summary(expected)
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
        ({"count": 1, "directions": {"bright": 1}}, "directions"),
        ({"count": 1, "directions": {"bright": 99}}, "directions"),
        ({"count": 1, "resize": "0x0"}, "resize"),
        ({"count": 1, "format": "folder"}, "format"),
        ({"count": 1, "what": 1}, "what"),
    ],
)
def test_problem_names_invalid_field(drawn_server, body, field):
    with drawn_server.client() as client:
        response = client.post("/v1/jobs", json={"model": "painted-classes"} | body)
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"].startswith(field), response.text


def test_unknown_models_jobs_and_files_are_404(drawn_repository, job_environment):
    with serving(drawn_repository, env=job_environment) as server, server.client() as client:
        url = start_job(client, count=1)
        wait_for_job(client, url)
        assert client.post("/v1/jobs", json={"model": "x", "count": 1}).status_code == 404
        for path in ("/v1/jobs/unknown", f"{url}/files/unknown", f"{url}/files/..%2fjobs.sqlite"):
            assert client.get(path).status_code == 404, path
        assert client.delete("/v1/jobs/unknown").status_code == 404


def test_keys_see_only_their_own_jobs(drawn_repository, tmp_path, job_environment):
    file = tmp_path / "keys.json"
    keys = {name: add_key(file, name, admin=name == "admin") for name in ("a", "b", "admin")}
    with serving(drawn_repository, env=job_environment | {"GANYMEDE_KEYS": str(file)}) as server:
        clients = {
            name: httpx.Client(base_url=server.url, headers={"x-api-key": key})
            for name, key in keys.items()
        }
        url = start_job(clients["a"], count=3)
        assert wait_for_job(clients["a"], url)["state"] == "done"
        (job,) = [clients["a"].get(url).json()]
        assert clients["b"].get(url).status_code == 404
        assert clients["b"].delete(url).status_code == 404
        assert clients["b"].get(job["files"][0]["url"]).status_code == 404
        assert clients["b"].get("/v1/jobs").json()["data"] == []
        assert len(clients["admin"].get("/v1/jobs").json()["data"]) == 1
        assert clients["admin"].get(job["files"][0]["url"]).status_code == 200
        assert httpx.get(f"{server.url}{url}").status_code == 401


@pytest.mark.slow
def test_rate_limit_applies_to_jobs(drawn_repository, tmp_path, job_environment):
    file = tmp_path / "keys.json"
    headers = {"x-api-key": add_key(file, "small", pixels_per_minute=24 * 24 * 10)}
    with (
        serving(drawn_repository, env=job_environment | {"GANYMEDE_KEYS": str(file)}) as server,
        httpx.Client(base_url=server.url, headers=headers) as client,
    ):
        wait_for_job(client, start_job(client, count=10))
        later = client.post("/v1/jobs", json={"model": "painted-classes", "count": 5})
        assert later.status_code == 429
        assert "retry-after" in later.headers
        too_large = client.post("/v1/jobs", json={"model": "painted-classes", "count": 11})
        assert too_large.status_code == 422


@pytest.mark.slow
def test_reports_unwritable_jobs_folder(drawn_repository, tmp_path):
    (tmp_path / "file").write_text("")
    env = {"GANYMEDE_JOBS": str(tmp_path / "file" / "jobs")}
    with serving(drawn_repository, env=env) as server, server.client() as client:
        time.sleep(0.5)
        response = client.post("/v1/jobs", json={"model": "painted", "count": 1})
        assert response.status_code == 503
        assert "--jobs" in response.json()["detail"]
        assert client.post("/v1/generate", json={"model": "painted"}).status_code == 200


def test_bounds_and_charges_the_pixels_that_are_made(drawn_repository, tmp_path, job_environment):
    file = tmp_path / "keys.json"
    headers = {"x-api-key": add_key(file, "app", pixels_per_minute=2_000_000)}
    limits = {
        "GANYMEDE_KEYS": str(file),
        "GANYMEDE_MAX_RESIZED_PIXELS": "40000",
        "GANYMEDE_MAX_JOB_PIXELS": "1000000",
    }
    with (
        serving(drawn_repository, env=job_environment | limits) as server,
        httpx.Client(base_url=server.url, headers=headers) as client,
    ):
        body = {"model": "painted-classes", "count": 20}
        refused = client.post("/v1/jobs", json=body | {"resize": "201x200"})
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "resize")
        refused = client.post("/v1/jobs", json=body | {"resize": "16384x16384"})
        assert refused.status_code == 422
        refused = client.post("/v1/jobs", json=body | {"resize": "200x200", "count": 25})
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "count")
        assert "at most 24 images" in refused.json()["detail"]
        accepted = client.post("/v1/jobs", json=body | {"resize": "200x200"})
        # 20 images of 24×24 pixels, resized to 200×200; the bucket refills in a minute.
        assert int(accepted.headers["ratelimit-remaining"]) < 2_000_000 - 20 * 200 * 200 / 2
        job = wait_for_job(client, accepted.headers["location"])
        assert (job["state"], job["images"]) == ("done", 20)
        assert job["expires"] > job["ended"]


def test_lists_jobs_in_pages(drawn_repository, job_environment):
    with serving(drawn_repository, env=job_environment) as server, server.client() as client:
        urls = [start_job(client, count=1) for _ in range(5)]
        listed, url, pages = [], "/v1/jobs?limit=2", 0
        while url is not None:
            page = client.get(url).json()
            listed += [f"/v1/jobs/{job['id']}" for job in page["data"]]
            assert page["has_more"] == ("next" in page)
            url = page.get("next")
            pages += 1
        assert (listed, pages) == (urls[::-1], 3)
        assert client.get("/v1/jobs").json()["has_more"] is False
        for query in ("limit=0", "limit=x", "after=x", "after=1-x", "after=" + "9" * 101):
            assert client.get(f"/v1/jobs?{query}").status_code == 422, query


def test_limits_jobs_of_each_key(drawn_repository, tmp_path, job_environment):
    file = tmp_path / "keys.json"
    keys = [{"x-api-key": add_key(file, name)} for name in ("a", "b")]
    env = job_environment | {"GANYMEDE_KEYS": str(file), "GANYMEDE_MAX_JOBS_PER_KEY": "2"}
    body = {"model": "painted-classes", "count": 500_000, "shard_size": 50}
    with serving(drawn_repository, env=env) as server, server.client(headers=keys[0]) as client:
        urls = [start_job(client, **body) for _ in range(2)]
        refused = client.post("/v1/jobs", json=body)
        assert refused.status_code == 429
        assert "2 jobs of this key" in refused.json()["detail"]
        other = httpx.Client(base_url=server.url, headers=keys[1], timeout=60)
        # It does not wait for the end of the long jobs.
        assert wait_for_job(other, start_job(other, count=5))["state"] == "done"
        assert client.get(urls[0]).json()["state"] in ("queued", "running")
        for url in urls:
            assert client.delete(url).status_code == 200
