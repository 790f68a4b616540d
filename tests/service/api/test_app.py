import json
import signal
import threading
import time

import httpx
import pytest

from service.runtime.onnx.sessions import cuda_unavailable_reason
from tests.support.servers import serving
from tests.support.tiny_recipes import TINY


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


def test_the_models_are_listed_as_openai_lists_them_with_our_fields_beside(client):
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    assert [card["id"] for card in listed["data"]] == sorted(TINY)
    for card in listed["data"]:
        assert card["object"] == "model"
        assert card["owned_by"]
        assert card["created"] > 0
        assert card["state"] == "ready"
        assert card["provider"] in ("cpu", "cuda")
        assert card["image"] == {"height": 28, "width": 28, "channels": 1}
        assert card["plan"]["workers"] >= 1


def test_a_model_shows_its_manifest(client):
    model = client.get("/v1/models/gan-mnist").json()
    assert model["manifest"]["provenance"]["recipe"] == "gan-mnist"
    assert model["manifest"]["graphs"]["generator"]["sha256"]
    assert client.get("/v1/models/gan-mnist@1").json()["version"] == "1"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nope", 404),
        ("GET", "/v1/models/nope", 404),
        ("GET", "/v1/generate", 405),
        ("DELETE", "/v1/models", 405),
        ("GET", "/static_content/x", 404),
        ("GET", "/docs.json", 404),
        ("GET", "/%00", 404),
    ],
)
def test_an_unknown_route_is_a_problem_of_ours(client, method, path, status):
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    if status == 405:
        assert answer.headers["allow"]


def test_probes_and_documentation_answer(client):
    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").status_code == 200
    assert "swagger" in client.get("/docs").text
    assert client.get("/").headers["location"] == "/docs"


def test_metrics_are_labelled_by_route_template_and_by_no_client(client):
    client.post("/v1/generate", json={"model": "gan-mnist", "seed": 1})
    client.get("/v1/models/gan-mnist/images/12345.png")
    client.get("/made-up-by-a-client")
    client.request("MADEUP", "/made-up-by-a-client")
    text = client.get("/metrics").text
    assert 'ganymede_requests_total{method="POST",route="/v1/generate",status="200"}' in text
    assert 'route="/v1/models/{name}/images/{seed}.{extension}"' in text
    assert 'ganymede_batch_rows_count{model="gan-mnist"}' in text
    assert "12345" not in text
    assert "made-up" not in text
    assert "MADEUP" not in text
    assert 'method="any",route="unmatched",status="404"' in text
    assert 'route=""' not in text
    assert "process_open_fds" in text


def test_a_second_server_on_the_machine_leaves_the_first_ones_metrics_alone(server, models):
    with server.client() as client, serving(models) as other, other.client() as other_client:
        client.post("/v1/generate", json={"model": "gan-mnist", "seed": 1})
        ran = 'ganymede_inference_seconds_count{model="gan-mnist"}'
        assert ran in client.get("/metrics").text
        assert ran not in other_client.get("/metrics").text


def test_corrupt_models_are_reported_and_the_others_served(models):
    graph = models / "gan-mnist" / "1" / "generator.onnx"
    graph.write_bytes(graph.read_bytes()[:1000])
    broken = models / "broken" / "1"
    broken.mkdir(parents=True)
    (broken / "model.json").write_text('{"name": "broken"}')
    with serving(models) as server, server.client() as client:
        cards = {card["name"]: card for card in client.get("/v1/models").json()["data"]}
        assert cards["dcgan-fashion"]["state"] == "ready"
        assert cards["gan-mnist"]["state"] == cards["broken"]["state"] == "failed"
        assert "sha256" in cards["gan-mnist"]["reason"]
        assert "not a manifest" in cards["broken"]["reason"]
        assert "gan-mnist@1 failed: generator.onnx has sha256" in server.logged()
        assert "Traceback" not in server.logged()
        body = {"model": "gan-mnist", "seed": 1}
        answer = client.post("/v1/generate", json=body)
        assert answer.status_code == 503
        assert answer.json()["type"] == "urn:ganymede:problem:model-failed"
        assert client.post("/v1/generate", json=body | {"model": "dcgan-fashion"}).is_success


