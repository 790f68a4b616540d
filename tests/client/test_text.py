"""Texts, and images from descriptions."""

import asyncio

import httpx
import numpy as np
import pytest

from ganymede_client import AsyncClient, Client, ConnectionFailed, InvalidRequest, ServerError
from ganymede_client.retries import RetryPolicy
from ganymede_client.routes.text import TextFollower, stream_text
from ganymede_client.wire.calls import Reply
from tests.support.output_models import (
    CAPTIONED,
    MAX_LENGTH,
    TEXT_MODEL,
    write_output_models,
)
from tests.support.servers import serving


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    models = tmp_path_factory.mktemp("outputs")
    write_output_models(models)
    with serving(models) as running:
        yield running


@pytest.fixture
def client(server):
    with Client(server.url) as client:
        yield client


def test_texts(client):
    texts = client.text(TEXT_MODEL, seed=3, n=4, prefix="ab", temperature=0.8)
    assert [text.seed for text in texts] == [3, 4, 5, 6]
    assert all(str(text) == text.text for text in texts)
    assert all(text.text.startswith("ab") for text in texts)
    assert texts[1] == client.text(TEXT_MODEL, seeds=[4], prefix="ab", temperature=0.8)[0]
    assert texts[0].max_length == MAX_LENGTH


def test_streamed_texts_are_the_same(client):
    texts = client.text(TEXT_MODEL, seed=3, n=3)
    parts = [""] * 3
    complete = {}
    for event in client.stream_text(TEXT_MODEL, seed=3, n=3):
        if event.kind == "token":
            parts[event.index] += event.text
        else:
            complete[event.index] = event.complete
    assert parts == [text.text for text in texts]
    assert [complete[i] for i in range(3)] == texts


def test_asynchronous_client(server, client):
    async def collected():
        async with AsyncClient(server.url) as asynchronous:
            texts = await asynchronous.text(TEXT_MODEL, seed=3)
            events = [event async for event in asynchronous.stream_text(TEXT_MODEL, seed=3)]
            return texts, events, await asynchronous.text_to_image(CAPTIONED, "abc", seed=1)

    texts, events, images = asyncio.run(collected())
    assert texts == client.text(TEXT_MODEL, seed=3)
    assert events[-1].complete == texts[0]
    assert len(images) == 1


def test_refused_stream(client):
    with pytest.raises(InvalidRequest, match="prefix"):
        list(client.stream_text(TEXT_MODEL, prefix="é"))


def test_images_of_prompts(client):
    images = client.text_to_image(CAPTIONED, ["abc", "xyz"], n=2, seed=5)
    assert [image.provenance.parameters["prompt"] for image in images] == [
        "abc",
        "abc",
        "xyz",
        "xyz",
    ]
    assert [image.seed for image in images] == [5, 6, 7, 8]
    (alone,) = client.text_to_image(CAPTIONED, "xyz", seed=7)
    assert np.array_equal(np.asarray(alone), np.asarray(images[2]))
    by_address = client.image(CAPTIONED, 7, prompt="xyz")
    assert np.array_equal(np.asarray(by_address), np.asarray(alone))


def follower(retry_for=10.0):
    call = stream_text(TEXT_MODEL)
    return TextFollower(call, RetryPolicy(retry_for), clock=lambda: 0.0, jitter=lambda: 0.5)


def begun(stream):
    stream.begin(Reply("http://x", 200, httpx.Headers({"content-type": "text/event-stream"}), b""))
    return stream


def test_stream_that_breaks_off_is_an_error():
    stream = begun(follower())
    stream.feed("event: token")
    stream.feed('data: {"index": 0, "text": "a"}')
    assert stream.feed("").text == "a"
    with pytest.raises(ConnectionFailed):
        stream.pause(None)


def test_stream_is_repeated_before_its_first_event():
    assert follower().pause(ConnectionFailed("refused", sent=False)) >= 0


def test_error_in_the_stream_is_raised():
    stream = begun(follower())
    stream.feed("event: error")
    stream.feed('data: {"type": "urn:ganymede:problem:internal", "status": 500, "detail": "x"}')
    with pytest.raises(ServerError):
        stream.feed("")
