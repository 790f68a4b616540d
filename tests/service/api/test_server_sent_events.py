import asyncio
import json

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
