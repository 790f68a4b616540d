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

from service.api_keys import add_key
from service.offline.reproduce import reproduce
from service.runtime.images.encoding import resized
from service.runtime.latent.seeds import MAX_SEED
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from tests.support.drawn_models import CLASSES, SIZE
from tests.support.openai_sdk import pixels, sdk
from tests.support.servers import serving

ROUTE = "/v1/images/generations"
# Without classes, and with classes and truncation.
PLAIN, BY_CLASS = "painted", "cut"


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


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_resamples_to_the_requested_size(client, plain, drawn_repository, tmp_path, form):
    response = client.images.generate(
        model=PLAIN, prompt="7", n=2, size="60x40", output_format=form
    )
    assert (response.size, response.resized_from) == ("60x40", f"{SIZE}x{SIZE}")
    for image, original in zip(response.data, plain.generate([7, 8]), strict=True):
        content = base64.b64decode(image.b64_json)
        assert decode(content).shape == (40, 60, 3)
        assert (image.size, image.resized) == ("60x40", [60, 40])
        if form != "jpeg":
            np.testing.assert_array_equal(decode(content), resized(original, 60, 40))
        file = tmp_path / f"image-{image.seed}.{form}"
        file.write_bytes(content)
        assert reproduce(file, drawn_repository).identical


def test_size_of_the_model_changes_nothing(client):
    same, auto = (
        client.images.generate(model=PLAIN, prompt="7", size=size)
        for size in (f"{SIZE}x{SIZE}", "auto")
    )
    assert same.data[0].b64_json == auto.data[0].b64_json
    assert "resized_from" not in same.model_extra
    assert "resized" not in same.data[0].model_extra


def test_headers_say_what_was_resampled(raw):
    body = {"model": PLAIN, "prompt": "7", "size": "48x48"}
    response = raw.post(ROUTE, json=body)
    assert response.headers["x-ganymede-output-resized"] == f"{SIZE}x{SIZE}>48x48"
    assert response.headers["x-ganymede-seed"] == "7"
    del body["size"]
    assert "x-ganymede-output-resized" not in raw.post(ROUTE, json=body).headers


def test_streams_one_event_for_each_image(client):
    options = {"model": BY_CLASS, "prompt": "cat", "n": 40, "extra_body": {"seed": 7}}
    whole = client.images.generate(**options)
    events = list(client.images.generate(**options, stream=True, partial_images=3))
    assert {event.type for event in events} == {"image_generation.completed"}
    assert [event.seed for event in events] == list(range(7, 47))
    for event, image in zip(events, whole.data, strict=True):
        assert event.b64_json == image.b64_json
        assert event.revised_prompt == "cat"
        assert (event.size, event.output_format) == (f"{SIZE}x{SIZE}", "png")
        assert (event.quality, event.background) == ("auto", "opaque")
        assert event.usage.total_tokens == 0
        assert event.created_at > 1.7e9
        assert event.digest == whole.digest


def test_streamed_images_are_resampled(client):
    (event,) = client.images.generate(model=PLAIN, prompt="7", size="48x36", stream=True)
    assert decode(base64.b64decode(event.b64_json)).shape == (36, 48, 3)
    assert (event.size, event.resized_from) == ("48x36", f"{SIZE}x{SIZE}")


def test_proxies_are_told_not_to_collect_a_stream(raw):
    body = {"model": PLAIN, "prompt": "7", "stream": True}
    response = raw.post(ROUTE, json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-ganymede-seed"] == "7"
    assert response.text.startswith("event: image_generation.completed\ndata: {")


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
        ({"size": "large"}, "size", "WIDTHxHEIGHT"),
        ({"size": "0x24"}, "size", "WIDTHxHEIGHT"),
        ({"size": "20000x1"}, "size", "16,384"),
        ({"size": "16384x16384"}, "size", "16,777,216"),
        ({"size": "48x48", "response_format": "url"}, "size", f"{SIZE}x{SIZE}"),
        ({"n": 64, "size": "4096x4096"}, "size", "fewer or smaller"),
        ({"n": 0}, "n", "n"),
        ({"n": 257}, "n", "256"),
        ({"response_format": "file"}, "response_format", "b64_json"),
        ({"output_format": "gif"}, "output_format", "png"),
        ({"stream": "yes"}, "stream", "boolean"),
        ({"stream": True, "response_format": "url"}, "response_format", "b64_json"),
        ({"stream": True, "prompt": "tiger"}, "prompt", "cat, dog, night owl"),
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
        client.post("/images/inventions", cast_to=object, body={})
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
        "size": st.sampled_from(["auto", "24x24", "30x9"]) | ANY_JSON,
        "response_format": st.sampled_from(["url", "b64_json"]) | ANY_JSON,
        "output_format": st.sampled_from(["png", "webp"]) | ANY_JSON,
        "seed": st.integers(0, MAX_SEED) | ANY_JSON,
        "truncation": st.floats(0, 2) | ANY_JSON,
        "user": ANY_JSON,
        "output_compression": ANY_JSON,
        "stream": st.booleans() | ANY_JSON,
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


@pytest.mark.slow
def test_resampled_pixels_count_toward_the_rate_limit(drawn_repository, tmp_path):
    key = add_key(tmp_path / "keys.json", "one", pixels_per_minute=100 * 100)
    with serving(drawn_repository, "--keys", str(tmp_path / "keys.json")) as server:
        client = sdk(server, api_key=key)
        for options in ({}, {"stream": True}):
            with pytest.raises(openai.BadRequestError) as caught:
                client.images.generate(model=PLAIN, prompt="7", size="101x100", **options)
            assert caught.value.code == "larger_than_allowance"
        # Nothing was charged for it.
        (event,) = client.images.generate(model=PLAIN, prompt="7", size="80x100", stream=True)
        assert event.size == "80x100"
        with pytest.raises(openai.RateLimitError) as caught:
            client.images.generate(model=PLAIN, prompt="7", size="60x100")
        assert int(caught.value.response.headers["retry-after"]) >= 1
        # An image in its own size is small.
        assert client.images.generate(model=PLAIN, prompt="7").data
        with pytest.raises(openai.AuthenticationError, match="revoked"):
            sdk(server, api_key="gnm_x").images.generate(model=PLAIN, prompt="7")


def _rows_run(client) -> float:
    """Return how many rows the model has run so far."""
    lines = client.get("/metrics").text.splitlines()
    sums = [
        line for line in lines if line.startswith(f'ganymede_batch_rows_sum{{model="{PLAIN}"}}')
    ]
    return float(sums[0].split()[-1]) if sums else 0.0


def test_work_ends_when_the_client_of_a_stream_disconnects(raw, drawn_server):
    before = _rows_run(raw)
    body = {"model": PLAIN, "prompt": "7", "n": 200, "size": "1024x1024", "stream": True}
    with drawn_server.client() as other, other.stream("POST", ROUTE, json=body) as stream:
        next(stream.iter_raw())
    started = time.monotonic()
    while "ganymede_queue_pixels 0.0" not in raw.get("/metrics").text:
        assert time.monotonic() - started < 60
        time.sleep(0.05)
    assert _rows_run(raw) - before < 200


def test_log_has_no_stack_trace(drawn_server):
    assert "Traceback" not in drawn_server.logged()
