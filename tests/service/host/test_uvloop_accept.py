import contextlib
import socket
import threading

import uvicorn

from service.host import uvloop_accept
from service.host.uvloop_accept import AcceptWaiting
from tests.support.servers import wait_until

CLIENTS = 20
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@contextlib.contextmanager
def server_with(protocol, listener):
    """Run uvicorn in a thread; yields the server and the open connections at each request."""
    open_connections = []

    async def app(scope, receive, send):
        open_connections.append(len(server.server_state.connections))
        headers = [(b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body"})

    config = uvicorn.Config(app, http=protocol, loop="uvloop", lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield server, open_connections
    finally:
        server.should_exit = True
        thread.join()


def connections_at_each_request(monkeypatch, protocol):
    """Let clients connect and send a request while the event loop is busy."""
    monkeypatch.setattr(uvicorn.Server, "startup", uvicorn.Server.startup)
    uvloop_accept.note_listeners()
    busy, free = threading.Event(), threading.Event()
    loops = []

    class Recording(protocol):
        def connection_made(self, transport):
            super().connection_made(transport)
            loops.append(self.loop)

    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    address = listener.getsockname()
    with contextlib.ExitStack() as stack:
        _, seen = stack.enter_context(server_with(Recording, listener))
        stack.enter_context(socket.create_connection(address))
        wait_until(lambda: loops)
        loops[0].call_soon_threadsafe(lambda: (busy.set(), free.wait(60)))
        assert busy.wait(60)
        clients = [stack.enter_context(socket.create_connection(address)) for _ in range(CLIENTS)]
        for client in clients:
            client.sendall(REQUEST)
        free.set()
        for client in clients:
            client.settimeout(60)
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
    return seen


def test_waiting_connections_are_accepted_before_most_requests_are_served(monkeypatch):
    seen = connections_at_each_request(monkeypatch, AcceptWaiting)
    assert len(seen) == CLIENTS
    assert seen[2] == CLIENTS + 1


def test_processes_that_share_the_socket_accept_one_connection_at_a_time(monkeypatch):
    class Shared(AcceptWaiting):
        accepts_waiting = False

    seen = connections_at_each_request(monkeypatch, Shared)
    assert seen[2] < CLIENTS // 2
