"""Truncation over HTTP, against the real service."""

import base64
import io
import json
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.service.api.routes.test_generate import assert_problem, decode

MODELS = ["cut", "painted-classes"]


@pytest.fixture
def client(drawn_server):
    with drawn_server.client() as client:
        yield client


@pytest.fixture(scope="module")
def load(drawn_repository):
    return lambda name: Model(drawn_repository / name / "1", Provider.CPU, ExecutionPlan(1, 1, 64))


def post(client, route="generate", model="cut", **body):
    return client.post(f"/v1/{route}", json={"model": model} | body)


def pixels(answer) -> np.ndarray:
    return np.load(io.BytesIO(answer.content))


@pytest.mark.parametrize("name", MODELS)
def test_truncation_is_one_number_or_one_a_picture(client, load, name):
    model, seeds = load(name), [3, 4, 5]
    for wish, each in ((0.25, [0.25] * 3), (1, [1.0] * 3), ([0, 0.5, 1.5], [0.0, 0.5, 1.5])):
        answer = post(client, model=name, seeds=seeds, truncation=wish, format="npy")
        np.testing.assert_array_equal(pixels(answer), model.generate(seeds, None, each))
    answer = post(client, model=name, seeds=seeds, format="npy")
    np.testing.assert_array_equal(pixels(answer), model.generate(seeds, None, [0.7] * 3))


@given(truncation=st.floats(0, 1.5), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_any_number_in_the_range_comes_back_as_it_was_sent(drawn_server, truncation, seed):
    with drawn_server.client() as client:
        answer = post(client, seed=seed, truncation=truncation)
    assert answer.json()["images"][0]["truncation"] == truncation
    assert float(answer.headers["x-ganymede-truncation"]) == truncation


def test_a_picture_says_its_truncation_wherever_it_goes(client):
    answer = post(client, seeds=[1, 2], truncation=[0.5, 1])
    assert [image["truncation"] for image in answer.json()["images"]] == [0.5, 1.0]
    assert answer.headers["x-ganymede-truncation"] == "0.5,1.0"
    file = base64.b64decode(answer.json()["images"][0]["data"])
    made = json.loads(Image.open(io.BytesIO(file)).text["ganymede"])
    assert (made["seed"], made["class"], made["truncation"]) == (1, "dog", 0.5)
    # The default is said too: a later version of the model may have another.
    assert post(client, seed=1).json()["images"][0]["truncation"] == 0.7


def test_a_model_that_does_not_truncate_says_nothing_of_it(client):
    answer = post(client, model="painted", seed=1)
    assert "truncation" not in answer.json()["images"][0]
    assert "x-ganymede-truncation" not in answer.headers


def test_sample_classes_takes_one_truncation_for_all(client, load):
    body = {"classes": {"dog": 2, "night owl": 1}, "seed": 5, "truncation": 0.4}
    answer = post(client, "sample-classes", format="npy", **body)
    expected = load("cut").generate([5, 6, 7], [1, 1, 2], [0.4] * 3)
    np.testing.assert_array_equal(pixels(answer), expected)
    archive = zipfile.ZipFile(
        io.BytesIO(post(client, "sample-classes", format="zip", **body).content)
    )
    assert archive.namelist() == ["dog/0-seed-5.png", "dog/1-seed-6.png", "night-owl/2-seed-7.png"]


def test_the_address_of_a_picture_takes_a_truncation(client, load):
    path = "/v1/models/cut/images/7.png"
    half, same, whole = (
        client.get(path, params={"truncation": wish}) for wish in ("0.5", "0.50", "1")
    )
    np.testing.assert_array_equal(decode(half.content), load("cut").generate([7], None, [0.5])[0])
    assert half.content == same.content
    assert half.headers["etag"] == same.headers["etag"] != whole.headers["etag"]
    assert half.headers["x-ganymede-truncation"] == "0.5"
    default, said = client.get(path), client.get(path, params={"truncation": 0.7})
    assert default.headers["etag"] == said.headers["etag"]
    again = client.get(
        path, params={"truncation": 0.5}, headers={"if-none-match": half.headers["etag"]}
    )
    assert again.status_code == 304


def test_a_model_states_its_range(client):
    cards = {card["name"]: card for card in client.get("/v1/models").json()["data"]}
    assert cards["cut"]["truncation"] == {"default": 0.7, "minimum": 0.0, "maximum": 1.5}
    assert "truncation" not in cards["painted"]


def test_out_of_range_the_problem_names_the_field_and_the_range(client):
    for answer in (
        post(client, truncation=1.6),
        post(client, truncation=-0.1),
        post(client, truncation=10**30),
        post(client, n=2, truncation=[0.5, 2]),
        post(client, "sample-classes", per_class=1, truncation=2),
        client.get("/v1/models/cut/images/7.png?truncation=2"),
    ):
        assert_problem(answer, 422, "truncation")
        assert "0 to 1.5" in answer.json()["detail"]


def test_a_model_that_does_not_truncate_is_named(client):
    for answer in (
        post(client, model="painted", truncation=0.5),
        client.get("/v1/models/painted/images/7.png?truncation=0.5"),
    ):
        assert_problem(answer, 422, "truncation")
        assert "painted does not support truncation" in answer.json()["detail"]


@pytest.mark.parametrize(
    "truncation",
    [
        *("NaN", "Infinity", "-Infinity", "1e999", "true", '"0.5"', "{}", "1" * 400),
        *("[]", "[0.5, 0.5]", "[true]", "[NaN]"),
    ],
)
@pytest.mark.parametrize("route", ["generate", "sample-classes"])
def test_what_is_no_number_is_refused(client, route, truncation):
    fields = '"per_class": 1' if route == "sample-classes" else '"n": 1'
    answer = client.post(
        f"/v1/{route}",
        content=f'{{"model": "cut", {fields}, "truncation": {truncation}}}',
        headers={"content-type": "application/json"},
    )
    assert_problem(answer, 422)
    assert any(error["field"].startswith("truncation") for error in answer.json()["errors"])


@pytest.mark.parametrize("truncation", ["nan", "inf", "-inf", "1e999", "true", "", "0,5"])
def test_an_address_with_what_is_no_number_is_refused(client, truncation):
    answer = client.get("/v1/models/cut/images/7.png", params={"truncation": truncation})
    assert_problem(answer, 422)


def test_the_log_holds_no_stack_trace_after_all_of_this(drawn_server):
    assert "Traceback" not in drawn_server.logged()
