"""Starts jobs over HTTP in tests, and waits for them."""

import time

import httpx


def start_job(client: httpx.Client, **body) -> str:
    """Start a job, and return its URL."""
    deadline = time.monotonic() + 20
    while True:
        response = client.post("/v1/jobs", json={"model": "painted-classes"} | body)
        # A restarted process needs a moment to acquire the jobs folder.
        if response.status_code != 503 or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    assert response.status_code == 202, response.text
    assert response.headers["location"] == f"/v1/jobs/{response.json()['id']}"
    return response.headers["location"]


def wait_for_images(client: httpx.Client, url: str, images: int) -> None:
    """Wait until a job has so many images."""
    deadline = time.monotonic() + 60
    while client.get(url).json()["images"] < images:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_for_job(client: httpx.Client, url: str, seconds: float = 120) -> dict:
    """Wait until a job ends, and return it."""
    deadline = time.monotonic() + seconds
    while True:
        response = client.get(url)
        assert response.status_code == 200, (response.status_code, response.text)
        job = response.json()
        if job["state"] not in ("queued", "running"):
            break
        assert time.monotonic() < deadline, job
        time.sleep(0.1)
    return job


def download_files(client: httpx.Client, job: dict) -> dict[str, bytes]:
    """Return the content of the files of a job, by name."""
    return {file["name"]: client.get(file["url"]).content for file in job["files"]}


def without_summary(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return files without the summary, which contains the running time of the job."""
    return {name: content for name, content in files.items() if name != "summary.json"}
