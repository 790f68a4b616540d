"""Jobs of prompts and of texts over HTTP, against the real service."""

import json
import signal
import time

import pytest

from tests.support.events import read_events
from tests.support.jobs import (
    download_files,
    start_job,
    wait_for_images,
    wait_for_job,
    without_summary,
)
from tests.support.output_models import AUDIO, CAPTIONED, ENCODER, MAX_TOKENS, TEXT_MODEL
from tests.support.sampling import read_files, run_sample
from tests.support.servers import serving, wait_until, wait_until_ready, worker_of
from tests.support.webhooks import new_secret, webhook_receiver

PROMPTS = ["abc", "", "日本語 🦊", "x" * 50]
TEXTS = {"model": TEXT_MODEL, "temperature": 0.7, "prefix": "ab", "max_length": 9}


@pytest.fixture
def command(output_repository, tmp_path):
    """Return the files of `ganymede sample` for the body of a job."""

    def run(model, prompts=(), **options):
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        if prompts:
            file = tmp_path / "prompts.txt"
            file.write_text("\n".join(prompts) + "\n", encoding="utf-8")
            flags += ["--prompts", str(file), "--format", "webdataset"]
        run_sample(output_repository, model, tmp_path / "expected", *flags)
        return read_files(tmp_path / "expected")

    return run


@pytest.mark.parametrize(
    "body",
    [
        {"model": CAPTIONED, "prompts": PROMPTS, "seed": 5},
        {"model": CAPTIONED, "prompts": PROMPTS, "count": 10, "shard_size": 3},
        {**TEXTS, "count": 25, "shard_size": 10},
        {"model": TEXT_MODEL, "seeds": "3-8"},
    ],
    ids=range(4),
)
def test_job_writes_same_files_as_sample_command(client, command, body):
    url = start_job(client, **body)
    job = wait_for_job(client, url)
    assert (job["state"], job["images"]) == ("done", job["count"])
    assert without_summary(download_files(client, job)) == command(**body)


def test_summary_names_truncated_prompts(client):
    job = wait_for_job(client, start_job(client, model=CAPTIONED, prompts=PROMPTS))
    assert len(PROMPTS[3]) > MAX_TOKENS
    assert json.loads(download_files(client, job)["summary.json"])["truncated_prompts"] == [3]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"model": CAPTIONED, "count": 2}, "prompts"),
        ({"model": CAPTIONED, "prompts": []}, "prompts"),
        ({"model": CAPTIONED, "prompts": ["a", "\ud800"]}, "prompts.1"),
        ({"model": CAPTIONED, "prompts": ["a" * 4001]}, "prompts.0"),
        ({"model": CAPTIONED, "prompts": ["a" * 4000] * 300}, "prompts"),
        ({"model": CAPTIONED, "prompts": ["a"], "temperature": 1}, "temperature"),
        ({"model": CAPTIONED, "prompts": ["a"], "format": "jsonl"}, "format"),
        ({"model": AUDIO, "count": 1, "prefix": "a"}, "prefix"),
        ({"model": AUDIO, "count": 1, "prompts": ["a"]}, "prompts"),
        ({"model": ENCODER, "count": 1}, "model"),
        ({"model": TEXT_MODEL}, "count"),
        ({"model": TEXT_MODEL, "count": 1, "prompts": ["a"]}, "prompts"),
        ({"model": TEXT_MODEL, "count": 1, "format": "webdataset"}, "format"),
        ({"model": TEXT_MODEL, "count": 1, "image": "webp"}, "image"),
        ({"model": TEXT_MODEL, "count": 1, "resize": "8x8"}, "resize"),
        ({"model": TEXT_MODEL, "count": 1, "temperature": 101}, "temperature"),
        ({"model": TEXT_MODEL, "count": 1, "max_length": 21}, "max_length"),
        ({"model": TEXT_MODEL, "count": 1, "prefix": "é"}, "prefix"),
        ({"model": TEXT_MODEL, "count": 1, "prefix": "a" * 20_000}, "prefix"),
        ({"model": TEXT_MODEL, "count": 1, "prefix": "\ud800"}, "prefix"),
    ],
    ids=range(20),
)
def test_invalid_fields_are_named(client, body, field):
    # Escaped, because a lone surrogate cannot be encoded.
    headers = {"content-type": "application/json"}
    response = client.post("/v1/jobs", content=json.dumps(body), headers=headers)
    assert response.status_code == 422, response.text
    assert response.json()["errors"][0]["field"] == field


