"""Events of jobs over HTTP, against the real service."""

import contextlib
import signal

import httpx
import pytest

from ganymede_client import Client
from service.api_keys import add_key
from tests.support.events import read_events
from tests.support.servers import (
    client_of_each_worker,
    serving,
    wait_until,
    wait_until_ready,
    workers_of,
)

ENDLESS = {"model": "painted-classes", "count": 1_000_000, "shard_size": 50}


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    return file, {name: add_key(file, name) for name in ("a", "b")}


@pytest.fixture(scope="module")
def server(drawn_repository, tmp_path_factory, keys):
    """A service that permits four streams, and one for each key."""
    env = {
        "GANYMEDE_JOBS": str(tmp_path_factory.mktemp("jobs")),
        "GANYMEDE_KEYS": str(keys[0]),
        "GANYMEDE_MAX_EVENT_STREAMS": "4",
        "GANYMEDE_OPEN_PATHS": "/metrics",
    }
    with serving(drawn_repository, env=env) as server:
        yield server


@pytest.fixture
def clients(server, keys):
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(server.client(headers={"x-api-key": key}))
            for name, key in keys[1].items()
        }


def start(client, **body):
    response = client.post("/v1/jobs", json={"model": "painted-classes", "count": 5} | body)
    assert response.status_code == 202, response.text
    return response.headers["location"]


def open_streams(server):
    text = httpx.get(f"{server.url}/metrics").text
    (line,) = [each for each in text.splitlines() if each.startswith("ganymede_event_streams ")]
    return float(line.split()[1])


