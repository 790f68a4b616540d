"""The end of a listening socket, with real connections."""

import select
import socket

import pytest

from service.host.listen_backlog import accept_new, end, refuse_new


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


def connecting(listener):
    """A socket that has begun to connect to `listener`."""
    client = socket.socket()
    client.setblocking(False)
    assert client.connect_ex(listener.getsockname()) != 0
    return client


def test_waiting_connection_is_accepted_and_new_ones_are_refused(listener):
    with socket.create_connection(listener.getsockname()) as waiting:
        refuse_new(listener)
        with connecting(listener) as late:
            accepted, _ = listener.accept()
            with pytest.raises(BlockingIOError):
                listener.accept()
            end(listener)
            # The packet that opens the connection is repeated after a second.
            assert select.select([], [late], [], 30)[1]
            assert late.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(listener.getsockname())
        waiting.sendall(b"request")
        with accepted:
            accepted.setblocking(True)
            assert accepted.recv(16) == b"request"


def test_accepts_again(listener):
    refuse_new(listener)
    accept_new(listener, 8)
    with socket.create_connection(listener.getsockname(), timeout=30):
        assert select.select([listener], [], [], 30)[0]
        listener.accept()[0].close()