def test_messages_name_the_kind_of_output(client):
    for model, plural in ((TEXT_MODEL, "texts"), (AUDIO, "sounds")):
        response = client.post("/v1/jobs", json={"model": model, "count": 2_000_000})
        assert response.json()["detail"].endswith(f"expected at most 1,000,000 {plural}")


@pytest.mark.parametrize(
    "body", [{"model": CAPTIONED, "prompts": PROMPTS}, TEXTS], ids=["prompts", "texts"]
)
def test_events_tell_the_progress(client, body):
    url = start_job(client, **body, count=60, shard_size=20)
    with client.stream("GET", f"{url}/events") as response:
        _, *events = read_events(response)
    images = [event["data"]["images"] for event in events]
    assert images == sorted(images)
    assert events[-1]["event"] == "end"
    assert (events[-1]["data"]["state"], images[-1]) == ("done", 60)


def test_webhook_is_sent_for_texts(output_repository, tmp_path):
    (tmp_path / "secrets").write_text(new_secret())
    with webhook_receiver((tmp_path / "secrets").read_text()) as receiver:
        env = {
            "GANYMEDE_JOBS": str(tmp_path / "jobs"),
            "GANYMEDE_WEBHOOK_HOSTS": receiver.url,
            "GANYMEDE_WEBHOOK_SECRETS": str(tmp_path / "secrets"),
        }
        with serving(output_repository, env=env) as server, server.client() as client:
            start_job(client, **TEXTS, count=3, webhook={"url": receiver.url})
            wait_until(lambda: receiver.accepted)
    (received,) = receiver.accepted
    assert received.event["type"] == "job.done"
    assert received.event["data"]["images"] == 3


def test_cost_of_texts_is_bounded_and_charged(output_repository, tmp_path):
    env = {"GANYMEDE_JOBS": str(tmp_path / "jobs"), "GANYMEDE_MAX_JOB_PIXELS": "10000"}
    with serving(output_repository, env=env) as server, server.client() as client:
        size = client.get(f"/v1/models/{TEXT_MODEL}").json()["text"]["size"]
        # Two characters of the prefix, and nine after it.
        most = 10_000 // (size * 11)
        refused = client.post("/v1/jobs", json={**TEXTS, "count": most + 1})
        assert refused.status_code == 422
        assert f"expected at most {most} texts" in refused.json()["detail"]
        assert wait_for_job(client, start_job(client, **TEXTS, count=most))["state"] == "done"


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize(
    "body",
    [
        {"model": CAPTIONED, "prompts": PROMPTS, "count": 3000, "shard_size": 50},
        {**TEXTS, "count": 3000, "shard_size": 50},
    ],
    ids=["prompts", "texts"],
)
def test_resumes_after_restart(output_repository, tmp_path, command, body, signal_number):
    env = {"GANYMEDE_JOBS": str(tmp_path / "jobs"), "GANYMEDE_CACHE": str(tmp_path / "cache")}
    with serving(output_repository, env=env) as server, server.client() as client:
        url = start_job(client, **body)
        wait_for_images(client, url, 100)
        if signal_number is signal.SIGKILL:
            assert client.get(url).json()["state"] == "running"
            worker_of(server).kill()
            time.sleep(0.5)
            wait_until_ready(server)
            job = wait_for_job(client, url)
            files = download_files(client, job)
        else:
            server.process.send_signal(signal_number)
            server.process.wait(30)
    if signal_number is signal.SIGTERM:
        with serving(output_repository, env=env) as server, server.client() as client:
            wait_until(lambda: client.get(url).status_code != 503)
            assert client.get(url).json()["images"] < 3000
            job = wait_for_job(client, url)
            files = download_files(client, job)
    assert (job["state"], job["images"]) == ("done", 3000)
    assert without_summary(files) == command(**body)