def test_events_tell_the_states_and_the_progress_of_a_job(clients):
    url = start(clients["a"], count=300, shard_size=100)
    with clients["a"].stream("GET", f"{url}/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        first, *events = read_events(response)
    assert first == {"retry": "2000"}
    assert {event["event"] for event in events[:-1]} <= {"state", "progress"}
    assert events[0]["event"] in ("state", "end")
    assert len({event["id"] for event in events}) == len(events)
    images = [event["data"]["images"] for event in events]
    assert images == sorted(images)
    end = events[-1]
    assert end["event"] == "end"
    job = clients["a"].get(url).json()
    assert end["data"] == {name: value for name, value in job.items() if name != "files"}
    assert (job["state"], job["images"]) == ("done", 300)
    # A client that knows the end is told not to connect again; another one gets it.
    known = clients["a"].get(f"{url}/events", headers={"last-event-id": end["id"]})
    assert (known.status_code, known.content) == (204, b"")
    for header in ({}, {"last-event-id": "unknown"}):
        with clients["a"].stream("GET", f"{url}/events", headers=header) as response:
            assert [event.get("event") for event in read_events(response)] == [None, "end"]


def test_known_event_is_not_repeated(clients):
    url = start(clients["a"], count=1_000_000, shard_size=100_000)
    headers = {}
    with clients["a"].stream("GET", f"{url}/events") as response:
        for event in read_events(response):
            if event.get("data", {}).get("state") == "running":
                headers["last-event-id"] = event["id"]
                break
    with clients["a"].stream("GET", f"{url}/events", headers=headers) as response:
        events = read_events(response)
        assert next(events) == {"retry": "2000"}
        assert clients["b"].delete(url).status_code == 404
        with httpx.Client(base_url=clients["a"].base_url, headers=clients["a"].headers) as other:
            assert other.delete(url).json()["state"] == "cancelled"
        ended = next(events)
    assert (ended["event"], ended["data"]["state"]) == ("end", "cancelled")


def test_deleted_job_ends_the_stream(server, clients, keys):
    endless = start(clients["a"], **ENDLESS)
    url = start(clients["a"])
    with server.client(headers={"x-api-key": keys[1]["a"]}) as other:
        with clients["a"].stream("GET", f"{url}/events") as response:
            events = read_events(response)
            assert next(events) == {"retry": "2000"}
            assert next(events)["data"]["state"] == "queued"
            # Cancelled and deleted, before the table is read again or after it.
            other.delete(url)
            other.delete(url)
            kinds = [event["event"] for event in events]
        assert kinds in (["deleted"], ["end"])
        assert other.get(f"{url}/events").status_code == 404
        other.delete(endless)


def test_keys_follow_only_their_own_jobs(server, clients):
    url = start(clients["a"])
    assert clients["b"].get(f"{url}/events").status_code == 404
    assert clients["b"].get("/v1/jobs/unknown/events").status_code == 404
    assert httpx.get(f"{server.url}{url}/events").status_code == 401
    head = clients["a"].head(f"{url}/events")
    assert head.status_code in (200, 204)


def test_open_streams_are_limited_and_freed_when_clients_disconnect(server, clients, keys):
    url = start(clients["a"], **ENDLESS)
    wait_until(lambda: open_streams(server) == 0)
    with (
        server.client(headers={"x-api-key": keys[1]["a"]}) as first,
        first.stream("GET", f"{url}/events") as response,
    ):
        # Kept, because the response is closed with it.
        events = read_events(response)
        assert next(events) == {"retry": "2000"}
        refused = clients["a"].get(f"{url}/events")
        assert refused.status_code == 429
        assert refused.json()["type"].endswith(":too-many-streams")
        assert "1 event streams of this key" in refused.json()["detail"]
        assert "retry-after" in refused.headers
        assert open_streams(server) == 1
    wait_until(lambda: open_streams(server) == 0)
    with clients["a"].stream("GET", f"{url}/events") as response:
        assert response.status_code == 200
    clients["a"].delete(url)


@pytest.mark.slow
def test_streams_end_when_the_service_stops_and_continue_after_it(drawn_repository, tmp_path):
    env = {"GANYMEDE_JOBS": str(tmp_path / "jobs")}
    with serving(drawn_repository, env=env) as server, server.client() as client:
        url = start(client, **ENDLESS)
        with client.stream("GET", f"{url}/events") as response:
            events = read_events(response)
            while not (known := next(events)).get("data", {}).get("images"):
                pass
            server.process.send_signal(signal.SIGTERM)
            *_, last = events
        assert last["event"] == "reconnect"
        assert last["data"]["reason"] == "the service is stopping"
        assert "id" not in last
        # Not delayed by the open stream until the drain time is over.
        assert server.process.wait(15) == 0
    with serving(drawn_repository, env=env) as server, server.client() as client:
        headers = {"last-event-id": known["id"]}
        with client.stream("GET", f"{url}/events", headers=headers) as response:
            assert response.status_code == 200
            for event in read_events(response):
                if event.get("data", {}).get("images", 0) > known["data"]["images"]:
                    break
        client.delete(url)


@pytest.mark.slow
def test_any_process_follows_a_job_and_the_client_survives_the_death_of_one(
    drawn_repository, tmp_path
):
    env = {"GANYMEDE_JOBS": str(tmp_path / "jobs")}
    with serving(drawn_repository, "--processes", "2", env=env) as server:
        with client_of_each_worker(server) as clients:
            url = start(clients[0], count=300, shard_size=50)
            for client in clients:
                with client.stream("GET", f"{url}/events") as response:
                    *_, end = read_events(response)
                assert (end["event"], end["data"]["images"]) == ("end", 300)
        with Client(server.url) as client:
            job = client.submit_job("painted-classes", count=1_000_000, shard_size=50)
            seen = []
            for event in client.job_events(job):
                seen.append(event)
                if event.job.images and len(seen) < 4:
                    # One of the two serves this stream.
                    for worker in workers_of(server):
                        worker.kill()
                    wait_until_ready(server)
                elif len(seen) >= 6 and event.job.images > seen[3].job.images:
                    client.cancel_job(job)
    assert seen[-1].kind == "end"
    assert seen[-1].job.state == "cancelled"
