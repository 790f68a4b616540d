import socket

import pytest

from service.addresses import assert_port_free, local_url, resolve, url_of
from service.runtime.errors import UserError
from tests.support.servers import free_port, occupied_port


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:3000/"),
        ("0.0.0.0", "http://localhost:3000/"),
        ("::", "http://localhost:3000/"),
        ("::1", "http://[::1]:3000/"),
    ],
)
def test_url_for_a_browser_on_this_machine(address, url):
    assert local_url(address, 3000) == url


def test_url_of_a_socket(tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        assert url_of(listener, "https") == f"https://127.0.0.1:{port}/"
    with socket.socket(socket.AF_UNIX) as listener:
        assert url_of(listener, "http") is None


def test_resolves_names():
    assert resolve("127.0.0.1") == "127.0.0.1"
    for wrong in ("no-such-host.invalid", "a" * 300, ""):
        with pytest.raises(UserError, match="--host"):
            resolve(wrong)


def test_port_in_use():
    assert_port_free("127.0.0.1", free_port())
    with occupied_port() as port, pytest.raises(UserError, match=f"port {port}: is in use"):
        assert_port_free("127.0.0.1", port)
