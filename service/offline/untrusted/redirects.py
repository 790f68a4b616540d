"""Files of web servers that must not send the service elsewhere.

An operator allows a host, and a client of the service names a file on it. A redirect could lead to
any address that the service reaches, such as the metadata of its machine.
"""

from __future__ import annotations

from functools import cache
from typing import Any


class RedirectRefused(OSError):
    """A web server redirects the request."""


def storage_options(url: str) -> dict[str, Any]:
    """Return the options with which fsspec reads a URL without following redirects."""
    if not url.startswith(("http://", "https://")):
        return {}
    return {"client_kwargs": {"trace_configs": [_refusal()]}}


@cache  # fsspec keeps a file system for equal options.
def _refusal() -> Any:
    import aiohttp  # noqa: PLC0415 - only for files of web servers

    async def refuse(*_: object) -> None:
        raise RedirectRefused("the server redirects, and redirects are not followed")

    config = aiohttp.TraceConfig()
    config.on_request_redirect.append(refuse)
    return config
