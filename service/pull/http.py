"""Files on web servers, and on the Hugging Face hub, which is one.

Redirects lead from HTTPS only to HTTPS, and credentials stay with the host that they are for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import httpx

from service import __version__
from service.pull.transfer import DownloadFailed, Interrupted, Stream
from service.runtime.errors import first_line

_MAX_REDIRECTS = 10
_TIMEOUT = httpx.Timeout(30, read=60)
# Statuses after which the same request can succeed.
_BUSY = (408, 425, 429, 500, 502, 503, 504)
# Longest pause that a server may ask for with Retry-After.
_MAX_PAUSE_S = 60.0


class _CannotContinue(Exception):
    """The server cannot send the rest of the file, because the file has changed."""


class HttpFile:
    """A file at an address, with the headers that its host needs."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None, hint: str = "") -> None:
        """`hint` is added to the error if the host refuses access.

        Raises DownloadFailed for a malformed address.
        """
        try:
            self._url = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise DownloadFailed(f"{url}: {first_line(error)}") from error
        self._headers = dict(headers or {})
        self._hint = hint

    def __str__(self) -> str:
        # Without a signature or a password.
        return str(self._url.copy_with(query=None, fragment=None, userinfo=b""))

    @contextmanager
    def open(self, offset: int, validator: str | None) -> Iterator[Stream]:
        """Open the file. Raises Interrupted and DownloadFailed."""
        try:
            with httpx.Client(timeout=_TIMEOUT) as client, ExitStack() as stack:
                try:
                    stream = self._request(client, stack, offset, validator)
                except _CannotContinue:
                    stack.close()
                    stream = self._request(client, stack, 0, None)
                yield stream
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError) as error:
            # UnicodeError: a redirect to a host whose name cannot be encoded.
            raise DownloadFailed(f"{self}: {first_line(error)}") from error
        except httpx.TransportError as error:
            raise Interrupted(_reason(error)) from error

    def _request(
        self, client: httpx.Client, stack: ExitStack, offset: int, validator: str | None
    ) -> Stream:
        """Request the file from `offset` on. Raises _CannotContinue if only the whole is there."""
        headers = {
            "user-agent": f"ganymede/{__version__}",
            **self._headers,
            # Sizes and offsets are those of the file.
            "accept-encoding": "identity",
        }
        if offset:
            headers["range"] = f"bytes={offset}-"
            if validator is not None and validator.startswith('"'):
                headers["if-range"] = validator
        response = stack.enter_context(self._respond(client, headers))
        return self._stream(response, offset, validator)

    @contextmanager
    def _respond(self, client: httpx.Client, headers: dict[str, str]) -> Iterator[httpx.Response]:
        """Yield the response at the end of the redirects."""
        url = self._url
        for _ in range(_MAX_REDIRECTS + 1):
            response = client.send(client.build_request("GET", url, headers=headers), stream=True)
            try:
                if not response.has_redirect_location:
                    yield response
                    return
                target = url.join(response.headers["location"])
            finally:
                response.close()
            assert_secure(str(self), url, target)
            if target.host != url.host:
                headers.pop("authorization", None)
            url = target
        raise DownloadFailed(f"{self} redirects more than {_MAX_REDIRECTS} times")

    def _stream(self, response: httpx.Response, offset: int, validator: str | None) -> Stream:
        status = response.status_code
        length = response.headers.get("content-range", "")
        current = response.headers.get("etag") or response.headers.get("last-modified")
        if status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
            if length.rpartition("/")[2] == str(offset) and current in (None, validator):
                return Stream(offset, offset, validator, iter(()))
            raise _CannotContinue
        if status in _BUSY:
            raise Interrupted(_status(response), _pause(response))
        if not response.is_success:
            hint = f"; {self._hint}" if self._hint and status in (401, 403, 404) else ""
            raise DownloadFailed(f"{self}: the server responded with {_status(response)}{hint}")
        if response.headers.get("content-type", "").startswith("text/html"):
            raise DownloadFailed(
                f"{self} is a web page, not a file: use the address of the file itself"
            )
        start, total = 0, _number(response.headers.get("content-length"))
        if status == httpx.codes.PARTIAL_CONTENT:
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", length)
            if found is None or int(found[1]) != offset or current != validator:
                raise _CannotContinue
            start, total = offset, _number(found[2])
        return Stream(start, total, current, response.iter_raw())


def assert_secure(name: str, url: httpx.URL, target: httpx.URL) -> None:
    """Raise DownloadFailed for a redirect from HTTPS to HTTP, or to anything else."""
    if target.scheme not in ("https", url.scheme) or target.scheme not in ("http", "https"):
        raise DownloadFailed(
            f"{name} redirects to {target.scheme}://{target.host}, which is not secure"
        )


def _status(response: httpx.Response) -> str:
    return f"{response.status_code} {response.reason_phrase}".strip()


def _pause(response: httpx.Response) -> float | None:
    seconds = _number(response.headers.get("retry-after"))
    return None if seconds is None else min(seconds, _MAX_PAUSE_S)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def _reason(error: httpx.TransportError) -> str:
    if isinstance(error, httpx.TimeoutException):
        return "the server does not respond"
    return f"the connection failed: {first_line(error)}"
