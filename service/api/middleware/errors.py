"""Turns exceptions into error responses: known errors by kind, everything else into a 500."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api import request_context
from service.api.problem_formats import respond
from service.api.problems import HANDLED_ERRORS, Problem, to_problem

log = logging.getLogger("ganymede.api")

ErrorHandler = Callable[[Request, Exception], Awaitable[Response]]


def error_handler(app: FastAPI) -> ErrorHandler:
    """Build the exception handler for the errors that `to_problem` knows."""

    async def handle(request: Request, error: Exception) -> Response:
        problem = to_problem(error)
        assert problem is not None  # noqa: S101 - installed for HANDLED_ERRORS only
        if problem.rejection is not None:
            request_context.note_rejection(problem.rejection)
        response = respond(request.scope["path"], problem)
        if isinstance(error, HTTPException) and error.headers:
            response.headers.update(error.headers)
        if problem.status == 405:
            response.headers["allow"] = ", ".join(_allowed_methods(app, request))
        return response

    return handle


def install(app: FastAPI, handler: ErrorHandler) -> None:
    """Answer known errors with `handler`, and unexpected ones with a 500."""
    for error_type in HANDLED_ERRORS:
        app.add_exception_handler(error_type, handler)
    app.add_middleware(UnexpectedErrors)


class UnexpectedErrors:
    """ASGI middleware that logs an unexpected exception and answers 500.

    An exception handler for `Exception` would do the same, but Starlette raises the exception again
    after the response. The server then closes the connection, and the client's next request on it
    is lost.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, with a 500 if the application fails before it has responded."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        response_started = False

        async def track_start(message: Message) -> None:
            nonlocal response_started
            response_started = True
            await send(message)

        try:
            await self._app(scope, receive, track_start)
        except Exception:
            log.exception("%s %s", scope["method"], scope["path"])
            if response_started:
                raise
            problem = Problem(
                500, "internal", "Internal server error", "see the service's log for the cause"
            )
            await respond(scope["path"], problem)(scope, receive, send)


def _allowed_methods(app: FastAPI, request: Request) -> list[str]:
    """Return all methods of the path; the matched route only knows its own."""
    path = getattr(request.scope.get("route"), "path", None)
    methods = {method.upper() for method in app.openapi()["paths"].get(path, {"get": None})}
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))
