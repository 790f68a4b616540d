import concurrent.futures
import json
import shutil
import socket
import time

import psutil
import pytest

from service.runtime.models.manifest import MANIFEST_FILE
from service.runtime.scheduling.engine import Engine, EngineState
from tests.conftest import TINY
from tests.support.failing_models import write_failing
from tests.support.servers import serving


@pytest.fixture
def served(models):
    with serving(models) as server, server.client() as client:
        yield models, server, client


def add_version(models, name, version, source="gan-mnist"):
    """Write the folder beside its place and rename it there, as an export does."""
    part = models / name / ".writing"
    shutil.copytree(models / source / "1", part)
    manifest = json.loads((part / MANIFEST_FILE).read_text())
    manifest |= {"name": name, "version": version}
    (part / MANIFEST_FILE).write_text(json.dumps(manifest))
    return part.rename(models / name / version)


def reload(client):
    answer = client.post("/v1/admin/reload")
    assert answer.status_code == 200, answer.text
    return {what: [m["id"] for m in models] for what, models in answer.json().items() if models}


def picture(client, model, seed=1):
    return client.post("/v1/generate", json={"model": model, "seed": seed, "format": "npy"})


def test_a_reload_serves_what_is_new_and_lets_go_of_what_is_gone(served):
    models, _, client = served
    everything = [f"{name}@1" for name in sorted(TINY)]
    assert reload(client) == {"kept": everything}
    add_version(models, "gan-mnist", "2", source="dcgan-fashion")
    assert reload(client) == {"loaded": ["gan-mnist@2"], "kept": everything}
    newest = picture(client, "gan-mnist")
    assert newest.headers["x-ganymede-model"] == "gan-mnist@2"
    assert newest.content == picture(client, "dcgan-fashion").content
    assert picture(client, "gan-mnist@1").content != newest.content
    shutil.rmtree(models / "gan-mnist" / "2")
    assert reload(client) == {"kept": everything, "removed": ["gan-mnist@2"]}
    assert picture(client, "gan-mnist").headers["x-ganymede-model"] == "gan-mnist@1"
    assert picture(client, "gan-mnist@2").status_code == 404


def test_a_folder_that_fails_leaves_the_old_one_serving_and_says_why(served):
    models, server, client = served
    before = picture(client, "gan-mnist")
    graph = models / "gan-mnist" / "1" / "generator.onnx"
    graph.write_bytes(graph.read_bytes()[:-10])
    failed = client.post("/v1/admin/reload").json()["failed"]
    assert [model["id"] for model in failed] == ["gan-mnist@1"]
    assert "sha256" in failed[0]["reason"]
    assert picture(client, "gan-mnist").content == before.content
    card = client.get("/v1/models/gan-mnist").json()
    assert card["state"] == "ready"
    assert "serves what was here before" in card["reason"]
    assert client.get("/readyz").status_code == 200
    assert "Traceback" not in server.logged()


def test_a_models_folder_that_is_gone_takes_no_model_with_it(served):
    models, _, client = served
    models.rename(models.with_name("elsewhere"))
    answer = client.post("/v1/admin/reload")
    assert answer.status_code == 503
    assert answer.json()["type"] == "urn:ganymede:problem:repository-unreadable"
    assert picture(client, "gan-mnist").status_code == 200


def test_a_service_without_a_model_becomes_ready_with_the_first(tmp_path):
    models = tmp_path / "models"
    models.mkdir()
    with serving(models, until="live") as server, server.client() as client:
        deadline = time.monotonic() + 30
        while "is empty" not in client.get("/readyz").text:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        write_failing(models / "new" / "1")
        assert reload(client) == {"loaded": ["new@1"]}
        assert client.get("/readyz").status_code == 200
        assert picture(client, "new").status_code == 200


def test_requests_under_way_end_on_the_version_that_they_started_on(tmp_path):
    folder = write_failing(tmp_path / "models" / "m" / "1", slow_turns=200_000)
    with serving(tmp_path / "models") as server, server.client() as client:
        body = {"model": "m", "seed": 1, "class": "slow", "format": "npy"}
        before = client.post("/v1/generate", json=body)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            under_way = pool.submit(client.post, "/v1/generate", json=body)
            while "ganymede_queue_pixels 0.0" in client.get("/metrics").text:
                assert not under_way.done()
            shutil.rmtree(folder)
            write_failing(folder, seed=1, slow_turns=10)
            assert reload(client) == {"loaded": ["m@1"]}
            assert (
                client.get("/v1/models/m").json()["digest"] != before.headers["x-ganymede-digest"]
            )
            answer = under_way.result()
        assert answer.status_code == 200
        assert answer.content == before.content
        assert answer.headers["x-ganymede-digest"] == before.headers["x-ganymede-digest"]
        assert client.post("/v1/generate", json=body).content != before.content


