import shutil

from tests.support.servers import serving


def card_of(server, name):
    with server.client() as client:
        return client.get(f"/v1/models/{name}").json()


def test_the_plan_and_where_it_comes_from_are_shown(drawn_repository, tmp_path):
    cache = tmp_path / "cache"
    environment = {"GANYMEDE_PLAN": "measure", "GANYMEDE_CACHE": str(cache)}
    with serving(drawn_repository, env=environment) as server:
        measured = card_of(server, "painted")["plan"]
    assert measured["source"] == "measured"
    assert (cache / "plans.json").is_file()
    with serving(drawn_repository, env=environment) as server:
        cached = card_of(server, "painted")["plan"]
    assert cached == measured | {"source": "cached"}
    given = {"GANYMEDE_WORKERS": "3", "GANYMEDE_THREADS": "2", "GANYMEDE_MAX_ROWS": "5"}
    with serving(drawn_repository, env=environment | given) as server:
        plan = card_of(server, "painted")["plan"]
    assert plan == {"workers": 3, "threads": 2, "max_rows": 5, "source": "set"}


def test_how_the_golden_images_came_out_is_shown(server):
    assert card_of(server, "gan-mnist")["golden"] == "exact"


def test_a_model_without_golden_images_says_nothing_of_them(drawn_server):
    assert "golden" not in card_of(drawn_server, "cut")


def test_models_beyond_the_budget_of_memory_are_loaded_when_they_are_asked_for(
    drawn_repository, tmp_path
):
    models = shutil.copytree(drawn_repository, tmp_path / "models")
    with serving(models, "--memory-budget", "1") as server, server.client() as client:

        def loaded():
            cards = client.get("/v1/models").json()["data"]
            assert {card["state"] for card in cards} == {"ready"}
            return [card["name"] for card in cards if card["loaded"]]

        def ask(name):
            return client.post("/v1/generate", json={"model": name, "seed": 1, "format": "png"})

        assert loaded() == []
        assert ask("painted").status_code == 200
        assert loaded() == ["painted"]
        assert ask("cut").status_code == 200
        assert loaded() == ["cut"]
        assert card_of(server, "painted")["memory_bytes"] > 0
        for graph in (models / "painted" / "1").glob("*.onnx"):
            graph.write_bytes(b"spoiled")
        answer = ask("painted")
        assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (
            503,
            "model-failed",
        )
        assert card_of(server, "painted")["state"] == "failed"
        assert ask("cut").status_code == 200
