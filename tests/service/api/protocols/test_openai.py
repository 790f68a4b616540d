"""OpenAI's own SDK, unchanged, against the real service."""

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


def pixels(answer) -> list[np.ndarray]:
    return [decode(base64.b64decode(image.b64_json)) for image in answer.data]


def seeds(answer) -> list[int]:
    return [image.seed for image in answer.data]


def test_a_text_seeds_a_model_without_classes_and_always_the_same(client, plain):
    answer = client.images.generate(model=PLAIN, prompt="a fête of foxes", n=2)
    first = int.from_bytes(hashlib.sha256("a fête of foxes".encode()).digest()[:4])
    assert seeds(answer) == [first, first + 1]
    np.testing.assert_array_equal(pixels(answer), plain.generate(seeds(answer)))
    again = client.images.generate(model=PLAIN, prompt="a fête of foxes")
    assert again.data[0].b64_json == answer.data[0].b64_json
    assert seeds(client.images.generate(model=PLAIN, prompt="a fête of dogs")) != [first]


def test_digits_are_that_very_seed_and_seeds_go_round_at_the_end_of_the_range(client):
    def made_of(prompt, **options):
        return seeds(client.images.generate(model=PLAIN, prompt=prompt, **options))

    assert made_of("7") == [7]
    assert made_of(str(MAX_SEED), n=3) == [MAX_SEED, 0, 1]
    assert made_of("anything", n=2, extra_body={"seed": MAX_SEED}) == [MAX_SEED, 0]
    # Beyond the range it is a text like another.
    assert made_of(str(MAX_SEED + 1)) != [0]


@pytest.mark.parametrize("prompt", ["night owl", "Night OWL", " night owl ", "2"])
def test_a_prompt_is_a_class_of_a_class_conditional_model(client, by_class, prompt):
    answer = client.images.generate(
        model=BY_CLASS, prompt=prompt, n=2, extra_body={"seed": 7, "truncation": 0.5}
    )
    np.testing.assert_array_equal(pixels(answer), by_class.generate([7, 8], [2, 2], [0.5, 0.5]))
    for image in answer.data:
        assert image.revised_prompt == "night owl"
        assert image.model_extra["class"] == "night owl"
        assert image.truncation == 0.5


def test_without_a_seed_a_class_gets_another_picture_every_time(client, by_class):
    first, second = (client.images.generate(model=BY_CLASS, prompt="cat") for _ in range(2))
    assert seeds(first) != seeds(second)
    np.testing.assert_array_equal(pixels(first), by_class.generate(seeds(first), [0]))


def test_the_answer_says_what_was_made_and_by_what(client, plain):
    answer = client.images.generate(model=PLAIN, prompt="7", size=f"{SIZE}x{SIZE}")
    assert answer.created > 1.7e9
    assert answer.size == f"{SIZE}x{SIZE}"
    assert answer.output_format == "png"
    assert (answer.model, answer.version, answer.digest) == (PLAIN, "1", plain.digest)
    assert answer.data[0].url is None
    made = json.loads(
        Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json))).text["ganymede"]
    )
    assert made["seed"] == 7


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_a_url_is_an_address_that_gives_the_same_bytes(client, form):
    def ask(response_format):
        return client.images.generate(
            model=BY_CLASS,
            prompt="night owl",
            n=2,
            output_format=form,
            response_format=response_format,
            extra_body={"seed": 7, "truncation": 0.3},
        )

    there, here = ask("url"), ask("b64_json")
    assert seeds(there) == seeds(here) == [7, 8]
    for linked, inline in zip(there.data, here.data, strict=True):
        assert linked.b64_json is None
        answer = httpx.get(linked.url)
        assert answer.headers["content-type"] == f"image/{form}"
        assert "immutable" in answer.headers["cache-control"]
        assert answer.content == base64.b64decode(inline.b64_json)


def test_a_url_names_the_host_that_the_request_was_sent_to(drawn_server):
    body = {"model": PLAIN, "prompt": "7", "response_format": "url"}
    with drawn_server.client() as client:
        for host, shown in (("pictures.example:8080", True), ("[::bad", False), ("a b", False)):
            answer = client.post(ROUTE, json=body, headers={"host": host})
            assert answer.status_code == 200
            assert (f"http://{host}/" in answer.json()["data"][0]["url"]) == shown
        # A proxy of this machine, which ends TLS, is believed.
        headers = {"host": "pictures.example", "x-forwarded-proto": "https"}
        answer = client.post(ROUTE, json=body, headers=headers)
        assert answer.json()["data"][0]["url"].startswith("https://pictures.example/")


def test_what_openai_knows_and_a_gan_does_not_is_accepted(client):
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
    nothing = client.images.generate(model=PLAIN, prompt="7", n=None, size=None, quality=None)
    assert nothing.data[0].b64_json == plain.data[0].b64_json


def test_the_models_are_listed_and_retrieved(client):
    assert {PLAIN, BY_CLASS} <= {model.id for model in client.models.list()}
    assert client.models.retrieve(BY_CLASS).classes == list(CLASSES)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nope")


