"""Routes for GET that answer HEAD too, as HTTP asks of a server (RFC 9110, 9.1).

FastAPI's own answer HEAD with 405, and monitors and caches that ask so take the service for broken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import APIRouter, FastAPI

Handler = TypeVar("Handler", bound=Callable[..., Any])


def get(routes: APIRouter | FastAPI, path: str, **options: Any) -> Callable[[Handler], Handler]:
    """Like `routes.get`, and for HEAD the same without the body, which the server leaves out.

    The schema shows GET alone: every client knows what HEAD is.
    """

    def add(handler: Handler) -> Handler:
        routes.head(path, **options | {"include_in_schema": False})(handler)
        return routes.get(path, **options)(handler)

    return add
