"""A receiver of webhooks that verifies their signatures, on 127.0.0.1."""

import base64
import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook


def new_secret() -> str:
    return f"whsec_{base64.b64encode(os.urandom(32)).decode()}"


@dataclass
class Received:
    """One request, whose signature was verified."""

    id: str
    event: dict
    headers: dict[str, str]
    status: int


@dataclass
class WebhookReceiver:
    """Responds with the statuses of `script` in turn, then 204; None holds the request open."""

    url: str
    secret: str
    script: list[int | None]
    received: list[Received] = field(default_factory=list)
    unverified: list[dict[str, str]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    @property
    def accepted(self) -> list[Received]:
        return [each for each in self.received if each.status < 300]


@contextlib.contextmanager
def webhook_receiver(
    secret: str, script: Sequence[int | None] = (), headers: dict[str, str] | None = None
) -> Iterator[WebhookReceiver]:
    """Receive webhooks that are signed with `secret`."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            sent = {name.lower(): value for name, value in self.headers.items()}
            try:
                event = Webhook(secret).verify(body, sent)
            except Exception:  # noqa: BLE001 - the test looks at what was not verified
                receiver.unverified.append(sent)
                return self._respond(401)
            with lock:
                status = receiver.script.pop(0) if receiver.script else 204
                received = Received(sent["webhook-id"], event, sent, status or 0)
                receiver.received.append(received)
            if status is None:
                receiver.released.wait(60)
                return None
            return self._respond(status)

        def _respond(self, status):
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    url = f"http://127.0.0.1:{server.server_port}/hooks"
    receiver = WebhookReceiver(url, secret, list(script))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.released.set()
        server.shutdown()
        server.server_close()
        thread.join(10)
