"""OpenAI's unmodified SDK against the real service."""

import base64
import hashlib
import io
import json
import threading
import time

import httpx
import numpy as np
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.runtime.latent.seeds import MAX_SEED
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.drawn_models import CLASSES, SIZE
from tests.support.servers import serving

ROUTE = "/v1/images/generations"
# Without classes, and with classes and truncation.
PLAIN, BY_CLASS = "painted", "cut"


def sdk(server, **options) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", **{"max_retries": 0} | options)


@pytest.fixture(scope="module")
def client(drawn_server):
    with sdk(drawn_server) as client:
        yield client


@pytest.fixture(scope="module")
def plain(drawn_repository):
    return Model(drawn_repository / PLAIN / "1", Provider.CPU, ExecutionPlan(1, 1, 8))


@pytest.fixture(scope="module")
def by_class(drawn_repository):
    return Model(drawn_repository / BY_CLASS / "1", Provider.CPU, ExecutionPlan(1, 1, 8))


def decode(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def pixels(response) -> list[np.ndarray]:
    return [decode(base64.b64decode(image.b64_json)) for image in response.data]


def seeds(response) -> list[int]:
    return [image.seed for image in response.data]


def test_text_prompt_determines_the_seed(client, plain):
    response = client.images.generate(model=PLAIN, prompt="a fête of foxes", n=2)
    first = int.from_bytes(hashlib.sha256("a fête of foxes".encode()).digest()[:4])
    assert seeds(response) == [first, first + 1]
    np.testing.assert_array_equal(pixels(response), plain.generate(seeds(response)))
    repeated = client.images.generate(model=PLAIN, prompt="a fête of foxes")
    assert repeated.data[0].b64_json == response.data[0].b64_json
    assert seeds(client.images.generate(model=PLAIN, prompt="a fête of dogs")) != [first]


def test_numeric_prompt_is_the_seed_and_seeds_wrap_around(client):
    def seeds_for(prompt, **options):
        return seeds(client.images.generate(model=PLAIN, prompt=prompt, **options))

    assert seeds_for("7") == [7]
    assert seeds_for(str(MAX_SEED), n=3) == [MAX_SEED, 0, 1]
    assert seeds_for("anything", n=2, extra_body={"seed": MAX_SEED}) == [MAX_SEED, 0]
    # Digits beyond the range of seeds are treated as text.
    assert seeds_for(str(MAX_SEED + 1)) != [0]


@pytest.mark.parametrize("prompt", ["night owl", "Night OWL", " night owl ", "2"])
def test_prompt_selects_class(client, by_class, prompt):
    response = client.images.generate(
        model=BY_CLASS, prompt=prompt, n=2, extra_body={"seed": 7, "truncation": 0.5}
    )
    np.testing.assert_array_equal(pixels(response), by_class.generate([7, 8], [2, 2], [0.5, 0.5]))
    for image in response.data:
        assert image.revised_prompt == "night owl"
        assert image.model_extra["class"] == "night owl"
        assert image.truncation == 0.5


def test_prompt_that_names_a_class_gets_random_seed(client, by_class):
    first, second = (client.images.generate(model=BY_CLASS, prompt="cat") for _ in range(2))
    assert seeds(first) != seeds(second)
    np.testing.assert_array_equal(pixels(first), by_class.generate(seeds(first), [0]))


def test_response_describes_images_and_model(client, plain):
    response = client.images.generate(model=PLAIN, prompt="7", size=f"{SIZE}x{SIZE}")
    assert response.created > 1.7e9
    assert response.size == f"{SIZE}x{SIZE}"
    assert response.output_format == "png"
    assert (response.model, response.version, response.digest) == (PLAIN, "1", plain.digest)
    assert response.data[0].url is None
    metadata = json.loads(
        Image.open(io.BytesIO(base64.b64decode(response.data[0].b64_json))).text["ganymede"]
    )
    assert metadata["seed"] == 7


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_url_gives_the_same_bytes(client, form):
    def generate(response_format):
        return client.images.generate(
            model=BY_CLASS,
            prompt="night owl",
            n=2,
            output_format=form,
            response_format=response_format,
            extra_body={"seed": 7, "truncation": 0.3},
        )

    by_url, inlined = generate("url"), generate("b64_json")
    assert seeds(by_url) == seeds(inlined) == [7, 8]
    for linked, inline in zip(by_url.data, inlined.data, strict=True):
        assert linked.b64_json is None
        response = httpx.get(linked.url)
        assert response.headers["content-type"] == f"image/{form}"
        assert "immutable" in response.headers["cache-control"]
        assert response.content == base64.b64decode(inline.b64_json)


def test_url_has_the_host_of_the_request(drawn_server):
    body = {"model": PLAIN, "prompt": "7", "response_format": "url"}
    with drawn_server.client() as client:
        for host, is_used in (("pictures.example:8080", True), ("[::bad", False), ("a b", False)):
            response = client.post(ROUTE, json=body, headers={"host": host})
            assert response.status_code == 200
            assert (f"http://{host}/" in response.json()["data"][0]["url"]) == is_used
        # Forwarded headers of a proxy on this machine are trusted.
        headers = {"host": "pictures.example", "x-forwarded-proto": "https"}
        response = client.post(ROUTE, json=body, headers=headers)
        assert response.json()["data"][0]["url"].startswith("https://pictures.example/")


def test_accepts_openai_options_without_effect(client):
    plain = client.images.generate(model=PLAIN, prompt="7")
    full = client.images.generate(
        model=PLAIN,
        prompt="7",
        n=1,
        size="auto",
        response_format="b64_json",
        output_format="png",
        user="u",
        quality="high",
        style="vivid",
        background="opaque",
        moderation="low",
        output_compression=80,
        partial_images=0,
        safety_identifier="s",
        stream=False,
    )
    assert full.data[0].b64_json == plain.data[0].b64_json
    unset = client.images.generate(model=PLAIN, prompt="7", n=None, size=None, quality=None)
    assert unset.data[0].b64_json == plain.data[0].b64_json


def test_models_are_listed_and_retrieved(client):
    assert {PLAIN, BY_CLASS} <= {model.id for model in client.models.list()}
    assert client.models.retrieve(BY_CLASS).classes == list(CLASSES)
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("nope")
    assert (caught.value.code, caught.value.type) == ("model_not_found", "invalid_request_error")
    assert BY_CLASS in caught.value.body["message"]
    # Other clients find a problem document.
    problem = caught.value.response.json()
    assert problem["type"] == "urn:ganymede:problem:model-not-found"
    assert problem["detail"] == caught.value.body["message"]


@pytest.mark.parametrize(
    ("options", "param", "message"),
    [
        ({"prompt": "tiger"}, "prompt", "cat, dog, night owl"),
        ({"prompt": "3"}, "prompt", "cat, dog, night owl"),
        ({"prompt": ""}, "prompt", "prompt"),
        ({"prompt": "²"}, "prompt", "cat, dog, night owl"),
        ({"size": "1024x1024"}, "size", f"{SIZE}x{SIZE}"),
        ({"n": 0}, "n", "n"),
        ({"n": 257}, "n", "256"),
        ({"response_format": "file"}, "response_format", "b64_json"),
        ({"output_format": "gif"}, "output_format", "png"),
        ({"stream": True}, "stream", "stream"),
        ({"extra_body": {"seed": -1}}, "seed", "seed"),
        ({"extra_body": {"truncation": 9.0}}, "truncation", "0 to 1.5"),
        ({"extra_body": {"sede": 1}}, "sede", "sede"),
        ({"model": PLAIN, "extra_body": {"truncation": 1.0}}, "truncation", "does not support"),
    ],
)
def test_bad_request_names_the_field(client, options, param, message):
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(**{"model": BY_CLASS, "prompt": "cat"} | options)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert caught.value.code == "invalid_request"
    assert message in str(caught.value)


def test_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.images.generate(model="nope", prompt="cat")
    assert caught.value.code == "model_not_found"
    assert BY_CLASS in str(caught.value)
    # Routes of OpenAI that do not exist here have errors in the same format.
    with pytest.raises(openai.NotFoundError) as caught:
        client.images.edit(model=BY_CLASS, prompt="cat", image=b"\x89PNG")
    assert caught.value.code == "route_not_found"


def test_service_without_models_is_503_with_reason(tmp_path):
    with serving(tmp_path, until="live") as server, sdk(server) as client:
        started = time.monotonic()
        while "it is empty" not in httpx.get(f"{server.url}/readyz").text:
            assert time.monotonic() - started < 60
            time.sleep(0.1)
        with pytest.raises(openai.InternalServerError) as caught:
            client.images.generate(model="any", prompt="cat")
        assert caught.value.status_code == 503
        assert "it is empty" in str(caught.value)
        assert int(caught.value.response.headers["retry-after"]) >= 1
        assert caught.value.body["type"] == "server_error"


@pytest.mark.slow
def test_sdk_retries_when_the_queue_is_full(slow_repository):
    environment = {"GANYMEDE_QUEUE_PIXELS": str(128 * 28 * 28)}
    with serving(slow_repository, env=environment) as server:
        outcomes: list[object] = []

        def generate(retries: int) -> None:
            with sdk(server, max_retries=retries, timeout=300) as client:
                try:
                    outcomes.append(
                        client.images.generate(model="dcgan-fashion", prompt="7", n=128)
                    )
                except openai.RateLimitError as error:
                    outcomes.append(error)

        def all_ask(count: int, retries: int) -> list[object]:
            outcomes.clear()
            threads = [threading.Thread(target=generate, args=[retries]) for _ in range(count)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return list(outcomes)

        refused = [
            outcome for outcome in all_ask(8, 0) if isinstance(outcome, openai.RateLimitError)
        ]
        assert refused
        for error in refused:
            assert int(error.response.headers["retry-after"]) >= 1
            assert error.code == "queue_full"
            assert "queue is full" in str(error)
        patient = all_ask(3, 100)
        assert len(patient) == 3
        assert not [outcome for outcome in patient if isinstance(outcome, Exception)]


def test_rejects_more_pixels_than_the_queue_holds(drawn_repository):
    with (
        serving(drawn_repository, env={"GANYMEDE_QUEUE_PIXELS": str(SIZE * SIZE)}) as server,
        sdk(server) as client,
    ):
        assert client.images.generate(model=PLAIN, prompt="7").data
        with pytest.raises(openai.BadRequestError) as caught:
            client.images.generate(model=PLAIN, prompt="7", n=2)
        assert caught.value.param == "n"


def test_other_routes_answer_problem_documents(drawn_server):
    with drawn_server.client() as client:
        for response in (client.get("/v1/imagesque"), client.post("/v1/generate", json={})):
            assert response.headers["content-type"] == "application/problem+json"
        response = client.get(ROUTE)
        assert response.status_code == 405
        assert response.headers["allow"] == "POST"
        assert response.json()["error"]["code"] == "method_not_allowed"


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=10,
)
# Often valid, so that invalid values pass the first check.
BODIES = st.fixed_dictionaries(
    {"model": st.sampled_from([PLAIN, BY_CLASS]) | ANY_JSON, "prompt": st.text() | ANY_JSON},
    optional={
        "n": st.integers(-1, 4) | ANY_JSON,
        "size": st.sampled_from(["auto", "24x24"]) | ANY_JSON,
        "response_format": st.sampled_from(["url", "b64_json"]) | ANY_JSON,
        "output_format": st.sampled_from(["png", "webp"]) | ANY_JSON,
        "seed": st.integers(0, MAX_SEED) | ANY_JSON,
        "truncation": st.floats(0, 2) | ANY_JSON,
        "user": ANY_JSON,
        "output_compression": ANY_JSON,
        "stream": ANY_JSON,
    },
)


def assert_openai_format(response: httpx.Response) -> None:
    assert response.status_code < 500
    if response.status_code != 200:
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]


@pytest.fixture(scope="module")
def raw(drawn_server):
    with drawn_server.client() as client:
        yield client


@given(body=BODIES | ANY_JSON)
@settings(max_examples=150, deadline=None)
def test_no_json_body_gives_a_5xx(raw, body):
    content = json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    assert_openai_format(raw.post(ROUTE, content=content, headers=headers))


@given(content=st.binary(max_size=60))
@settings(max_examples=60, deadline=None)
def test_no_bytes_give_a_5xx(raw, content):
    headers = {"content-type": "application/json"}
    assert_openai_format(raw.post(ROUTE, content=content, headers=headers))


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"model": "painted", "prompt": "\\ud800"}',
        b'{"model": "painted", "prompt": "7", "n": 1' + b"0" * 4000 + b"}",
        b'{"model": "painted", "prompt": "' + b"a" * 32_001 + b'"}',
    ],
)
def test_rejects_malformed_body(raw, content):
    response = raw.post(ROUTE, content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert_openai_format(response)


def test_log_has_no_stack_trace(drawn_server):
    assert "Traceback" not in drawn_server.logged()
