from tests.servers import serving


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
