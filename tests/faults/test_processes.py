"""Processes that die and files that are corrupted under load."""

import concurrent.futures
import json
import signal
import time

import httpx
import numpy as np
import pytest

from service.runtime.models.manifest import MANIFEST_FILE
from tests.support.crowd import ClassRequest, pixels_of, send_concurrently
from tests.support.failing_models import write_failing
from tests.support.servers import serving, wait_until_ready, worker_of

pytestmark = pytest.mark.slow


def fine_requests(count: int, first: int = 0) -> list[ClassRequest]:
    """Requests for images of the class `fine`, with different seeds."""
    return [ClassRequest(first + 10 * i, ["fine"] * (1 + i % 4)) for i in range(count)]


def test_killed_worker_loses_only_its_own_requests(failing_server, expected, rounds):
    for turn in range(min(rounds, 4)):
        requests = fine_requests(400, first=10_000 * turn)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            load = pool.submit(send_concurrently, failing_server, requests)
            time.sleep(0.3)
            worker_of(failing_server).send_signal(signal.SIGKILL)
            outcomes = load.result()
        for request, outcome in zip(requests, outcomes, strict=True):
            if isinstance(outcome, httpx.Response) and outcome.status_code == 200:
                assert np.array_equal(pixels_of(outcome), expected(request))
            elif isinstance(outcome, httpx.Response):
                assert outcome.status_code == 503  # The new worker is still loading its models.
                assert "retry-after" in outcome.headers
        wait_until_ready(failing_server)
        assert {
            response.status_code
            for response in send_concurrently(failing_server, fine_requests(20))
        } == {200}


def truncate_graph(folder):
    graph = folder / "generator.onnx"
    graph.write_bytes(graph.read_bytes()[:-100])


def truncate_manifest(folder):
    text = (folder / MANIFEST_FILE).read_text()
    (folder / MANIFEST_FILE).write_text(text[: len(text) // 2])


def change_digest(folder):
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    manifest["graphs"]["generator"]["sha256"] = "0" * 64
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))


def remove_graph(folder):
    (folder / "generator.onnx").unlink()


def test_reload_of_corrupt_model_keeps_serving_it(failing_models, failing_server, expected, rounds):
    folder = failing_models / "m" / "1"
    original = {path: path.read_bytes() for path in folder.iterdir()}
    for _ in range(rounds):
        for corrupt in (truncate_graph, truncate_manifest, change_digest, remove_graph):
            corrupt(folder)
            requests = fine_requests(60)
            with concurrent.futures.ThreadPoolExecutor() as pool, failing_server.client() as client:
                load = pool.submit(send_concurrently, failing_server, requests)
                changes = client.post("/v1/admin/reload").json()
                responses = load.result()
            assert [model["id"] for model in changes["failed"]] == ["m@1"]
            for request, response in zip(requests, responses, strict=True):
                assert response.status_code == 200
                assert np.array_equal(pixels_of(response), expected(request))
            for path, content in original.items():
                path.write_bytes(content)
            with failing_server.client() as client:
                assert client.post("/v1/admin/reload").json()["failed"] == []
    assert "Traceback" not in failing_server.logged()


def test_stop_under_load_completes_accepted_requests(tmp_path, expected, rounds):
    # About half a second per request, so that the server is busy when it is stopped.
    write_failing(tmp_path / "models" / "m" / "1", slow_iterations=1_200_000)
    for turn in range(min(rounds, 4)):
        with serving(tmp_path / "models") as server, server.client() as client:
            # Slow requests must be completed, and failing ones must not delay the stop.
            kinds = [["fine"] * 4, ["slow"], ["fine", "raises"], ["hungry"] * 4]
            requests = [ClassRequest(1000 * turn + 10 * i, kinds[i % 4]) for i in range(16)]
            with concurrent.futures.ThreadPoolExecutor() as pool:
                load = pool.submit(send_concurrently, server, requests, len(requests))
                while "ganymede_queue_pixels 0.0" in client.get("/metrics").text:
                    assert not load.done()
                server.process.send_signal(signal.SIGTERM)
                outcomes = load.result()
            assert server.process.wait(40) == 0
            responses = [each for each in outcomes if isinstance(each, httpx.Response)]
            assert len(responses) == len(outcomes), outcomes
            for request, response in zip(requests, responses, strict=True):
                statuses = {500, 503} if "raises" in request.classes else {200, 503}
                assert response.status_code in statuses
                if response.status_code == 200:
                    assert np.array_equal(pixels_of(response), expected(request))
