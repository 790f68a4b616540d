"""The headers of a request, read once for all that look at them."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import Scope

_HEADERS = "ganymede.headers"


def request_headers(scope: Scope) -> Mapping[str, str]:
    """Return the headers of a request by lower-case name; the first one counts if it is repeated.

    Starlette's `Headers` searches and decodes all headers at each access.
    """
    headers: dict[str, str] | None = scope.get(_HEADERS)
    if headers is None:
        headers = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in reversed(scope["headers"])
        }
        scope[_HEADERS] = headers
    return headers
