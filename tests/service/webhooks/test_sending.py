"""Requests of webhooks to a real receiver on 127.0.0.1."""

import asyncio
import socket
import threading
import time

import pytest

from service.webhooks import sending
from service.webhooks.sending import WebhookFailed, WebhookMessage, send
from service.webhooks.signing import SigningSecrets
from service.webhooks.targets import PermittedTargets, WebhookNotPermitted, WebhookTarget
from tests.support.webhooks import new_secret, webhook_receiver


@pytest.fixture
def secret():
    return new_secret()


@pytest.fixture
def message(tmp_path, secret):
    (tmp_path / "secrets").write_text(secret)
    body = '{"a":"ä"}'
    headers = SigningSecrets(tmp_path / "secrets").headers("msg_1", time.time(), body)
    return WebhookMessage(body, headers)


def send_to(url, message, *, permitted=None):
    return asyncio.run(send(PermittedTargets([permitted or url]).find(url), message))


def test_receiver_verifies_what_is_sent(secret, message):
    with webhook_receiver(secret) as receiver:
        send_to(receiver.url, message)
    (received,) = receiver.received
    assert (received.id, received.event) == ("msg_1", {"a": "ä"})
    assert received.headers["content-type"] == "application/json"
    assert received.headers["host"] == receiver.url.split("/")[2]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(secret, message, status):
    with (
        webhook_receiver(secret) as other,
        webhook_receiver(secret, [status], {"location": other.url}) as receiver,
        pytest.raises(WebhookFailed, match="redirects are not followed"),
    ):
        send_to(receiver.url, message)
    assert other.received == []


@pytest.mark.parametrize(
    ("status", "final", "retry_after"), [(500, False, 7), (404, False, 7), (410, True, 7)]
)
def test_other_statuses_are_failures(secret, message, status, final, retry_after):
    with (
        webhook_receiver(secret, [status], {"retry-after": "7"}) as receiver,
        pytest.raises(WebhookFailed, match=f"responded {status}") as failed,
    ):
        send_to(receiver.url, message)
    assert (failed.value.is_final, failed.value.retry_after) == (final, retry_after)


def test_private_addresses_are_refused_when_the_connection_is_made(secret, message):
    with webhook_receiver(secret) as receiver:
        port = int(receiver.url.split(":")[2].split("/")[0])
        # A name that the operator permits may resolve to any address.
        for host in ("localhost", "127.0.0.1", "2130706433", "0x7f.1"):
            target = WebhookTarget("http", host, port, "/hooks")
            with pytest.raises(WebhookNotPermitted, match="not a public address"):
                asyncio.run(send(target, message))
    assert receiver.received == []


def test_silent_receiver_ends_the_attempt(secret, message, monkeypatch):
    monkeypatch.setattr(sending, "TIMEOUT_S", 0.3)
    with (
        webhook_receiver(secret, [None]) as receiver,
        pytest.raises(WebhookFailed, match="no response within"),
    ):
        send_to(receiver.url, message)


def test_slow_header_does_not_extend_the_time(message, monkeypatch):
    monkeypatch.setattr(sending, "TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ended = threading.Event()

        def drip():
            connection, _ = listener.accept()
            with connection:
                try:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nx: ")
                    while not ended.wait(0.05):
                        connection.sendall(b"x")
                except OSError:
                    pass

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        with pytest.raises(WebhookFailed, match="no response within"):
            send_to(f"http://127.0.0.1:{listener.getsockname()[1]}/", message)
        ended.set()
        thread.join(10)


@pytest.mark.parametrize("answer", [b"", b"what?\r\n\r\n"])
def test_broken_responses_are_failures(message, answer):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def respond():
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=respond, daemon=True)
        thread.start()
        with pytest.raises(WebhookFailed):
            send_to(f"http://127.0.0.1:{listener.getsockname()[1]}/", message)
        thread.join(10)


def test_refused_connections_and_unknown_names_are_failures(message):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for host in ("127.0.0.1", "no-such-host.invalid"):
        with pytest.raises(WebhookFailed):
            send_to(f"http://{host}:{port}/", message)


def test_failed_handshakes_are_failures(secret, message):
    # No TLS at all: the handshake fails.
    with webhook_receiver(secret) as receiver, pytest.raises(WebhookFailed):
        send_to(receiver.url.replace("http:", "https:"), message)
    assert receiver.received == []


def test_proxies_of_the_environment_are_not_used(secret, message, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with webhook_receiver(secret) as receiver:
        send_to(receiver.url, message)
    assert len(receiver.accepted) == 1
