import concurrent.futures
import json
import shutil
import time

import psutil
import pytest

from service.runtime.models.manifest import MANIFEST_FILE
from service.runtime.scheduling.engine import Engine, EngineState
from tests.support.failing_models import write_failing
from tests.support.servers import external_address, serving
from tests.support.tiny_recipes import TINY


@pytest.fixture
def served(models):
    with serving(models, "--insecure-admin") as server, server.client() as client:
        yield models, server, client


def add_version(models, name, version, source="gan-mnist"):
    """Add a version atomically, by renaming a folder, as an export does."""
    temporary = models / name / ".writing"
    shutil.copytree(models / source / "1", temporary)
    manifest = json.loads((temporary / MANIFEST_FILE).read_text())
    manifest |= {"name": name, "version": version}
    (temporary / MANIFEST_FILE).write_text(json.dumps(manifest))
    return temporary.rename(models / name / version)


def reload(client):
    response = client.post("/v1/admin/reload")
    assert response.status_code == 200, response.text
    return {
        outcome: [m["id"] for m in models] for outcome, models in response.json().items() if models
    }


def generate(client, model, seed=1):
    return client.post("/v1/generate", json={"model": model, "seed": seed, "format": "npy"})


def test_reload_adds_and_removes_versions(served):
    models, _, client = served
    everything = [f"{name}@1" for name in sorted(TINY)]
    assert reload(client) == {"kept": everything}
    add_version(models, "gan-mnist", "2", source="dcgan-fashion")
    assert reload(client) == {"loaded": ["gan-mnist@2"], "kept": everything}
    newest = generate(client, "gan-mnist")
    assert newest.headers["x-ganymede-model"] == "gan-mnist@2"
    assert newest.content == generate(client, "dcgan-fashion").content
    assert generate(client, "gan-mnist@1").content != newest.content
    shutil.rmtree(models / "gan-mnist" / "2")
    assert reload(client) == {"kept": everything, "removed": ["gan-mnist@2"]}
    assert generate(client, "gan-mnist").headers["x-ganymede-model"] == "gan-mnist@1"
    assert generate(client, "gan-mnist@2").status_code == 404


def test_failed_reload_keeps_the_previous_model(served):
    models, server, client = served
    before = generate(client, "gan-mnist")
    graph = models / "gan-mnist" / "1" / "generator.onnx"
    graph.write_bytes(graph.read_bytes()[:-10])
    failed = client.post("/v1/admin/reload").json()["failed"]
    assert [model["id"] for model in failed] == ["gan-mnist@1"]
    assert "sha256" in failed[0]["reason"]
    assert generate(client, "gan-mnist").content == before.content
    card = client.get("/v1/models/gan-mnist").json()
    assert card["state"] == "ready"
    assert "still serves the previous version" in card["reason"]
    assert client.get("/readyz").status_code == 200
    assert "Traceback" not in server.logged()


def test_missing_models_folder_keeps_all_models(served):
    models, _, client = served
    models.rename(models.with_name("elsewhere"))
    response = client.post("/v1/admin/reload")
    assert response.status_code == 503
    assert response.json()["type"] == "urn:ganymede:problem:repository-unreadable"
    assert generate(client, "gan-mnist").status_code == 200


@pytest.mark.slow
def test_service_becomes_ready_with_its_first_model(tmp_path):
    models = tmp_path / "models"
    models.mkdir()
    with serving(models, "--insecure-admin", until="live") as server, server.client() as client:
        deadline = time.monotonic() + 30
        while "is empty" not in client.get("/readyz").text:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        write_failing(models / "new" / "1")
        assert reload(client) == {"loaded": ["new@1"]}
        assert client.get("/readyz").status_code == 200
        assert generate(client, "new").status_code == 200


@pytest.mark.slow
def test_running_requests_finish_on_their_version(tmp_path):
    folder = write_failing(tmp_path / "models" / "m" / "1", slow_iterations=200_000)
    with serving(tmp_path / "models", "--insecure-admin") as server, server.client() as client:
        body = {"model": "m", "seed": 1, "class": "slow", "format": "npy"}
        before = client.post("/v1/generate", json=body)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            running = pool.submit(client.post, "/v1/generate", json=body)
            while "ganymede_queue_pixels 0.0" in client.get("/metrics").text:
                assert not running.done()
            shutil.rmtree(folder)
            write_failing(folder, seed=1, slow_iterations=10)
            assert reload(client) == {"loaded": ["m@1"]}
            assert (
                client.get("/v1/models/m").json()["digest"] != before.headers["x-ganymede-digest"]
            )
            response = running.result()
        assert response.status_code == 200
        assert response.content == before.content
        assert response.headers["x-ganymede-digest"] == before.headers["x-ganymede-digest"]
        assert client.post("/v1/generate", json=body).content != before.content


