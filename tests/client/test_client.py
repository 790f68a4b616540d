"""The client's connections and the routes for operators."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from ganymede_client import Client, Readiness
from ganymede_client.wire.calls import Request
from tests.support.servers import serving


def test_clients_share_connections_and_close_only_their_own(service):
    with httpx.Client() as http:
        with Client(service.url, http=http) as client:
            client.with_options(timeout=5).models()
        assert not http.is_closed
    with Client(service.url) as client:
        with client.with_options(deadline=10) as other:
            other.models()
        assert client.models()


def test_threads_share_a_client(client):
    with ThreadPoolExecutor(8) as pool:
        several = list(
            pool.map(lambda seed: client.generate("gan-mnist", seed=seed, n=5), range(0, 200, 5))
        )
    seeds = [seed for images in several for seed in images.seeds]
    assert seeds == list(range(200))


def test_operators_see_models_metrics_and_reloads(client):
    models = {model.id: model for model in client.models()}
    assert models["esrgan-flowers"].task == "upscale"
    assert models["dcgan-fashion"].is_ready
    assert models["dcgan-fashion"].image == {"height": 28, "width": 28, "channels": 1}
    model = client.model("stylegan2-flowers@1")
    assert model.manifest["name"] == "stylegan2-flowers"
    assert model.versions[0]["version"] == "1"
    assert client.preview("gan-mnist").format == "WEBP"
    reloaded = client.reload()
    assert {each.id for each in reloaded.kept} >= {"dcgan-fashion@1"}
    assert reloaded.failed == reloaded.loaded == []
    assert 'ganymede_state{state="ready"} 1.0' in client.metrics()
    assert client.readiness() == Readiness(True)


@pytest.mark.slow
def test_service_without_models_says_why_it_is_not_ready(tmp_path):
    (tmp_path / "models").mkdir()
    with (
        serving(tmp_path / "models", until="live") as server,
        Client(server.url, retry_for=0) as client,
    ):
        readiness = client.readiness()
        assert not readiness
        assert "models" in readiness.reason
        assert "{" not in readiness.reason
        assert client.inference_ready() is False


def test_priority_is_a_header_of_every_request(service):
    with Client(service.url, priority="low") as client:
        assert client.generate("gan-mnist", seed=1)
        urgent = client.with_options(priority="high")
        assert urgent.with_options(timeout=5).generate("gan-mnist", seed=1)
        request = Request("GET", "/v1/models")
        for each, priority in [(client, "low"), (urgent, "high")]:
            assert each._connection.arguments(request)["headers"]["X-Priority"] == priority
    with pytest.raises(ValueError, match="priority: expected one of high, normal, low"):
        Client(priority="urgent")
