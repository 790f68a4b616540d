import asyncio

import httptools
import pytest
import uvicorn

from service.host.uvicorn_writes import JoinedWrites

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Transport(asyncio.Transport):
    """Records what is written, and when the connection is closed."""

    def __init__(self):
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.written = []
        self.closed = False

    def write(self, data):
        assert not self.closed
        self.written.append(bytes(data))

    def writelines(self, parts):
        self.write(b"".join(parts))

    def close(self):
        self.closed = True

    def is_closing(self):
        return self.closed

    def resume_reading(self):
        pass

    def get_write_buffer_size(self):
        return 0


async def written_by(app, request=REQUEST, transport=None):
    """Let `app` respond to a request, and return the transport."""
    transport = transport or Transport()
    config = uvicorn.Config(app, http=JoinedWrites, log_config=None, lifespan="off")
    config.load()
    protocol = JoinedWrites(config, uvicorn.Server(config).server_state, {})
    protocol.connection_made(transport)
    protocol.data_received(request)
    await asyncio.gather(*protocol.tasks)
    await asyncio.sleep(0)
    protocol.connection_lost(None)
    return transport


def responding(*parts, wait_after_head=None, headers=()):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": list(headers)})
        if wait_after_head is not None:
            await wait_after_head()
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})

    return app


class Body:
    """Collects the body of a response."""

    def __init__(self):
        self.body = b""

    def on_body(self, part):
        self.body += part


def body_of(transport):
    response = Body()
    httptools.HttpResponseParser(response).feed_data(b"".join(transport.written))
    return response.body


def test_head_and_body_are_written_together():
    async def app(scope, receive, send):
        headers = [(b"content-length", b"4")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"body"})

    transport = asyncio.run(written_by(app))
    (written,) = transport.written
    assert written.startswith(b"HTTP/1.1 200")
    assert written.endswith(b"\r\n\r\nbody")


@pytest.mark.parametrize("count", range(4))
def test_streamed_responses_are_complete(count):
    parts = [f"part {i}, ".encode() for i in range(count)]
    transport = asyncio.run(written_by(responding(*parts)))
    assert body_of(transport) == b"".join(parts)


def test_head_does_not_wait_for_a_late_body():
    async def main():
        transport, started, late = Transport(), asyncio.Event(), asyncio.Event()

        async def wait():
            started.set()
            await late.wait()

        app = responding(b"x", wait_after_head=wait)
        response = asyncio.create_task(written_by(app, transport=transport))
        await started.wait()
        await asyncio.sleep(0)
        heads = list(transport.written)
        late.set()
        await response
        return heads, transport

    heads, transport = asyncio.run(main())
    assert len(heads) == 1
    assert body_of(transport) == b"x"


def test_response_is_written_before_the_connection_is_closed():
    request = b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n"
    app = responding(headers=[(b"content-length", b"0")])
    transport = asyncio.run(written_by(app, request))
    assert transport.closed
    assert transport.written
