"""Metrics of the real service, as a scrape returns them."""

import re
import threading
import time
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.api.app import create_app
from service.runtime.scheduling.engine import Engine
from service.settings import Settings
from tests.support.drawn_models import write_failing, write_nan
from tests.support.servers import serving

ROOT = Path(__file__).parents[3]
RESERVED = {"le", "quantile"}


def scrape(client) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Return the samples by name and labels."""
    samples: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            samples.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return samples


def value(client, name: str, **labels: str) -> float:
    return scrape(client).get(name, {}).get(tuple(sorted(labels.items())), 0.0)


def eventually(condition, seconds: float = 30.0) -> None:
    """Wait for a condition that holds shortly after the response or the next output sample."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def server(drawn_repository):
    with serving(drawn_repository) as server:
        yield server


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


def documented() -> dict[str, set[str]]:
    """Return the labels of each metric in the table of the documentation."""
    rows = re.findall(
        r"^\| `(ganymede_\w+)` \| \w+ \|([^|]*)\|",
        (ROOT / "docs" / "operations.md").read_text(),
        re.MULTILINE,
    )
    return {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}


def test_documentation_lists_all_metrics_and_labels(client):
    for seed in range(3):
        body = {"model": "painted", "seed": seed}
        assert client.post("/v1/generate", json=body).is_success
        time.sleep(0.3)
    mix = {"model": "painted", "rows": [1], "columns": [2]}
    assert client.post("/v1/mix-styles", json=mix).is_success
    eventually(lambda: value(client, "ganymede_output_diversity", model="painted") > 0)
    exported: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        if family.name.startswith("ganymede"):
            name = family.name + ("_total" if family.type == "counter" else "")
            exported[name] = {label for s in family.samples for label in s.labels} - RESERVED
    assert exported == documented()


def test_exports_process_metrics(client):
    samples = scrape(client)
    for name in (
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_cpu_seconds_total",
        "process_start_time_seconds",
    ):
        assert samples[name][()] > 0


def test_job_of_several_batches_counts_one_wait_and_one_encoding(client):
    before = scrape(client)
    assert client.post("/v1/generate", json={"model": "cut", "n": 20}).is_success
    label = (("model", "cut"),)

    def increase(name: str) -> float:
        return scrape(client)[name][label] - before.get(name, {}).get(label, 0.0)

    eventually(lambda: increase("ganymede_encode_seconds_count") == 1)
    assert increase("ganymede_queue_seconds_count") == 1
    assert increase("ganymede_batch_rows_sum") == 20
    assert increase("ganymede_batch_rows_count") > 1
    assert increase("ganymede_inference_seconds_count") == increase("ganymede_batch_rows_count")


def test_exports_state_provider_and_digest_of_models(client):
    samples = scrape(client)
    states = {
        dict(labels)["state"]: value
        for labels, value in samples["ganymede_model_state"].items()
        if dict(labels)["model"] == "cut"
    }
    assert states["ready"] == 1
    assert sum(states.values()) == 1
    (info,) = [
        dict(labels) for labels in samples["ganymede_model_info"] if dict(labels)["model"] == "cut"
    ]
    card = client.get("/v1/models/cut").json()
    assert (info["version"], info["provider"], info["digest"]) == (
        card["version"],
        card["provider"],
        card["digest"],
    )
    assert samples["ganymede_state"][(("state", "ready"),)] == 1
    assert sum(samples["ganymede_state"].values()) == 1
    assert samples["ganymede_queue_bound_pixels"][()] == 2**28
    assert samples["ganymede_processes"][(("state", "alive"),)] == 1
    assert samples["ganymede_processes"][(("state", "ready"),)] == 1


def test_exports_failed_model(tmp_path):
    write_failing(tmp_path / "good" / "1")
    (tmp_path / "bad" / "1").mkdir(parents=True)
    (tmp_path / "bad" / "1" / "model.json").write_text("{}")
    with serving(tmp_path) as server, server.client() as client:
        states = scrape(client)["ganymede_model_state"]
        assert states[(("model", "bad"), ("state", "failed"), ("version", "1"))] == 1
        assert states[(("model", "good"), ("state", "ready"), ("version", "1"))] == 1
        before = value(client, "ganymede_rejections_total", reason="model-failed")
        assert client.post("/v1/generate", json={"model": "bad"}).status_code == 503
        after = value(client, "ganymede_rejections_total", reason="model-failed")
        assert after == before + 1


def test_client_input_is_never_a_label(client):
    client.get("/client-input")
    client.post("/v1/generate", json={"model": "client-input"})
    client.get("/v1/models/client-input/images/1.png")
    client.get("/", headers={"x-request-id": "client-input"})
    assert "client-input" not in client.get("/metrics").text


