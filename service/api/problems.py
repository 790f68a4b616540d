"""Errors as `application/problem+json` (RFC 9457), with a stable `type`.

Bad input is 4xx and names the field; nobody outside sees a stack trace.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api import request_context
from service.api.field_errors import is_unread, wrong_fields
from service.api.request_context import Rejection
from service.runtime.images.encoding import MetadataTooLarge
from service.runtime.models.catalog import ModelNotFound, RepositoryUnreadable
from service.runtime.models.model import ModelFailed
from service.runtime.scheduling.engine import NotReady
from service.runtime.scheduling.scheduler import DeadlineExceeded, Draining, JobTooLarge, QueueFull

log = logging.getLogger("ganymede.api")

# Errors of fields that are told, and those of pydantic that they are made of.
_MOST_ERRORS = 20
_MOST_READ = 200
MEDIA_TYPE = "application/problem+json"


class Problem(Exception):
    """An answer that is an error; its stable `type` is ``urn:ganymede:problem:<kind>``."""

    def __init__(
        self,
        status: int,
        kind: str,
        title: str,
        detail: str,
        *,
        errors: Sequence[Mapping[str, str]] = (),
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.title = title
        self.detail = detail
        self.errors = errors
        self.retry_after = retry_after
        self.more_headers = headers or {}

    def body(self) -> str:
        """The problem document."""
        document: dict[str, Any] = {
            "type": f"urn:ganymede:problem:{self.kind}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors:
            document["errors"] = list(self.errors)
        if (now := request_context.current()) is not None:
            document["request_id"] = now.request_id
        return json.dumps(document)

    def headers(self) -> dict[str, str]:
        """The headers that go with it."""
        headers = {"content-type": MEDIA_TYPE, **self.more_headers}
        if self.retry_after is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after)))
        return headers

    def response(self) -> Response:
        """The whole answer."""
        return Response(self.body(), self.status, self.headers())


def invalid(field: str, message: str) -> Problem:
    """Return the problem of one field of the request that cannot be used."""
    return Problem(
        422,
        "invalid-request",
        "The request cannot be used",
        f"{field}: {message}",
        errors=[{"field": field, "message": message}],
    )


def not_ready(reason: str) -> Problem:
    """Return the problem of a service that takes no work now."""
    return Problem(503, "not-ready", "The service is not ready", reason, retry_after=5)


def client_gone() -> Problem:
    """Return the problem of a request that nobody waits for any more; for the metrics to count."""
    return Problem(499, "client-gone", "The client has gone", "the connection was closed")


def to_problem(error: Exception) -> Problem | None:
    """Translate what the runtime raises; None for what is not foreseen."""
    match error:
        case Problem():
            return error
        case ModelNotFound():
            return Problem(404, "model-not-found", "There is no such model", str(error))
        case ModelFailed():
            return Problem(503, "model-failed", "The model cannot be served", str(error))
        case NotReady() | Draining():
            return not_ready(str(error) or "the service is shutting down")
        case QueueFull():
            return Problem(
                429,
                "queue-full",
                "The queue is full",
                str(error),
                retry_after=error.retry_after,
            )
        case RepositoryUnreadable():
            return Problem(
                503, "repository-unreadable", "The models folder cannot be read", str(error)
            )
        case MemoryError():
            return Problem(
                503,
                "out-of-memory",
                "The memory ran out",
                "there was no memory for one picture of this model; another time there may be",
                retry_after=5,
            )
        case JobTooLarge() | MetadataTooLarge():
            return _too_much(error)
        case DeadlineExceeded():
            return Problem(504, "deadline-exceeded", "The deadline has passed", str(error))
        case HTTPException(status_code=400):
            # What JSON's parser raises beside its own error: of bytes that are no UTF-8, or of a
            # number of thousands of digits.
            return _not_json(error.__cause__ or error.detail)
        case HTTPException():
            kind = {404: "route-not-found", 405: "method-not-allowed"}.get(
                error.status_code, "bad-request"
            )
            return Problem(error.status_code, kind, "The request cannot be used", error.detail)
        case RequestValidationError():
            return _from_validation(error)
    return None


Answer = Callable[[Request, Exception], Awaitable[Response]]


def answering(app: FastAPI, respond: Callable[[str, Problem], Response]) -> Answer:
    """Return what answers an error that `to_problem` knows, as `respond` says it of its path."""

    async def answer(request: Request, error: Exception) -> Response:
        problem = to_problem(error)
        assert problem is not None  # noqa: S101 - one of the kinds below, all of them foreseen
        if (reason := _rejection(error)) is not None:
            request_context.note_rejection(reason)
        response = respond(request.scope["path"], problem)
        if isinstance(error, HTTPException) and error.headers:
            response.headers.update(error.headers)
        if problem.status == 405:
            response.headers["allow"] = ", ".join(_allowed(app, request))
        return response

    return answer


def install(app: FastAPI, answer: Answer, respond: Callable[[str, Problem], Response]) -> None:
    """Make `app` answer the errors that are foreseen by `answer`, and the others with a 500."""
    kinds: tuple[type[Exception], ...] = (
        Problem,
        ModelNotFound,
        ModelFailed,
        NotReady,
        RepositoryUnreadable,
        MemoryError,
        Draining,
        QueueFull,
        JobTooLarge,
        MetadataTooLarge,
        DeadlineExceeded,
        HTTPException,
        RequestValidationError,
    )
    for kind in kinds:
        app.add_exception_handler(kind, answer)
    app.add_middleware(_Unforeseen, respond=respond)


def _too_much(error: JobTooLarge | MetadataTooLarge) -> Problem:
    if isinstance(error, MetadataTooLarge):
        return invalid("format", str(error))
    return invalid("n", f"the request is larger than the queue: {error}")


def _allowed(app: FastAPI, request: Request) -> list[str]:
    """Return the methods of a path; the route that was found knows its own alone."""
    path = getattr(request.scope.get("route"), "path", None)
    methods = {method.upper() for method in app.openapi()["paths"].get(path, {"get": None})}
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))


class _Unforeseen:
    """ASGI middleware that answers what nobody foresaw with 500.

    A handler of Exception would do so too, and raise it again: the server then closes the
    connection, upon which the client's next request is lost.
    """

    def __init__(self, app: ASGIApp, respond: Callable[[str, Problem], Response]) -> None:
        self._app, self._respond = app, respond

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def note(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, note)
        except Exception:
            log.exception("%s %s", scope["method"], scope["path"])
            if started:
                raise
            problem = Problem(
                500, "internal", "Something went wrong here", "the error is in the service's log"
            )
            await self._respond(scope["path"], problem)(scope, receive, send)


def _rejection(error: BaseException) -> Rejection | None:
    """Return why `error` refuses work; None where the status says it, or nothing was refused."""
    match error:
        case Draining():
            return Rejection.DRAINING
        case ModelFailed():
            return Rejection.MODEL_FAILED
        case QueueFull():
            return Rejection.QUEUE_FULL
        case JobTooLarge():
            return Rejection.TOO_LARGE
        case Problem(__cause__=BaseException() as cause):
            return _rejection(cause)
    return None


def _from_validation(error: RequestValidationError) -> Problem:
    problems = error.errors()
    if any(problem["type"] == "json_invalid" for problem in problems):
        return _not_json(problems[0].get("ctx", {}).get("error", ""))
    if any(is_unread(problem) for problem in problems):
        return Problem(
            415,
            "media-type-not-supported",
            "The body is of a kind that is not read here",
            "expected JSON, with the header Content-Type: application/json",
        )
    errors = wrong_fields(problems[:_MOST_READ], error.body)[:_MOST_ERRORS]
    detail = "; ".join(f"{e['field']}: {e['message']}" for e in errors[:5])
    return Problem(422, "invalid-request", "The request cannot be used", detail, errors=errors)


def _not_json(reason: object) -> Problem:
    return Problem(400, "invalid-json", "The body is not JSON", f"the body is not JSON: {reason}")