@pytest.mark.skipif(cuda_unavailable_reason() is None, reason="this machine has CUDA")
def test_cuda_that_was_asked_for_and_is_not_there_fails_readiness_with_the_reason(models):
    with serving(models, "--provider", "cuda", until="live") as server, server.client() as client:
        deadline = time.monotonic() + 20
        while "is unavailable" not in client.get("/readyz").text:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        answers = [
            client.get("/readyz"),
            client.get("/v1/models"),
            client.post("/v1/generate", json={"model": "gan-mnist"}),
        ]
        for answer in answers:
            assert answer.status_code == 503
            assert answer.headers["content-type"] == "application/problem+json"
            assert int(answer.headers["retry-after"]) >= 1
            assert "NVIDIA" in answer.json()["detail"] or "CUDA" in answer.json()["detail"]
        assert client.get("/livez").status_code == 200


def test_beyond_the_queue_a_request_gets_429_and_the_time_to_come_again(slow_repository):
    environment = {"GANYMEDE_QUEUE_PIXELS": str(256 * 28 * 28)}
    with serving(slow_repository, env=environment) as server:
        answers: list[httpx.Response] = []

        def ask() -> None:
            with server.client() as client:
                body = {"model": "dcgan-fashion", "n": 256, "seed": 0, "format": "npy"}
                answers.append(client.post("/v1/generate", json=body))

        threads = [threading.Thread(target=ask) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        by_status = {
            status: [a for a in answers if a.status_code == status] for status in (200, 429)
        }
        assert len(by_status[200]) + len(by_status[429]) == 16
        assert by_status[200]
        assert by_status[429]
        assert len({answer.content for answer in by_status[200]}) == 1
        for refused in by_status[429]:
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.json()["type"] == "urn:ganymede:problem:queue-full"


def test_past_its_deadline_a_request_gets_504(slow_repository):
    with (
        serving(slow_repository, env={"GANYMEDE_DEADLINE_S": "0.05"}) as server,
        server.client() as client,
    ):
        answer = client.post("/v1/generate", json={"model": "dcgan-fashion", "n": 256})
        assert answer.status_code == 504
        assert answer.json()["type"] == "urn:ganymede:problem:deadline-exceeded"
        # What had not begun is not done: the queue is empty long before 256 pictures could be.
        asked = time.monotonic()
        while "ganymede_queue_pixels 0.0" not in client.get("/metrics").text:
            assert time.monotonic() - asked < 10


def test_sigterm_lets_accepted_requests_end(slow_repository):
    with serving(slow_repository) as server, server.client() as client:
        accepted: list[httpx.Response] = []

        def ask() -> None:
            body = {"model": "dcgan-fashion", "n": 256, "seed": 0, "format": "zip"}
            accepted.append(client.post("/v1/generate", json=body))

        thread = threading.Thread(target=ask)
        thread.start()
        while "ganymede_queue_pixels 0.0" in httpx.get(server.url + "/metrics").text:
            if accepted:
                break
        server.process.send_signal(signal.SIGTERM)
        thread.join()
        assert [answer.status_code for answer in accepted] == [200]
        assert server.process.wait(30) == 0


def test_the_log_holds_no_stack_trace_after_all_of_this(server):
    assert "Traceback" not in server.logged()


def test_the_schema_is_valid_json_that_describes_every_route(client):
    document = json.loads(client.get("/openapi.json").text)
    assert {"/v1/generate", "/v1/mix-styles", "/v1/models", "/v1/models/{name}", "/metrics"} <= set(
        document["paths"]
    )
