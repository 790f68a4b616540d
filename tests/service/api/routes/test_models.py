import shutil

import pytest

from tests.support.servers import serving


def model_card(server, name):
    with server.client() as client:
        return client.get(f"/v1/models/{name}").json()


@pytest.mark.slow
def test_shows_execution_plan_and_its_source(drawn_repository, tmp_path):
    cache = tmp_path / "cache"
    environment = {"GANYMEDE_PLAN": "measure", "GANYMEDE_CACHE": str(cache)}
    with serving(drawn_repository, env=environment) as server:
        measured = model_card(server, "painted")["plan"]
    assert measured["source"] == "measured"
    assert (cache / "plans.json").is_file()
    with serving(drawn_repository, env=environment) as server:
        cached = model_card(server, "painted")["plan"]
    assert cached == measured | {"source": "cached"}
    options = {
        "GANYMEDE_CONCURRENT_BATCHES": "3",
        "GANYMEDE_THREADS": "2",
        "GANYMEDE_MAX_ROWS": "5",
    }
    with serving(drawn_repository, env=environment | options) as server:
        plan = model_card(server, "painted")["plan"]
    assert plan == {"workers": 3, "threads": 2, "max_rows": 5, "source": "set"}


def test_shows_result_of_golden_images(server):
    assert model_card(server, "gan-mnist")["golden"] == "exact"


def test_preview_is_the_file_in_the_model_folder(server, repository):
    with server.client() as client:
        response = client.get("/v1/models/gan-mnist/preview.webp")
        pinned = client.get("/v1/models/gan-mnist@1/preview.webp")
        again = client.get(
            "/v1/models/gan-mnist/preview.webp", headers={"if-none-match": response.headers["etag"]}
        )
    assert response.headers["content-type"] == "image/webp"
    assert (
        response.content
        == pinned.content
        == (repository / "gan-mnist" / "1" / "preview.webp").read_bytes()
    )
    assert (again.status_code, again.content) == (304, b"")


def test_missing_preview_is_a_problem(drawn_server):
    with drawn_server.client() as client:
        response = client.get("/v1/models/painted/preview.webp")
        unknown = client.get("/v1/models/nothing/preview.webp")
    assert response.status_code == 404
    assert response.json()["type"] == "urn:ganymede:problem:file-not-found"
    assert unknown.json()["type"] == "urn:ganymede:problem:model-not-found"


def test_card_omits_golden_without_golden_images(drawn_server):
    assert "golden" not in model_card(drawn_server, "cut")


def test_models_beyond_memory_budget_are_loaded_on_request(drawn_repository, tmp_path):
    models = shutil.copytree(drawn_repository, tmp_path / "models")
    with serving(models, "--memory-budget", "1") as server, server.client() as client:

        def loaded():
            cards = client.get("/v1/models").json()["data"]
            assert {card["state"] for card in cards} == {"ready"}
            return [card["name"] for card in cards if card["loaded"]]

        def generate(name):
            return client.post("/v1/generate", json={"model": name, "seed": 1, "format": "png"})

        assert loaded() == []
        assert generate("painted").status_code == 200
        assert loaded() == ["painted"]
        assert generate("cut").status_code == 200
        assert loaded() == ["cut"]
        assert model_card(server, "painted")["memory_bytes"] > 0
        for graph in (models / "painted" / "1").glob("*.onnx"):
            graph.write_bytes(b"corrupt")
        response = generate("painted")
        assert (response.status_code, response.json()["type"].rpartition(":")[2]) == (
            503,
            "model-failed",
        )
        assert model_card(server, "painted")["state"] == "failed"
        assert generate("cut").status_code == 200