def test_each_response_comes_from_one_version_during_reloads(served):
    models, server, client = served
    old = generate(client, "gan-mnist").content
    new = generate(client, "dcgan-fashion").content
    stop = False

    def request_until_stopped():
        responses = []
        with server.client() as client:
            while not stop:
                responses.append(generate(client, "gan-mnist"))
        return responses

    with concurrent.futures.ThreadPoolExecutor() as pool:
        futures = [pool.submit(request_until_stopped) for _ in range(3)]
        for _ in range(4):
            add_version(models, "gan-mnist", "2", source="dcgan-fashion")
            reload(client)
            shutil.rmtree(models / "gan-mnist" / "2")
            reload(client)
        stop = True
        responses = [response for each in futures for response in each.result()]
    assert {response.status_code for response in responses} == {200}
    by_version = {"gan-mnist@1": old, "gan-mnist@2": new}
    for response in responses:
        assert response.content == by_version[response.headers["x-ganymede-model"]]


@pytest.mark.slow
def test_watches_models_folder(models):
    with serving(models, env={"GANYMEDE_WATCH_S": "0.2"}) as server, server.client() as client:
        add_version(models, "gan-mnist", "2")
        deadline = time.monotonic() + 30
        while generate(client, "gan-mnist").headers["x-ganymede-model"] != "gan-mnist@2":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        shutil.rmtree(models / "gan-mnist" / "2")
        while generate(client, "gan-mnist").headers["x-ganymede-model"] != "gan-mnist@1":
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.slow
def test_watch_flag_loads_new_versions(models):
    with serving(models, "--watch") as server, server.client() as client:
        add_version(models, "gan-mnist", "2")
        deadline = time.monotonic() + 60
        while generate(client, "gan-mnist").headers["x-ganymede-model"] != "gan-mnist@2":
            assert time.monotonic() < deadline
            time.sleep(0.2)


@pytest.mark.parametrize(
    "headers",
    [
        {"x-forwarded-for": "203.0.113.7"},
        {"x-forwarded-for": "127.0.0.1"},
        {"forwarded": "for=127.0.0.1"},
        {"origin": "http://example.com"},
    ],
)
def test_rejects_requests_from_proxies_and_web_pages(server, headers):
    with server.client() as client:
        response = client.post("/v1/admin/reload", headers=headers)
        assert response.status_code == 403
        assert response.json()["type"] == "urn:ganymede:problem:admin-needed"


@pytest.mark.skipif(external_address() is None, reason="this machine has only loopback addresses")
def test_rejects_requests_from_other_addresses(models):
    import httpx

    flags = ["--host", "0.0.0.0", "--insecure", "--insecure-admin"]
    with serving(models, *flags) as server:
        port = server.url.rpartition(":")[2]
        other = f"http://{external_address()}:{port}"
        assert httpx.post(f"{other}/v1/admin/reload").status_code == 403
        assert httpx.post(f"{server.url}/v1/admin/reload").status_code == 200


def resident_mib() -> float:
    return psutil.Process().memory_info().rss / 2**20


@pytest.mark.slow
def test_unloaded_models_release_memory(slow_repository, tmp_path):
    models = shutil.copytree(slow_repository, tmp_path / "models")
    engine = Engine(models, provider="cpu", queue_pixels=10**8)
    engine.start()
    graph_mib = (models / "dcgan-fashion" / "1" / "generator.onnx").stat().st_size / 2**20
    assert graph_mib > 10

    def load_and_unload():
        add_version(models, "dcgan-fashion", "2", source="dcgan-fashion")
        engine.reload()
        model = engine.catalog.get("dcgan-fashion@2")
        job = engine.submit(model, model.feeds(range(16)))
        job.future.result(60)
        engine.abandon(job)
        shutil.rmtree(models / "dcgan-fashion" / "2")
        engine.reload()

    for _ in range(3):
        load_and_unload()
    before = resident_mib()
    for _ in range(10):
        load_and_unload()
    # A leak of one model per iteration would be ten graphs.
    assert resident_mib() - before < 3 * graph_mib
    assert engine.drain(10)
    assert engine.state is EngineState.STOPPED


def test_unloaded_session_is_deleted(models):
    import weakref

    engine = Engine(models, provider="cpu", queue_pixels=10**6)
    engine.start()
    session = weakref.ref(engine.catalog.get("gan-mnist").sessions["generator"])
    model = engine.catalog.get("gan-mnist")
    job = engine.submit(model, model.feeds([1]))
    job.future.result(10)
    engine.abandon(job)
    del model, job
    shutil.rmtree(models / "gan-mnist")
    engine.reload()
    deadline = time.monotonic() + 10
    while session() is not None and time.monotonic() < deadline:
        time.sleep(0.01)  # The worker releases the batch shortly after the job ends.
    assert session() is None
    assert engine.drain(10)
