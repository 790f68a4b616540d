"""OpenAI's SDK with a text-to-image model: the prompt is a description."""

import base64

import httpx
import numpy as np
import openai
import pytest

from tests.support.openai_sdk import pixels, sdk
from tests.support.output_models import CAPTIONED, MAX_TOKENS, TEXT_MODEL
from tests.support.responses import decode_image


def generated(server, prompt, seed=None, **options):
    seeded = {"extra_body": {"seed": seed}} if seed is not None else {}
    return sdk(server).images.generate(model=CAPTIONED, prompt=prompt, **seeded, **options)


def test_images_are_those_of_text_to_image(output_server):
    (image,) = pixels(generated(output_server, "abc", seed=5))
    body = {"model": CAPTIONED, "prompt": "abc", "seed": 5}
    response = httpx.post(f"{output_server.url}/v1/text-to-image", json=body)
    expected = decode_image(base64.b64decode(response.json()["images"][0]["data"]))
    assert np.array_equal(image, expected)
    (other,) = pixels(generated(output_server, "xyz", seed=5))
    assert not np.array_equal(image, other)


def test_seeds_are_random_and_in_the_response(output_server):
    response = generated(output_server, "abc", n=2)
    seeds = [image.seed for image in response.data]
    assert seeds[1] == (seeds[0] + 1) % 2**32
    assert response.data[0].prompt == "abc"
    assert generated(output_server, "abc").data[0].seed != seeds[0]
    (again,) = pixels(generated(output_server, "abc", seed=seeds[1]))
    assert np.array_equal(again, pixels(response)[1])


def test_stream_has_the_same_images(output_server):
    events = list(generated(output_server, "abc", seed=5, n=3, stream=True))
    expected = pixels(generated(output_server, "abc", seed=5, n=3))
    streamed = [decode_image(base64.b64decode(event.b64_json)) for event in events]
    assert np.array_equal(streamed, expected)


def test_addresses_have_the_prompt(output_server):
    response = generated(output_server, "a b&c", seed=5, response_format="url")
    file = httpx.get(response.data[0].url)
    assert file.status_code == 200
    (expected,) = pixels(generated(output_server, "a b&c", seed=5))
    assert np.array_equal(decode_image(file.content), expected)


def test_address_that_is_too_long_to_be_requested_is_refused(output_server):
    with pytest.raises(openai.BadRequestError, match="b64_json"):
        generated(output_server, "🦊" * 4000, response_format="url")
    response = generated(output_server, "🦊" * 1000, response_format="url")
    assert httpx.get(response.data[0].url).status_code == 200


def test_truncated_prompt_is_in_a_header(output_server):
    raw = sdk(output_server).images.with_raw_response.generate(
        model=CAPTIONED, prompt="a" * (MAX_TOKENS + 5)
    )
    assert raw.headers["x-ganymede-prompt-truncated"] == f"{MAX_TOKENS}/{MAX_TOKENS + 5}"


def test_refused_prompts(output_server):
    with pytest.raises(openai.BadRequestError):
        generated(output_server, "a" * 4001)
    with pytest.raises(openai.BadRequestError):
        sdk(output_server).images.generate(model=TEXT_MODEL, prompt="a")
