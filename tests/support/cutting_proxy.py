"""A TCP proxy that cuts connections, as networks and load balancers do."""

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field


@dataclass
class CuttingProxy:
    """Forwards connections to a server. `requests` are the first lines and headers it has seen."""

    url: str
    requests: list[bytes] = field(default_factory=list)


@contextlib.contextmanager
def cutting_proxy(url: str, cuts: Sequence[int]) -> Iterator[CuttingProxy]:
    """Forward to `url`; cut connection i after ``cuts[i]`` bytes of response, the others never.

    With 0, the server gets the request and responds, but nothing of it arrives.
    """
    host, port = url.removeprefix("http://").split(":")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = CuttingProxy(f"http://127.0.0.1:{listener.getsockname()[1]}")

        def accept() -> None:
            for number in range(10_000):
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                limit = cuts[number] if number < len(cuts) else None
                server = socket.create_connection((host, int(port)))
                for target, arguments in (
                    (_forward_request, (client, server, proxy.requests)),
                    (_forward_response, (server, client, limit)),
                ):
                    threading.Thread(target=target, args=arguments, daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            # Wakes the thread that accepts connections.
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def _forward_request(client: socket.socket, server: socket.socket, seen: list[bytes]) -> None:
    with contextlib.suppress(OSError):
        while content := client.recv(65536):
            seen.append(content)
            server.sendall(content)
    _close(client, server)


def _forward_response(server: socket.socket, client: socket.socket, limit: int | None) -> None:
    with contextlib.suppress(OSError):
        while content := server.recv(65536):
            client.sendall(content[:limit])
            if limit is not None and (limit := limit - len(content)) <= 0:
                break
    _close(client, server)


def _close(*sockets: socket.socket) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
