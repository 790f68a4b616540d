"""The way past FastAPI for the routes that are asked thousands of times a second.

FastAPI looks up a route, opens two exit stacks, solves dependencies and parses in steps that each
may be anything: a third of what answering a small picture costs the event loop. A route that takes
one JSON body and gives one Response needs none of it. What comes to such a route as it should is
read, validated by the same model and answered by the same function here; whatever is unusual in any
way goes on to FastAPI as it came, which is the one that says what is wrong with it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TypeVar

from fastapi import Request
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.middleware.errors import ErrorHandler
from service.api.problems import to_problem

Body = TypeVar("Body", bound=BaseModel)

_JSON = b"application/json"


class Express:
    """ASGI middleware, the innermost: answers requests to its routes that are as they should be."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        routes: Sequence[tuple[APIRoute, type[BaseModel]]],
        answer: ErrorHandler,
    ) -> None:
        """Answer POST requests to `routes`, whose functions take what is said of them, from JSON,
        and the request.

        `answer` makes an answer of an error that is foreseen.
        """
        self._app = app
        self._answer = answer
        self._routes = {route.path: (route, model) for route, model in routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on what came."""
        found = self._routes.get(scope["path"]) if scope["type"] == "http" else None
        if found is None or scope["method"] != "POST" or not _is_plain_json(scope):
            await self._app(scope, receive, send)
            return
        route, model = found
        message = await receive()
        body = _read(message, model)
        if body is None:
            await self._app(scope, _once_more(message, receive), send)
            return
        scope["route"] = route
        request = Request(scope, receive, send)
        try:
            response = await route.endpoint(body, request)
        except Exception as error:
            if to_problem(error) is None:
                raise
            response = await self._answer(request, error)
            # Its frames hold the future that holds it, and with that what was to be made.
            error.__traceback__ = None
        await response(scope, receive, send)


def _is_plain_json(scope: Scope) -> bool:
    # Said once: of two, others would go by the first.
    return [value for name, value in scope["headers"] if name == b"content-type"] == [_JSON]


def _read(message: Message, model: type[Body]) -> Body | None:
    """Return the body of a request that came in one message; None of any other."""
    if message["type"] != "http.request" or message.get("more_body", False):
        return None
    try:
        return model.model_validate(json.loads(message.get("body", b"")))
    except (ValueError, RecursionError, MemoryError):
        return None


def _once_more(message: Message, receive: Receive) -> Receive:
    """Receive what has been received, and then what follows."""
    waiting = [message]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed
