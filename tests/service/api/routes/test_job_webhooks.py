"""Webhooks of jobs over HTTP, against the real service and a real receiver."""

import os
import signal
import subprocess

import pytest

from tests.support.servers import ganymede, serving, wait_until
from tests.support.webhooks import new_secret, webhook_receiver


@pytest.fixture
def secrets(tmp_path):
    path = tmp_path / "secrets"
    path.write_text(new_secret())
    return path


@pytest.fixture
def receiver(secrets):
    with webhook_receiver(secrets.read_text()) as receiver:
        yield receiver


def start(client, url, **body):
    body = {"model": "painted-classes", "count": 3, "webhook": {"url": url}} | body
    response = client.post("/v1/jobs", json=body)
    assert response.status_code == 202, response.text
    return response.headers["location"]


def environment(tmp_path, secrets, *hosts):
    return {
        "GANYMEDE_JOBS": str(tmp_path / "jobs"),
        "GANYMEDE_WEBHOOK_HOSTS": ",".join(hosts),
        "GANYMEDE_WEBHOOK_SECRETS": str(secrets),
    }


def test_receiver_is_notified_and_the_job_tells_it(drawn_repository, tmp_path, secrets, receiver):
    env = environment(tmp_path, secrets, "hooks.example.com", receiver.url)
    with serving(drawn_repository, env=env) as server, server.client() as client:
        refused = client.post(
            "/v1/jobs",
            json={"model": "painted", "count": 1, "webhook": {"url": "http://169.254.169.254/"}},
        )
        assert refused.status_code == 403
        assert refused.json()["type"].endswith(":webhook-not-permitted")
        refused = client.post(
            "/v1/jobs", json={"model": "painted", "count": 1, "webhook": {"url": "hooks"}}
        )
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["field"] == "webhook.url"
        url = start(client, f"{receiver.url}?token=1")
        wait_until(lambda: client.get(url).json()["webhook"]["state"] == "delivered")
        webhook = client.get(url).json()["webhook"]
        assert webhook["url"] == f"{receiver.url}?token=1"
        assert (webhook["attempts"], "error" in webhook) == (1, False)
        (listed,) = client.get("/v1/jobs").json()["data"]
        assert listed["webhook"] == webhook
        metrics = client.get("/metrics").text
        assert 'ganymede_webhooks_total{outcome="delivered"} 1.0' in metrics
        assert "token=1" not in server.logged()
    (received,) = receiver.received
    assert received.id == webhook["id"]
    assert received.event["type"] == "job.done"
    assert received.event["data"]["images"] == 3


def test_webhooks_are_refused_unless_hosts_are_permitted(drawn_server):
    with drawn_server.client() as client:
        body = {"model": "painted", "count": 1, "webhook": {"url": "https://hooks.example.com/"}}
        refused = client.post("/v1/jobs", json=body)
    assert refused.status_code == 403
    assert "webhook_hosts" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--webhook-hosts", "hooks.example.com"], "requires --webhook-secrets"),
        (["--webhook-hosts", "a", "--webhook-secrets", "missing"], "cannot be read"),
        (["--webhook-hosts", "ftp://a"], "ftp://a"),
    ],
)
def test_serve_refuses_webhooks_that_cannot_be_signed(drawn_repository, tmp_path, flags, reason):
    command = ganymede("serve", "--models", drawn_repository, *flags)
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode != 0
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_webhook_is_delivered_once_over_kill_and_restart(
    drawn_repository, tmp_path, secrets, receiver
):
    """All processes are killed after the job has ended, while the receiver has not responded."""
    env = environment(tmp_path, secrets, receiver.url)
    receiver.script = [None]
    with serving(drawn_repository, "--processes", "2", env=env) as server:
        with server.client() as client:
            url = start(client, receiver.url)
            wait_until(lambda: len(receiver.received) == 1)
            assert client.get(url).json()["state"] == "done"
            assert client.get(url).json()["webhook"]["state"] == "pending"
        os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait(30)
    with (
        serving(drawn_repository, "--processes", "2", env=env) as server,
        server.client() as client,
    ):
        wait_until(lambda: client.get(url).json().get("webhook", {}).get("delivered"))
        webhook = client.get(url).json()["webhook"]
    with serving(drawn_repository, env=env) as server, server.client() as client:
        # A delivered one is not sent again: the next one is.
        following = start(client, receiver.url)
        wait_until(lambda: client.get(following).json()["webhook"]["state"] == "delivered")
    assert (webhook["state"], webhook["attempts"]) == ("delivered", 2)
    ids = [each.id for each in receiver.received]
    assert ids == [webhook["id"], webhook["id"], f"msg_{following.rpartition('/')[2]}"]
    assert receiver.unverified == []
