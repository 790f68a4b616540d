"""Turns exceptions into responses.

Expected exceptions (bad input, a full queue, a missed deadline) become the problem that
`problems.to_problem` assigns to them. Every other exception is logged with its stack trace and
becomes a 500 without details.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from service.api import request_context
from service.api.problem_formats import respond
from service.api.problems import Problem, to_problem

log = logging.getLogger("ganymede.api")


class BodyRefused(Exception):
    """Raised by `BodyLimits` while the application reads the body; `BodyLimits` also catches it."""


async def handle_error(request: Request, error: Exception) -> Response:
    """Return the response to `error`, in the error format of the request's path."""
    if isinstance(error, BodyRefused):
        raise error
    path = request.scope["path"]
    problem = to_problem(error)
    if problem is None:
        return unexpected_error(request.method, path)
    if problem.rejection is not None:
        request_context.note_rejection(problem.rejection)
    response = respond(path, problem)
    if isinstance(error, HTTPException) and error.headers:
        response.headers.update(error.headers)
    if problem.status == 405:
        response.headers["allow"] = ", ".join(_allowed_methods(request))
    return response


# `Exception` covers the expected ones as well. The other two replace handlers that Starlette and
# FastAPI register by default.
ERROR_HANDLERS: Mapping[Any, Any] = {
    Exception: handle_error,
    HTTPException: handle_error,
    RequestValidationError: handle_error,
}


def unexpected_error(method: str, path: str) -> Response:
    """Log the exception that is being handled, and return a 500."""
    return respond(path, unexpected_problem(method, path))


def unexpected_problem(method: str, path: str) -> Problem:
    """Log the exception that is being handled, and return the problem for a 500."""
    log.exception("%s %s", method, path)
    return Problem(500, "internal", "Internal server error", "see the log of the service")


def _allowed_methods(request: Request) -> list[str]:
    """Return all methods of the request's path. The matched route lists only its own."""
    path = getattr(request.scope.get("route"), "path", None)
    operations = request.app.openapi()["paths"].get(path, {"get": None})
    methods = {method.upper() for method in operations}
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))