def test_while_versions_come_and_go_every_answer_is_that_of_one_version(served):
    models, server, client = served
    old = picture(client, "gan-mnist").content
    new = picture(client, "dcgan-fashion").content
    stop = False

    def ask():
        answers = []
        with server.client() as own:
            while not stop:
                answers.append(picture(own, "gan-mnist"))
        return answers

    with concurrent.futures.ThreadPoolExecutor() as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        for _ in range(4):
            add_version(models, "gan-mnist", "2", source="dcgan-fashion")
            reload(client)
            shutil.rmtree(models / "gan-mnist" / "2")
            reload(client)
        stop = True
        answers = [answer for each in asking for answer in each.result()]
    assert {answer.status_code for answer in answers} == {200}
    by_version = {"gan-mnist@1": old, "gan-mnist@2": new}
    for answer in answers:
        assert answer.content == by_version[answer.headers["x-ganymede-model"]]


def test_a_watched_folder_needs_no_reload(models):
    with serving(models, env={"GANYMEDE_WATCH_S": "0.2"}) as server, server.client() as client:
        add_version(models, "gan-mnist", "2")
        deadline = time.monotonic() + 30
        while picture(client, "gan-mnist").headers["x-ganymede-model"] != "gan-mnist@2":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        shutil.rmtree(models / "gan-mnist" / "2")
        while picture(client, "gan-mnist").headers["x-ganymede-model"] != "gan-mnist@1":
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_the_flag_watches_too(models):
    with serving(models, "--watch") as server, server.client() as client:
        add_version(models, "gan-mnist", "2")
        deadline = time.monotonic() + 60
        while picture(client, "gan-mnist").headers["x-ganymede-model"] != "gan-mnist@2":
            assert time.monotonic() < deadline
            time.sleep(0.2)


def own_address() -> str | None:
    """An address of this machine that is not the loopback's."""
    for addresses in psutil.net_if_addrs().values():
        for each in addresses:
            if each.family == socket.AF_INET and not each.address.startswith("127."):
                return each.address
    return None


@pytest.mark.parametrize(
    "headers",
    [
        {"x-forwarded-for": "203.0.113.7"},
        {"x-forwarded-for": "127.0.0.1"},
        {"forwarded": "for=127.0.0.1"},
        {"origin": "http://example.com"},
    ],
)
def test_who_comes_by_a_proxy_or_from_a_page_is_refused(server, headers):
    with server.client() as client:
        answer = client.post("/v1/admin/reload", headers=headers)
        assert answer.status_code == 403
        assert answer.json()["type"] == "urn:ganymede:problem:admin-needed"


@pytest.mark.skipif(own_address() is None, reason="this machine has no other address")
def test_who_is_not_on_the_loopback_is_refused(models):
    import httpx

    with serving(models, "--host", "0.0.0.0", "--insecure") as server:
        port = server.url.rpartition(":")[2]
        other = f"http://{own_address()}:{port}"
        assert httpx.post(f"{other}/v1/admin/reload").status_code == 403
        assert httpx.post(f"{server.url}/v1/admin/reload").status_code == 200


def resident_mib() -> float:
    return psutil.Process().memory_info().rss / 2**20


def test_the_memory_of_unloaded_models_is_given_back(slow_repository, tmp_path):
    models = shutil.copytree(slow_repository, tmp_path / "models")
    engine = Engine(models, provider="cpu", queue_pixels=10**8)
    engine.start()
    graph_mib = (models / "dcgan-fashion" / "1" / "generator.onnx").stat().st_size / 2**20
    assert graph_mib > 10

    def come_and_go():
        add_version(models, "dcgan-fashion", "2", source="dcgan-fashion")
        engine.reload()
        model = engine.catalog.get("dcgan-fashion@2")
        job = engine.submit(model, model.feeds(range(16)))
        job.future.result(60)
        engine.abandon(job)
        shutil.rmtree(models / "dcgan-fashion" / "2")
        engine.reload()

    for _ in range(3):
        come_and_go()
    before = resident_mib()
    for _ in range(10):
        come_and_go()
    # One model that stayed behind each time would be ten.
    assert resident_mib() - before < 3 * graph_mib
    assert engine.drain(10)
    assert engine.state is EngineState.STOPPED


def test_the_session_of_an_unloaded_model_dies(models):
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
        time.sleep(0.01)  # The worker lets go of the batch a moment after the job's end.
    assert session() is None
    assert engine.drain(10)