@pytest.mark.parametrize(
    ("wish", "param", "says"),
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
        ({"model": PLAIN, "extra_body": {"truncation": 1.0}}, "truncation", "does not truncate"),
    ],
)
def test_what_cannot_be_used_is_a_bad_request_that_names_it(client, wish, param, says):
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(**{"model": BY_CLASS, "prompt": "cat"} | wish)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert caught.value.code == "invalid_request"
    assert says in str(caught.value)


def test_a_model_that_is_not_there_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.images.generate(model="nope", prompt="cat")
    assert caught.value.code == "model_not_found"
    assert BY_CLASS in str(caught.value)
    # Its other routes are not here, and say so in the same shape.
    with pytest.raises(openai.NotFoundError) as caught:
        client.images.edit(model=BY_CLASS, prompt="cat", image=b"\x89PNG")
    assert caught.value.code == "route_not_found"


def test_a_service_that_is_not_ready_is_503_with_the_reason(tmp_path):
    with serving(tmp_path, until="live") as server, sdk(server) as client:
        began = time.monotonic()
        while "it is empty" not in httpx.get(f"{server.url}/readyz").text:
            assert time.monotonic() - began < 60
            time.sleep(0.1)
        with pytest.raises(openai.InternalServerError) as caught:
            client.images.generate(model="any", prompt="cat")
        assert caught.value.status_code == 503
        assert "it is empty" in str(caught.value)
        assert int(caught.value.response.headers["retry-after"]) >= 1
        assert caught.value.body["type"] == "server_error"


def test_a_full_queue_is_a_rate_limit_that_the_sdk_waits_out_by_itself(slow_repository):
    environment = {"GANYMEDE_QUEUE_PIXELS": str(128 * 28 * 28)}
    with serving(slow_repository, env=environment) as server:
        ended: list[object] = []

        def ask(retries: int) -> None:
            with sdk(server, max_retries=retries, timeout=300) as client:
                try:
                    ended.append(client.images.generate(model="dcgan-fashion", prompt="7", n=128))
                except openai.RateLimitError as error:
                    ended.append(error)

        def all_ask(count: int, retries: int) -> list[object]:
            ended.clear()
            threads = [threading.Thread(target=ask, args=[retries]) for _ in range(count)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return list(ended)

        refused = [end for end in all_ask(8, 0) if isinstance(end, openai.RateLimitError)]
        assert refused
        for error in refused:
            assert int(error.response.headers["retry-after"]) >= 1
            assert error.code == "queue_full"
            assert "queue is full" in str(error)
        patient = all_ask(3, 100)
        assert len(patient) == 3
        assert not [end for end in patient if isinstance(end, Exception)]


def test_more_pixels_than_the_queue_holds_are_a_bad_request(drawn_repository):
    with (
        serving(drawn_repository, env={"GANYMEDE_QUEUE_PIXELS": str(SIZE * SIZE)}) as server,
        sdk(server) as client,
    ):
        assert client.images.generate(model=PLAIN, prompt="7").data
        with pytest.raises(openai.BadRequestError) as caught:
            client.images.generate(model=PLAIN, prompt="7", n=2)
        assert caught.value.param == "n"


def test_errors_elsewhere_are_problem_documents_as_ever(drawn_server):
    with drawn_server.client() as client:
        for answer in (client.get("/v1/imagesque"), client.post("/v1/generate", json={})):
            assert answer.headers["content-type"] == "application/problem+json"
        answer = client.get(ROUTE)
        assert answer.status_code == 405
        assert answer.headers["allow"] == "POST"
        assert answer.json()["error"]["code"] == "method_not_allowed"


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=10,
)
# Right as often as wrong, so that garbage gets past the first check.
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


def assert_answered_as_openai_does(answer: httpx.Response) -> None:
    assert answer.status_code < 500
    if answer.status_code != 200:
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]


@pytest.fixture(scope="module")
def raw(drawn_server):
    with drawn_server.client() as client:
        yield client


@given(body=BODIES | ANY_JSON)
@settings(max_examples=150, deadline=None)
def test_no_json_whatever_is_a_5xx(raw, body):
    content = json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    assert_answered_as_openai_does(raw.post(ROUTE, content=content, headers=headers))


@given(content=st.binary(max_size=60))
@settings(max_examples=60, deadline=None)
def test_no_bytes_whatever_are_a_5xx(raw, content):
    headers = {"content-type": "application/json"}
    assert_answered_as_openai_does(raw.post(ROUTE, content=content, headers=headers))


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"model": "painted", "prompt": "\\ud800"}',
        b'{"model": "painted", "prompt": "7", "n": 1' + b"0" * 4000 + b"}",
        b'{"model": "painted", "prompt": "' + b"a" * 32_001 + b'"}',
    ],
)
def test_a_body_that_is_no_request_is_a_bad_request(raw, content):
    answer = raw.post(ROUTE, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert_answered_as_openai_does(answer)


def test_the_log_holds_no_stack_trace_after_all_of_this(drawn_server):
    assert "Traceback" not in drawn_server.logged()
