import asyncio
import json
from contextlib import AsyncExitStack

import pytest

from service.api.server_sent_events import encode_event, event_response, kept_alive


def test_event_is_one_line_of_json():
    event = encode_event({"text": "a\nb\r"}, event="progress", id="7", retry_ms=500).decode()
    fields = dict(line.split(": ", 1) for line in event.rstrip("\n").split("\n"))
    assert json.loads(fields.pop("data")) == {"text": "a\nb\r"}
    assert fields == {"event": "progress", "id": "7", "retry": "500"}
    assert event.endswith("\n\n")


def test_proxies_are_told_not_to_collect_the_response():
    async def events():
        yield encode_event({})

    response = event_response(events(), {"x-more": "1"})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["x-more"] == "1"


def test_comments_keep_a_silent_connection_alive():
    async def collect():
        resume = asyncio.Event()

        async def events():
            yield b"first"
            await resume.wait()
            yield b"second"

        parts = []
        async for part in kept_alive(events(), seconds=0.01):
            parts.append(part)
            if parts.count(b": ping\n\n") == 2:
                resume.set()
        return parts

    parts = asyncio.run(collect())
    assert (parts[0], parts[-1]) == (b"first", b"second")
    assert set(parts[1:-1]) == {b": ping\n\n"}


def test_end_of_the_response_ends_the_events():
    async def close_while_waiting():
        ended = asyncio.Event()

        async def events():
            try:
                yield b"first"
                await asyncio.Event().wait()
            finally:
                ended.set()

        stream = kept_alive(events(), seconds=0.01)
        assert [await anext(stream), await anext(stream)] == [b"first", b": ping\n\n"]
        await stream.aclose()
        return ended.is_set()

    assert asyncio.run(close_while_waiting())


def test_error_of_the_events_is_raised():
    async def fail():
        async def events():
            yield b"first"
            raise RuntimeError("broken")

        async for _ in kept_alive(events()):
            pass

    with pytest.raises(RuntimeError, match="broken"):
        asyncio.run(fail())


@pytest.mark.parametrize(("sent", "expected"), [(1, ["held"]), (2, ["events", "held"])])
def test_response_releases_what_it_holds_if_the_client_leaves_while_it_sends(sent, expected):
    """The client leaves while message number `sent` waits to be sent: the start, or an event."""

    async def respond():
        released, messages = [], 0
        gone = asyncio.Event()

        async def events():
            try:
                yield b"first"
                yield b"second"
            finally:
                released.append("events")

        async def receive():
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(_):
            nonlocal messages
            messages += 1
            if messages == sent:
                gone.set()
                await asyncio.Event().wait()

        held = AsyncExitStack()
        held.callback(released.append, "held")
        scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}}
        await event_response(events(), held=held)(scope, receive, send)
        return released

    assert asyncio.run(respond()) == expected
