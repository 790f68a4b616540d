"""Error responses as `application/problem+json` (RFC 9457), with a stable `type`.

Invalid input gives a 4xx that names the field. Stack traces never reach the client. To add a kind
of error, add its exception type to `_TRANSLATIONS`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from service.api import request_context
from service.api.field_errors import describe_field_errors, is_unparsed_body
from service.api.request_context import Rejection
from service.runtime.credentials.signing import SigningFailed
from service.runtime.images.encoding import MetadataTooLarge
from service.runtime.latent.inversion import InversionFailed
from service.runtime.models.catalog import ModelNotFound, ReloadFailed, RepositoryUnreadable
from service.runtime.models.model import ModelFailed
from service.runtime.request_fields import InvalidRequest
from service.runtime.scheduling.engine import NotReady
from service.runtime.scheduling.errors import DeadlineExceeded, Draining, JobTooLarge, QueueFull
from service.runtime.video.ffmpeg import VideoUnavailable

# Maximum number of field errors in one response, and of pydantic errors that they come from.
_MAX_FIELD_ERRORS = 20
_MAX_PYDANTIC_ERRORS = 200
MEDIA_TYPE = "application/problem+json"
INVALID_REQUEST = "The request is invalid"


class Problem(Exception):
    """An error response. Its stable `type` is ``urn:ganymede:problem:<kind>``.

    Attributes:
        errors: one mapping with `field` and `message` for each invalid field.
        retry_after: seconds after which the client may try again.
        extra_headers: response headers beyond those that the other attributes imply.
        rejection: why a valid request was refused, for logs and metrics; None to derive it from the
            status.
    """

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
        rejection: Rejection | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.title = title
        self.detail = detail
        self.errors = errors
        self.retry_after = retry_after
        self.extra_headers = headers or {}
        self.rejection = rejection

    def body(self) -> str:
        """Return the problem document as JSON."""
        document: dict[str, Any] = {
            "type": f"urn:ganymede:problem:{self.kind}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors:
            document["errors"] = list(self.errors)
        if (context := request_context.current()) is not None:
            document["request_id"] = context.request_id
        return json.dumps(document)

    def headers(self) -> dict[str, str]:
        """Return the response headers."""
        headers = {"content-type": MEDIA_TYPE, **self.extra_headers}
        if self.retry_after is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after)))
        return headers

    def response(self) -> Response:
        """Return the complete response."""
        return Response(self.body(), self.status, self.headers())


def invalid(field: str, message: str) -> Problem:
    """Return the problem for one invalid field of a request."""
    return Problem(
        422,
        "invalid-request",
        INVALID_REQUEST,
        f"{field}: {message}",
        errors=[{"field": field, "message": message}],
    )


def unusable_image(kind: str, detail: str, field: str) -> Problem:
    """Return the problem for an image of a request; `detail` begins with the field."""
    return Problem(
        422,
        kind,
        "The image cannot be used",
        detail,
        errors=[{"field": field, "message": detail.partition(": ")[2] or detail}],
    )


def not_ready(reason: str) -> Problem:
    """Return the problem for a service that accepts no work at the moment."""
    return Problem(503, "not-ready", "The service is not ready", reason, retry_after=5)


def client_disconnected() -> Problem:
    """Return the problem for a request whose client has disconnected, for logs and metrics."""
    return Problem(
        499, "client-gone", "The client disconnected", "the client closed the connection"
    )


def to_problem(error: BaseException) -> Problem | None:
    """Translate an exception to a problem; None for an unexpected one."""
    for error_type in type(error).__mro__:
        if (translate := _TRANSLATIONS.get(error_type)) is not None:
            problem: Problem = translate(error)
            return problem
    return None


def _keep(problem: Problem) -> Problem:
    """Return a problem with the rejection reason of its cause."""
    if problem.rejection is None and problem.__cause__ is not None:
        cause = to_problem(problem.__cause__)
        problem.rejection = cause.rejection if cause is not None else None
    return problem


def _shutting_down(error: Draining) -> Problem:
    problem = not_ready(str(error) or "the service is shutting down")
    problem.rejection = Rejection.DRAINING
    return problem


def _model_failed(error: Exception) -> Problem:
    return Problem(
        503,
        "model-failed",
        "The model cannot be served",
        str(error),
        rejection=Rejection.MODEL_FAILED,
    )


def _job_too_large(error: JobTooLarge) -> Problem:
    problem = invalid("n", f"the request is larger than the queue: {error}")
    problem.rejection = Rejection.TOO_LARGE
    return problem


def _http_error(error: HTTPException) -> Problem:
    if error.status_code == 400:
        # Raised for JSON that is not UTF-8, or that contains a number with thousands of digits.
        return not_json(error.__cause__ or error.detail)
    kinds = {404: "route-not-found", 405: "method-not-allowed"}
    kind = kinds.get(error.status_code, "bad-request")
    return Problem(error.status_code, kind, INVALID_REQUEST, error.detail)


def _validation_error(error: RequestValidationError) -> Problem:
    errors = error.errors()
    if any(each["type"] == "json_invalid" for each in errors):
        return not_json(errors[0].get("ctx", {}).get("error", ""))
    if any(is_unparsed_body(each) for each in errors):
        return Problem(
            415,
            "media-type-not-supported",
            "The media type is not supported",
            "expected JSON, with the header Content-Type: application/json",
        )
    fields = describe_field_errors(errors[:_MAX_PYDANTIC_ERRORS], error.body)[:_MAX_FIELD_ERRORS]
    detail = "; ".join(f"{each['field']}: {each['message']}" for each in fields[:5])
    return Problem(422, "invalid-request", INVALID_REQUEST, detail, errors=fields)


def not_json(reason: object) -> Problem:
    """Return the problem for a body that the JSON parser rejects, with the parser's reason."""
    if str(reason).startswith("Exceeds the limit"):
        # Python's message explains how to change the limit of the interpreter.
        reason = "a number has too many digits"
    return Problem(400, "invalid-json", "The body is not JSON", f"the body is not JSON: {reason}")


