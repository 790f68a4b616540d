"""One request of a webhook: to an address that was checked, without redirects, bounded in time."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import httpcore
import httpx

from service import __version__
from service.webhooks.targets import WebhookRefused, WebhookTarget

# Seconds for the whole request, from the resolution of the name to the headers of the response.
TIMEOUT_S = 15.0


class WebhookFailed(Exception):
    """The receiver did not accept a webhook.

    Attributes:
        is_final: whether the receiver asks for no further attempts.
        retry_after: seconds for which the receiver asks to wait; 0 if it does not.
    """

    def __init__(self, reason: str, *, is_final: bool = False, retry_after: int = 0) -> None:
        super().__init__(reason)
        self.is_final = is_final
        self.retry_after = retry_after


@dataclass(frozen=True)
class WebhookMessage:
    """What is sent: a JSON body, and the headers of its signature."""

    body: str
    signature: Mapping[str, str]


async def send(target: WebhookTarget, message: WebhookMessage) -> None:
    """Send a webhook once. Returns if the receiver responded 2xx, and does not read its body.

    Raises WebhookFailed, and WebhookRefused for a target that resolves to an address that is not
    permitted.
    """
    body = message.body.encode()
    headers = {
        "host": target.authority,
        "user-agent": f"ganymede/{__version__}",
        "content-type": "application/json",
        "content-length": str(len(body)),
        **message.signature,
    }
    url = httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
    try:
        async with (
            asyncio.timeout(TIMEOUT_S),
            # Unlike a client of httpx, it reads no proxies from the environment: a proxy would
            # resolve the name again.
            httpcore.AsyncConnectionPool(
                ssl_context=_ssl_context() if target.scheme == "https" else None,
                network_backend=_CheckedBackend(target),
                max_keepalive_connections=0,
            ) as pool,
            pool.stream("POST", url, headers=list(headers.items()), content=body) as response,
        ):
            status = response.status
            retry_after = _retry_after(response.headers)
    except TimeoutError as error:
        raise WebhookFailed(f"no response within {TIMEOUT_S:g} s") from error
    except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
        raise WebhookFailed(str(error) or type(error).__name__) from error
    except (OSError, ssl.SSLError) as error:
        raise WebhookFailed(f"{target.host}: {error.strerror or error}") from error
    if 200 <= status < 300:
        return
    if 300 <= status < 400:
        raise WebhookFailed(f"the receiver responded {status}; redirects are not followed")
    raise WebhookFailed(
        f"the receiver responded {status}", is_final=status == 410, retry_after=retry_after
    )


class _CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects to the first address of the target's host that is permitted."""

    def __init__(self, target: WebhookTarget) -> None:
        self._target = target
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Resolve the host, check its addresses, and connect. Raises WebhookRefused."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        failure: Exception | None = None
        for *_, address in found:
            try:
                self._target.assert_permitted(str(address[0]))
                return await self._backend.connect_tcp(
                    str(address[0]), port, timeout, local_address, socket_options
                )
            except (WebhookRefused, httpcore.NetworkError, httpcore.TimeoutException) as error:
                failure = error
        raise failure or httpcore.ConnectError(f"{host} has no address")


@cache
def _ssl_context() -> ssl.SSLContext:
    return httpx.create_ssl_context()


def _retry_after(headers: Iterable[tuple[bytes, bytes]]) -> int:
    text = next((value for name, value in headers if name.lower() == b"retry-after"), b"")
    return int(text) if text.isdigit() and len(text) <= 9 else 0
