"""Selection of images by the score of the discriminator, over HTTP."""

import io
import zipfile

import numpy as np
import pytest

from service.api_keys import add_key
from service.runtime.latent.seeds import MAX_SEED
from tests.support.drawn_models import CLASSES, SIZE
from tests.support.responses import assert_problem, npy_pixels
from tests.support.scored_models import CLASS_SCORE, brightness, write_scored_models
from tests.support.servers import serving

PIXELS = SIZE * SIZE


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The real service with scored models, and a key that may generate 10 images per minute."""
    folder = tmp_path_factory.mktemp("scored")
    write_scored_models(folder / "models")
    keys = folder / "keys.json"
    plain, slow = add_key(keys, "plain"), add_key(keys, "slow", pixels_per_minute=10 * PIXELS)
    # The default jobs folder may belong to another server of this test process.
    environment = {"GANYMEDE_JOBS": str(folder / "jobs")}
    with serving(folder / "models", "--keys", str(keys), env=environment) as server:
        yield server, plain, slow


@pytest.fixture
def client(served):
    server, plain, _ = served
    with server.client(headers={"authorization": f"Bearer {plain}"}) as client:
        yield client


def generate(client, route="generate", **body):
    return client.post(f"/v1/{route}", json=body)


def problem_of(response, status: int = 422) -> dict:
    assert_problem(response, status)
    return response.json()


def listed(response, name) -> list[str]:
    assert response.status_code == 200, response.text
    return response.headers[f"x-ganymede-{name}"].split(",")


def seeds_of(response) -> list[int]:
    return [int(seed) for seed in listed(response, "seed")]


def candidates_of(client, model, seeds, **body) -> np.ndarray:
    response = generate(client, model=model, seeds=list(seeds), format="npy", **body)
    return npy_pixels(response)


def test_keeps_the_best_share_of_consecutive_seeds(client):
    response = generate(client, model="painted", n=5, seed=30, rank=0.25, format="npy")
    candidates = candidates_of(client, "painted", range(30, 50))
    scores = brightness(candidates)
    best = np.sort(np.argsort(-scores)[:5])
    assert seeds_of(response) == [30 + int(number) for number in best]
    assert listed(response, "candidates") == ["30-49"]
    np.testing.assert_array_equal(npy_pixels(response), candidates[best])
    shown = [float(score) for score in listed(response, "score")]
    np.testing.assert_allclose(shown, scores[best], rtol=1e-5)


def test_the_file_of_a_kept_image_is_that_of_its_address(client):
    document = generate(client, model="cut", n=3, seed=4, rank=0.5, format="json").json()
    archive = generate(client, model="cut", n=3, seed=4, rank=0.5, format="zip")
    with zipfile.ZipFile(io.BytesIO(archive.content)) as files:
        packed = [files.read(name) for name in files.namelist()]
    for image, file in zip(document["images"], packed, strict=True):
        query = {"class": image["class"], "truncation": image["truncation"]}
        address = f"/v1/models/cut/images/{image['seed']}.png"
        assert client.get(address, params=query).content == file
        assert isinstance(image["score"], float)


@pytest.mark.parametrize("rank", [0.25, {"share": 0.25, "method": "rejection"}])
@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("generate", {"n": 7}),
        ("generate", {"n": 4, "class": ["dog", "cat", "dog", "night owl"]}),
        ("generate", {"n": 5, "class": {"cat": 1, "dog": 3}}),
        ("sample-classes", {"classes": {"dog": 3, "cat": 1}}),
        ("sample-classes", {"per_class": 2}),
    ],
)
def test_the_classes_are_those_without_a_selection(client, route, body, rank):
    plain = generate(client, route, model="cut", seed=11, format="zip", **body)
    ranked = generate(client, route, model="cut", seed=11, format="zip", rank=rank, **body)
    assert listed(ranked, "class") == listed(plain, "class")
    seeds = seeds_of(ranked)
    assert len(set(seeds)) == len(seeds)
    # Within a class, the seeds ascend.
    for name in set(listed(ranked, "class")):
        of_class = [s for s, c in zip(seeds, listed(ranked, "class"), strict=True) if c == name]
        assert of_class == sorted(of_class)
    again = generate(client, route, model="cut", seed=11, format="zip", rank=rank, **body)
    assert again.content == ranked.content


def test_the_best_of_each_class_are_kept(client):
    response = generate(
        client, "sample-classes", model="painted-classes", classes={"dog": 2, "cat": 1}, seed=0,
        rank=0.2, format="json",
    )  # fmt: skip
    images = response.json()["images"]
    for name, seeds, kept in (("dog", range(10), images[:2]), ("cat", range(10, 15), images[2:])):
        scores = brightness(candidates_of(client, "painted-classes", seeds, **{"class": name}))
        best = sorted(np.argsort(-scores)[: len(kept)])
        assert [image["seed"] for image in kept] == [seeds[number] for number in best]
        offset = CLASS_SCORE * CLASSES.index(name)
        np.testing.assert_allclose(
            [image["score"] - offset for image in kept], scores[best], rtol=1e-3
        )


def test_combines_with_blends_truncation_and_returned_arrays(client):
    body = {"model": "cut", "n": 2, "seed": 3, "blend": {"cat": 1, "dog": 1}, "truncation": 0.5}
    (first, second) = generate(client, **body, rank=0.5, **{"return": ["z"]}, format="json").json()[
        "images"
    ]
    assert 3 <= first["seed"] < second["seed"] <= 6
    assert first["blend"] == {"cat": 0.5, "dog": 0.5}
    assert first["truncation"] == 0.5
    plain = generate(
        client, **{**body, "n": 1, "seed": first["seed"]}, **{"return": ["z"]}, format="json"
    ).json()["images"][0]
    assert {**plain, "score": first["score"]} == first
    limits = generate(client, model="cut", n=2, seed=3, truncation=[0.2, 0.9], rank=0.5)
    assert [each["truncation"] for each in limits.json()["images"]] == [0.2, 0.9]


def test_returns_the_styles_of_the_images_that_are_kept(client):
    body = {"model": "painted", "format": "json", "return": ["w"]}
    (kept,) = generate(client, **body, n=1, seed=8, rank=0.1).json()["images"]
    (plain,) = generate(client, **body, seed=kept["seed"]).json()["images"]
    assert kept["w"] == plain["w"]


def test_a_share_of_one_keeps_the_images_of_the_request(client):
    plain = generate(client, model="painted", n=4, seed=2, format="zip")
    assert generate(client, model="painted", n=4, seed=2, format="zip", rank=1).content == (
        plain.content
    )


def test_random_seeds_leave_room_for_the_candidates(client):
    first, last = listed(generate(client, model="painted", n=2, rank=0.5), "candidates")[0].split(
        "-"
    )
    assert int(last) - int(first) == 3


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({"rank": 0}, "rank", "from 0.001 to 1, got 0"),
        ({"rank": 1.5}, "rank", "from 0.001 to 1, got 1.5"),
        ({"rank": {"share": -1}}, "rank", "from 0.001 to 1"),
        ({"rank": {"share": 0.5, "method": "best"}}, "rank.method", "'rank' or 'rejection'"),
        ({"rank": {"method": "rank"}}, "rank.share", "required"),
        ({"rank": "0.5"}, "rank", "number"),
        ({"rank": 0.5, "n": None, "seeds": [1]}, "seeds", "cannot be combined with rank"),
        ({"rank": 0.5, "n": None, "z": [[0.0] * 16]}, "z", "cannot be combined with rank"),
        ({"rank": 0.5, "n": None, "w": [[0.0] * 10]}, "w", "cannot be combined with rank"),
        ({"rank": 0.5, "n": None, "images": [{"seed": 1}]}, "images", "cannot be combined"),
        ({"rank": 0.5, "transform": {"rotate": 5}}, "transform", "cannot be combined with rank"),
        ({"rank": 0.01}, "rank", "selected from 300 candidates; expected at most 256"),
        ({"rank": 0.5, "seed": MAX_SEED - 4}, "seed", f"would be {MAX_SEED + 1}"),
        ({"rank": 0.5, "model": "unscored"}, "rank", "unscored has no discriminator"),
    ],
)
def test_problems_name_the_field(client, body, field, words):
    request = {"model": "painted", "n": 3} | body
    problem = problem_of(
        generate(client, **{k: v for k, v in request.items() if v is not None}), 422
    )
    assert problem["errors"][0]["field"] == field
    assert words in problem["errors"][0]["message"]


def test_mixing_takes_no_rank(client):
    problem = problem_of(
        generate(client, "mix-styles", model="painted", rows=[1], columns=[2], rank=0.5), 422
    )
    assert problem["errors"][0]["field"] == "rank"


def test_candidates_count_toward_the_rate_limit(served):
    server, _, slow = served
    with server.client(headers={"authorization": f"Bearer {slow}"}) as client:
        problem = problem_of(generate(client, model="painted", n=4, seed=0, rank=0.25), 422)
        assert problem["type"].endswith("larger-than-allowance")
        assert f"{16 * PIXELS:,} pixels" in problem["detail"]
        kept = generate(client, model="painted", n=2, seed=0, rank=0.25)
        assert kept.status_code == 200
        assert int(kept.headers["ratelimit-remaining"]) < 3 * PIXELS


def test_a_missed_deadline_is_reported(client):
    response = client.post(
        "/v1/generate",
        json={"model": "painted", "n": 100, "rank": 0.5},
        headers={"x-deadline-ms": "1"},
    )
    assert_problem(response, 504)


def test_models_list_their_discriminators(client):
    models = {model["id"]: model for model in client.get("/v1/models").json()["data"]}
    assert "discriminator" not in models["unscored"]
    assert models["painted"]["discriminator"]["calibration"]["scale"] == 0.5
    manifest = client.get("/v1/models/painted").json()["manifest"]
    assert manifest["discriminator"] == models["painted"]["discriminator"]


def test_jobs_select_images_and_count_candidates(client):
    job = client.post(
        "/v1/jobs",
        json={"model": "cut", "count": 6, "rank": {"share": 0.5, "method": "rejection"}},
    )
    assert job.status_code == 202, job.text
    problem = problem_of(
        client.post("/v1/jobs", json={"model": "cut", "count": 10_000, "rank": 0.001}), 422
    )
    assert problem["errors"][0]["field"] == "rank"
    assert_problem(
        client.post(
            "/v1/jobs", json={"model": "painted", "count": 2, "mix": "coarse", "rank": 0.5}
        ),
        422,
    )
