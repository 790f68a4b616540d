import json
import signal
import threading
import time

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.runtime.onnx.sessions import cuda_unavailable_reason
from tests.support.marks import skip_without_cuda
from tests.support.servers import serving
from tests.support.tiny_recipes import TINY


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


def test_lists_models_in_openai_shape(client):
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


def test_model_shows_manifest(client):
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
def test_unknown_route_is_a_problem_document(client, method, path, status):
    response = client.request(method, path)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    if status == 405:
        assert response.headers["allow"]


def test_serves_probes_and_api_documentation(client):
    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").status_code == 200
    assert "swagger" in client.get("/docs").text
    assert "Ganymede" in client.get("/").text


def test_metrics_labels_are_not_chosen_by_clients(client):
    client.post("/v1/generate", json={"model": "gan-mnist", "seed": 1})
    client.get("/v1/models/gan-mnist/images/12345.png")
    client.get("/made-up-by-a-client")
    client.request("MADEUP", "/made-up-by-a-client")
    text = client.get("/metrics").text
    assert 'ganymede_requests_total{method="POST",route="/v1/generate",status="200"}' in text
    assert 'route="/v1/models/{name}/images/{seed}.{extension}"' in text
    assert 'ganymede_batch_rows_count{model="gan-mnist"}' in text
    # Labels only: a measured value can contain the digits of the seed.
    labels = {
        label
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        for label in sample.labels.values()
    }
    assert not [
        label for label in labels for given in ("12345", "made-up", "MADEUP") if given in label
    ]
    assert 'method="any",route="unmatched",status="404"' in text
    assert 'route=""' not in text
    assert "process_open_fds" in text


def test_second_server_does_not_clear_metrics_of_the_first(server, models):
    with server.client() as client, serving(models) as other, other.client() as other_client:
        client.post("/v1/generate", json={"model": "gan-mnist", "seed": 1})
        ran = 'ganymede_inference_seconds_count{model="gan-mnist"}'
        assert ran in client.get("/metrics").text
        assert ran not in other_client.get("/metrics").text


def test_reports_corrupt_models_and_serves_the_others(models):
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
        assert "not a valid manifest" in cards["broken"]["reason"]
        assert "gan-mnist@1 failed: generator.onnx has sha256" in server.logged()
        assert "Traceback" not in server.logged()
        body = {"model": "gan-mnist", "seed": 1}
        response = client.post("/v1/generate", json=body)
        assert response.status_code == 503
        assert response.json()["type"] == "urn:ganymede:problem:model-failed"
        assert client.post("/v1/generate", json=body | {"model": "dcgan-fashion"}).is_success


@pytest.mark.cuda
@skip_without_cuda
def test_cuda_serves_the_same_bytes_again(models):
    flags = ("--provider", "cuda", "--max-rows", "8")
    with serving(models, *flags) as server, server.client() as client:
        for card in client.get("/v1/models").json()["data"]:
            assert card["provider"] == "cuda"
        body = {"model": "dcgan-fashion", "seed": 5, "format": "npy"}
        first, again = (client.post("/v1/generate", json=body).content for _ in range(2))
        assert first == again


@pytest.mark.skipif(cuda_unavailable_reason() is None, reason="this machine has CUDA")
def test_unavailable_cuda_fails_readiness_with_reason(models):
    with serving(models, "--provider", "cuda", until="live") as server, server.client() as client:
        deadline = time.monotonic() + 20
        while "is unavailable" not in client.get("/readyz").text:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        responses = [
            client.get("/readyz"),
            client.get("/v1/models"),
            client.post("/v1/generate", json={"model": "gan-mnist"}),
        ]
        for response in responses:
            assert response.status_code == 503
            assert response.headers["content-type"] == "application/problem+json"
            assert int(response.headers["retry-after"]) >= 1
            assert "NVIDIA" in response.json()["detail"] or "CUDA" in response.json()["detail"]
        assert client.get("/livez").status_code == 200


def test_full_queue_gets_429_with_retry_after(slow_repository):
    environment = {"GANYMEDE_QUEUE_PIXELS": str(256 * 28 * 28)}
    with serving(slow_repository, env=environment) as server:
        responses: list[httpx.Response] = []

        def send_request() -> None:
            with server.client() as client:
                body = {"model": "dcgan-fashion", "n": 256, "seed": 0, "format": "npy"}
                responses.append(client.post("/v1/generate", json=body))

        threads = [threading.Thread(target=send_request) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        by_status = {
            status: [a for a in responses if a.status_code == status] for status in (200, 429)
        }
        assert len(by_status[200]) + len(by_status[429]) == 16
        assert by_status[200]
        assert by_status[429]
        assert len({response.content for response in by_status[200]}) == 1
        for refused in by_status[429]:
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.json()["type"] == "urn:ganymede:problem:queue-full"


def test_missed_deadline_gets_504(slow_repository):
    with (
        serving(slow_repository, env={"GANYMEDE_DEADLINE_S": "0.05"}) as server,
        server.client() as client,
    ):
        response = client.post("/v1/generate", json={"model": "dcgan-fashion", "n": 256})
        assert response.status_code == 504
        assert response.json()["type"] == "urn:ganymede:problem:deadline-exceeded"
        # Runs that had not started are cancelled, so the queue becomes empty.
        started = time.monotonic()
        while "ganymede_queue_pixels 0.0" not in client.get("/metrics").text:
            assert time.monotonic() - started < 10


@pytest.mark.slow
def test_sigterm_completes_accepted_requests(slow_repository):
    with serving(slow_repository) as server, server.client() as client:
        accepted: list[httpx.Response] = []

        def send_request() -> None:
            body = {"model": "dcgan-fashion", "n": 256, "seed": 0, "format": "zip"}
            accepted.append(client.post("/v1/generate", json=body))

        thread = threading.Thread(target=send_request)
        thread.start()
        while "ganymede_queue_pixels 0.0" in httpx.get(server.url + "/metrics").text:
            if accepted:
                break
        server.process.send_signal(signal.SIGTERM)
        thread.join()
        assert [response.status_code for response in accepted] == [200]
        assert server.process.wait(30) == 0


def test_log_has_no_stack_trace(server):
    assert "Traceback" not in server.logged()


def test_openapi_document_describes_routes(client):
    document = json.loads(client.get("/openapi.json").text)
    assert {"/v1/generate", "/v1/mix-styles", "/v1/models", "/v1/models/{name}", "/metrics"} <= set(
        document["paths"]
    )


def references(value):
    """Yield the references in a JSON document."""
    match value:
        case dict():
            if isinstance(reference := value.get("$ref"), str):
                yield reference
            for member in value.values():
                yield from references(member)
        case list():
            for item in value:
                yield from references(item)


def test_openapi_document_has_no_dangling_reference(client):
    document = client.get("/openapi.json").json()
    found = set(references(document))
    assert len(found) > 20
    for reference in found:
        assert reference.startswith("#/components/schemas/"), reference
        assert reference.rpartition("/")[2] in document["components"]["schemas"], reference