# All errors that become a response with a status other than 500. For an exception with several
# matching entries, the most derived class applies.
_TRANSLATIONS: dict[type, Callable[[Any], Problem]] = {
    Problem: _keep,
    ModelNotFound: lambda error: Problem(404, "model-not-found", "Model not found", str(error)),
    ModelFailed: _model_failed,
    InversionFailed: _model_failed,
    NotReady: lambda error: not_ready(str(error)),
    Draining: _shutting_down,
    QueueFull: lambda error: Problem(
        429,
        "queue-full",
        "The queue is full",
        str(error),
        retry_after=error.retry_after,
        rejection=Rejection.QUEUE_FULL,
    ),
    RepositoryUnreadable: lambda error: Problem(
        503, "repository-unreadable", "The models folder cannot be read", str(error)
    ),
    ReloadFailed: lambda error: Problem(
        503, "reload-failed", "The models could not be reloaded", str(error)
    ),
    SigningFailed: lambda error: Problem(
        503, "signing-failed", "The server cannot sign images", str(error)
    ),
    MemoryError: lambda _: Problem(
        503,
        "out-of-memory",
        "Out of memory",
        "not enough memory for a single image of this model; try again later",
        retry_after=5,
    ),
    JobTooLarge: _job_too_large,
    InvalidRequest: lambda error: invalid(error.field, error.message),
    MetadataTooLarge: lambda error: invalid("format", str(error)),
    VideoUnavailable: lambda error: invalid("format", str(error)),
    DeadlineExceeded: lambda error: Problem(
        504, "deadline-exceeded", "The deadline has passed", str(error)
    ),
    HTTPException: _http_error,
    RequestValidationError: _validation_error,
}