def test_conditional_request_counts_as_hit_or_miss(client):
    path = "/v1/models/painted/images/1.png"
    etag = client.get(path).headers["etag"]

    def counts() -> tuple[float, float]:
        return (
            value(client, "ganymede_cache_hits_total", cache="client"),
            value(client, "ganymede_cache_misses_total", cache="client"),
        )

    hits, misses = counts()
    assert client.get(path, headers={"if-none-match": etag}).status_code == 304
    assert counts() == (hits + 1, misses)
    assert client.get(path, headers={"if-none-match": '"other"'}).status_code == 200
    assert counts() == (hits + 1, misses + 1)


@pytest.mark.slow
def test_counts_rejections_by_reason(drawn_repository):
    pixels = 24 * 24
    environment = {"GANYMEDE_QUEUE_PIXELS": str(8 * pixels)}
    with serving(drawn_repository, env=environment) as server, server.client() as client:

        def rejected(reason: str) -> float:
            return value(client, "ganymede_rejections_total", reason=reason)

        assert client.post("/v1/generate", json={"model": "cut", "n": 9}).status_code == 422
        assert rejected("too-large") == 1
        assert client.post("/v1/generate", json={"model": "cut", "n": 0}).status_code == 422
        assert rejected("too-large") == 1

        full = threading.Event()

        def ask() -> None:
            with server.client() as other:
                deadline = time.monotonic() + 60
                while not full.is_set() and time.monotonic() < deadline:
                    if other.post("/v1/generate", json={"model": "cut", "n": 8}).status_code == 429:
                        full.set()

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert full.is_set()
        assert rejected("queue-full") >= 1
    with (
        serving(drawn_repository, env={"GANYMEDE_DEADLINE_S": "0.0000001"}) as server,
        server.client() as client,
    ):
        assert client.post("/v1/generate", json={"model": "cut", "n": 64}).status_code == 504
        assert value(client, "ganymede_rejections_total", reason="deadline") == 1


@pytest.mark.anyio
async def test_counts_rejection_during_shutdown(drawn_repository):
    engine = Engine(drawn_repository, provider="cpu", queue_pixels=2**20)
    engine.start()
    app = create_app(engine, Settings(models=drawn_repository))
    assert engine.drain(30)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        text = (await client.get("/metrics")).text
        before = float(re.search(r'rejections_total\{reason="draining"\} (\S+)', text).group(1))
        assert 'ganymede_state{state="stopped"} 1.0' in text
        response = await client.post("/v1/generate", json={"model": "cut"})
        assert response.status_code == 503
        text = (await client.get("/metrics")).text
        after = float(re.search(r'rejections_total\{reason="draining"\} (\S+)', text).group(1))
        assert after == before + 1


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.mark.slow
def test_detects_nan_in_styles_and_images(tmp_path):
    write_nan(tmp_path / "spoiled" / "1")
    with serving(tmp_path) as server, server.client() as client:

        def sampled(name: str) -> float:
            return value(client, name, model="spoiled")

        # The graph gives finite values for seed 0, and NaN for seed 2.
        for _ in range(4):
            assert client.post("/v1/generate", json={"model": "spoiled", "seed": 0}).is_success
            time.sleep(0.3)
        assert sampled("ganymede_sampled_rows_total") >= 1
        assert (
            sampled("ganymede_flat_pictures_total") == sampled("ganymede_nonfinite_rows_total") == 0
        )

        def ask() -> bool:
            client.post("/v1/generate", json={"model": "spoiled", "seed": 2})
            mix = {"model": "spoiled", "rows": [2], "columns": [2]}
            client.post("/v1/mix-styles", json=mix)
            return (
                sampled("ganymede_flat_pictures_total") > 0
                and sampled("ganymede_nonfinite_rows_total") > 0
            )

        eventually(ask)
        saturated = sampled("ganymede_saturated_values_total")
        assert 0 < saturated <= sampled("ganymede_sampled_values_total")


@pytest.mark.slow
def test_diversity_falls_when_all_images_are_equal(drawn_repository):
    with serving(drawn_repository) as server, server.client() as client:

        def diversity() -> float:
            return value(client, "ganymede_output_diversity", model="cut")

        seeds = iter(range(10_000))

        def ask(truncation: float) -> None:
            # Truncation 0 gives the same image for all seeds of a class, like a collapsed model.
            body = {"model": "cut", "seed": next(seeds), "class": "dog", "truncation": truncation}
            assert client.post("/v1/generate", json=body).is_success

        def varied() -> bool:
            ask(1.0)
            return diversity() > 0

        eventually(varied)
        healthy = diversity()

        def collapsed() -> bool:
            ask(0.0)
            return diversity() < healthy / 2

        eventually(collapsed, seconds=60)
