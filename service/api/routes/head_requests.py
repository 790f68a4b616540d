"""GET routes that also support HEAD, as HTTP requires (RFC 9110, 9.1).

FastAPI responds to HEAD with 405, which monitors and caches treat as an outage.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import APIRouter, FastAPI

Handler = TypeVar("Handler", bound=Callable[..., Any])


def get(router: APIRouter | FastAPI, path: str, **options: Any) -> Callable[[Handler], Handler]:
    """Like `router.get`, but also registers HEAD. The server omits the body.

    The OpenAPI schema contains GET only.
    """

    def add(handler: Handler) -> Handler:
        router.head(path, **options | {"include_in_schema": False})(handler)
        return router.get(path, **options)(handler)

    return add
