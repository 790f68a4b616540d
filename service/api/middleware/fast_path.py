"""Serves the most frequent routes, and all large JSON bodies, without FastAPI's request handling.

For every request FastAPI matches a route, opens two exit stacks, resolves dependencies and parses
the body in several generic steps. A route that takes one JSON body and returns a `Response` needs
none of it. Skipping it saves 17 % of the CPU time per request for a small image at 8 connections,
and 30 % at 32 (benchmarks/fast_path.py, gan-mnist, 2 CPUs).

Of the small requests, the middleware handles only those to frequent routes that are complete and
valid: a POST with exactly one `Content-Type: application/json` and a body in one message that the
route's own model accepts. All other small requests go to FastAPI unchanged, which reports invalid
ones.

A large JSON body to any of the routes is parsed and validated in a thread, and reported from here
if it is invalid: FastAPI would do both in the event loop. Both paths call the same route function
with the same validated model, and give the same responses.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any, TypeVar, get_type_hints

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.middleware.errors import handle_error
from service.api.middleware.json_bodies import LARGE_BODY, is_json, note_size, parse, process
from service.api.middleware.request_headers import request_headers

Body = TypeVar("Body", bound=BaseModel)

_JSON = b"application/json"


class FastPath:
    """ASGI middleware that serves requests with a JSON body to its routes."""

    def __init__(
        self,
        app: ASGIApp,
        routes: Sequence[tuple[APIRoute, type[BaseModel]]],
        frequent: Collection[APIRouter],
    ) -> None:
        """Serve POST requests to `routes`, given as pairs of a route and its request model.

        The endpoint of each route takes the validated model and the request. Small bodies are only
        handled for the routes of `frequent`.
        """
        self._app = app
        self._routes = {route.path: (route, model) for route, model in routes}
        self._frequent = {route.path for route, _ in json_routes(*frequent)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request, or pass it on to FastAPI."""
        match = self._routes.get(scope["path"]) if scope["type"] == "http" else None
        if match is None or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        is_frequent = scope["path"] in self._frequent and _is_plain_json(scope)
        if not is_frequent and not is_json(request_headers(scope)):
            await self._app(scope, receive, send)
            return
        route, model = match
        message = await receive()
        if (large := _large_body(message)) is not None:
            await self._serve_large(route, model, large, scope, receive, send)
            return
        body = _validate(message, model) if is_frequent else None
        if body is None:
            await self._app(scope, _replay(message, receive), send)
            return
        await _call(route, body, scope, receive, send)

    async def _serve_large(
        self,
        route: APIRoute,
        model: type[BaseModel],
        text: bytes,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Validate a large body off the event loop, and call the route or report the error."""
        note_size(scope, len(text))
        try:
            body = await process(len(text), lambda: _parse_and_validate(text, model))
        except (HTTPException, RequestValidationError) as error:
            scope["route"] = route
            response = await handle_error(Request(scope, receive, send), error)
            error.__traceback__ = None
            await response(scope, receive, send)
            return
        await _call(route, body, scope, receive, send)


async def _call(
    route: APIRoute, body: BaseModel, scope: Scope, receive: Receive, send: Send
) -> None:
    """Call the endpoint of a route, and send its response."""
    # The access log and the metrics read the route from here.
    scope["route"] = route
    request = Request(scope, receive, send)
    try:
        response = await route.endpoint(body, request)
    except Exception as error:  # noqa: BLE001 - the handler decides, as it does for FastAPI
        response = await handle_error(request, error)
        # The frames of the traceback hold the future that holds the error: a reference cycle
        # that would keep the job's arrays alive until the next garbage collection.
        error.__traceback__ = None
    await response(scope, receive, send)


def json_routes(*routers: APIRouter) -> list[tuple[APIRoute, type[BaseModel]]]:
    """Return the routes of routers whose endpoints take `body` and `request`, with their models."""
    hints = [
        (route, get_type_hints(route.endpoint))
        for router in routers
        for route in router.routes
        if isinstance(route, APIRoute)
    ]
    return [(route, types["body"]) for route, types in hints if "body" in types]


def _large_body(message: Message) -> bytes | None:
    """Return the body of a message that holds all of a large body; None otherwise.

    The body limits pass on every JSON body in one message.
    """
    if message["type"] != "http.request" or message.get("more_body", False):
        return None
    body: bytes = message.get("body", b"")
    return body if len(body) > LARGE_BODY else None


def _parse_and_validate(text: bytes, model: type[Body]) -> Body:
    """Return the validated body.

    Raises what FastAPI raises: RequestValidationError, or HTTPException (400) for a body that its
    parser does not read.
    """
    document: Any = None
    try:
        document = parse(text)
        return model.model_validate(document)
    except json.JSONDecodeError as error:
        invalid = {
            "type": "json_invalid",
            "loc": ("body", error.pos),
            "msg": "JSON decode error",
            "input": {},
            "ctx": {"error": error.msg},
        }
        raise RequestValidationError([invalid], body=error.doc) from error
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        located = [{**each, "loc": ("body", *each["loc"])} for each in errors]
        raise RequestValidationError(located, body=document) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise HTTPException(400, "There was an error parsing the body") from error


def _is_plain_json(scope: Scope) -> bool:
    # Exactly one header: with two, an outer middleware may have used the other one.
    return [value for name, value in scope["headers"] if name == b"content-type"] == [_JSON]


def _validate(message: Message, model: type[Body]) -> Body | None:
    """Return the validated body of a request; None if it is incomplete or invalid."""
    if message["type"] != "http.request" or message.get("more_body", False):
        return None
    try:
        return model.model_validate(json.loads(message.get("body", b"")))
    except (ValueError, RecursionError, MemoryError):
        return None


def _replay(message: Message, receive: Receive) -> Receive:
    """Return a `receive` that repeats `message` first."""
    pending = [message]

    async def receive_again() -> Message:
        return pending.pop() if pending else await receive()

    return receive_again
