"""Errors of the client.

An error response raises a `ProblemError`, whose class follows from the `type` of the problem
document (RFC 9457). Without a response, the error is a `ConnectionFailed` or `RequestTimedOut`.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any

from ganymede_client.records import Job
from ganymede_client.wire.calls import Reply

_PREFIX = "urn:ganymede:problem:"
# Characters of a response that is no problem document, shown in the message.
_SHOWN = 200


class GanymedeError(Exception):
    """Base class of all errors of this package. They can be pickled, for pools of processes."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Return the state for pickles, independent of the arguments of the constructor."""
        return _restored, (type(self), self.args, self.__dict__)


def _restored(
    error_type: type[GanymedeError], arguments: tuple[Any, ...], state: dict[str, Any]
) -> GanymedeError:
    error = error_type.__new__(error_type, *arguments)
    error.__dict__.update(state)
    return error


class ConnectionFailed(GanymedeError):
    """There was no response.

    Attributes:
        sent: False if no connection was made, so that the service cannot have seen the request.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class RequestTimedOut(GanymedeError):
    """There was no complete response within the timeout of the client."""


class UnexpectedResponse(GanymedeError):
    """The response is not one of this service: for example, the page of a proxy."""


class WaitTimedOut(GanymedeError):
    """A job has not ended in time. It continues. `job` is its last known state."""

    def __init__(self, message: str, job: Job) -> None:
        super().__init__(message)
        self.job = job


class JobEnded(GanymedeError):
    """A job has ended without its result. `job` has the reason."""

    def __init__(self, job: Job) -> None:
        super().__init__(f"job {job.id} is {job}")
        self.job = job


class JobFailed(JobEnded):
    """A job has failed."""


class JobCancelled(JobEnded):
    """A job was cancelled."""


class ProblemError(GanymedeError):
    """An error response.

    Attributes:
        status: the HTTP status.
        type: the stable type of the problem: ``urn:ganymede:problem:…``.
        kind: the last part of `type`, such as ``queue-full``.
        title, detail: what happened, in general and in this case.
        errors: `field` and `message` of each invalid field.
        retry_after: seconds after which the request may be repeated; None if not stated.
        request_id: the ID of the request in the log of the service.
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
        request_id: str | None = None,
    ) -> None:
        super().__init__(detail or title)
        self.status = status
        self.kind = kind
        self.title = title
        self.detail = detail
        self.errors = list(errors)
        self.retry_after = retry_after
        self.request_id = request_id

    @property
    def type(self) -> str:
        """The type of the problem document."""
        return _PREFIX + self.kind

    @property
    def field(self) -> str | None:
        """The first invalid field; None if no field is named."""
        return self.errors[0].get("field") if self.errors else None

    def __str__(self) -> str:
        """Return the detail, with the status and the ID of the request."""
        status = f"{self.status} {self.kind}".rstrip()
        request = f", request {self.request_id}" if self.request_id else ""
        return f"{self.detail or self.title} ({status}{request})"


class InvalidRequest(ProblemError):
    """The service does not accept the request; `field` names the field, if it is one."""


class InvalidImage(InvalidRequest):
    """An image or a mask cannot be used."""


class RequestTooLarge(InvalidRequest):
    """The request is larger than the service accepts at any time."""


class AuthenticationFailed(ProblemError):
    """A key is needed, or the key is not valid."""


class NotAllowed(ProblemError):
    """The key does not permit the request."""


class NotFound(ProblemError):
    """What the request names does not exist."""


class ModelNotFound(NotFound):
    """There is no such model."""


class JobNotFound(NotFound):
    """There is no such job, or the key may not see it."""


class TooManyRequests(ProblemError):
    """The service is busy, or a limit is reached. The request may be repeated later."""


class QueueFull(TooManyRequests):
    """The queue of the service is full."""


class RateLimited(TooManyRequests):
    """The key or the address has reached its rate limit."""


class TooManyJobs(TooManyRequests):
    """The maximum number of jobs is waiting."""


class ServerError(ProblemError):
    """The service failed. Its log has the details."""


class Unavailable(ServerError):
    """The service or the model cannot take requests at the moment."""


class NotReady(Unavailable):
    """The service is loading or shutting down."""


class ModelFailed(Unavailable):
    """The model cannot be served."""


class ProxyFailed(Unavailable):
    """A proxy before the service responded 502, 503 or 504 itself."""


class DeadlineExceeded(ServerError):
    """The images were not generated before the deadline."""


# By the last part of the type of a problem.
PROBLEM_CLASSES: dict[str, type[ProblemError]] = {
    "invalid-json": InvalidRequest,
    "invalid-form": InvalidRequest,
    "invalid-header": InvalidRequest,
    "invalid-message": InvalidRequest,
    "no-certificate": InvalidRequest,
    "invalid-request": InvalidRequest,
    "no-encoder": InvalidRequest,
    "json-too-deep": InvalidRequest,
    "json-too-many-parts": InvalidRequest,
    "method-not-allowed": InvalidRequest,
    "body-too-slow": InvalidRequest,
    "client-gone": InvalidRequest,
    "not-acceptable": InvalidRequest,
    "encoding-not-supported": InvalidRequest,
    "media-type-not-supported": InvalidRequest,
    "not-a-picture": InvalidImage,
    "image-format-not-supported": InvalidImage,
    "picture-too-large": InvalidImage,
    "animated": InvalidImage,
    "mask-not-a-picture": InvalidImage,
    "mask-format-not-supported": InvalidImage,
    "mask-too-large": InvalidImage,
    "mask-animated": InvalidImage,
    "mask-opaque": InvalidImage,
    "box-outside": InvalidImage,
    "body-too-large": RequestTooLarge,
    "larger-than-allowance": RequestTooLarge,
    "key-needed": AuthenticationFailed,
    "unknown-key": AuthenticationFailed,
    "admin-needed": NotAllowed,
    "priority-not-allowed": NotAllowed,
    "origin-not-allowed": NotAllowed,
    "keys-not-set-up": NotAllowed,
    "webhook-not-permitted": NotAllowed,
    "url-not-allowed": NotAllowed,
    "uploads-not-allowed": NotAllowed,
    "results-elsewhere": NotFound,
    "output-in-use": InvalidRequest,
    "output-not-writable": InvalidRequest,
    "model-not-found": ModelNotFound,
    "job-not-found": JobNotFound,
    "file-not-found": NotFound,
    "route-not-found": NotFound,
    "format-not-found": NotFound,
    "direction-not-found": NotFound,
    "no-statistics": NotFound,
    "queue-full": QueueFull,
    "rate-limited": RateLimited,
    "too-many-jobs": TooManyJobs,
    "too-many-streams": TooManyRequests,
    "internal": ServerError,
    "not-ready": NotReady,
    "model-failed": ModelFailed,
    "out-of-memory": Unavailable,
    "signing-failed": Unavailable,
    "repository-unreadable": Unavailable,
    "reload-failed": Unavailable,
    "no-jobs-taken": Unavailable,
    "deadline-exceeded": DeadlineExceeded,
}
_BY_STATUS: dict[int, type[ProblemError]] = {
    401: AuthenticationFailed,
    403: NotAllowed,
    404: NotFound,
    413: RequestTooLarge,
    429: TooManyRequests,
    503: Unavailable,
    504: DeadlineExceeded,
}


def problem_class(kind: str, status: int) -> type[ProblemError]:
    """Return the class for a problem; for an unknown kind, by its status."""
    fallback = InvalidRequest if status < 500 else ServerError
    return PROBLEM_CLASSES.get(kind) or _BY_STATUS.get(status, fallback)


def problem_from(reply: Reply) -> GanymedeError:
    """Return the error for a response that is not a success."""
    if reply.status < 400:
        target = reply.headers.get("location")
        where = f"it redirects to {target}; use the URL of the service itself" if target else ""
        return UnexpectedResponse(
            f"{reply.base_url} responded {reply.status}: {where}".rstrip(": ")
        )
    document = _json_object(reply.content)
    common: dict[str, Any] = {
        "retry_after": retry_after(reply.headers),
        "request_id": document.get("request_id") or reply.request_id,
    }
    kind = str(document.get("type", ""))
    if kind.startswith(_PREFIX):
        kind = kind[len(_PREFIX) :]
        title, detail = str(document.get("title", "")), str(document.get("detail", ""))
        if kind == "route-not-found":
            detail = f"{reply.base_url} has no such route; check the URL of the service"
        common["errors"] = [
            error for error in document.get("errors") or [] if isinstance(error, dict)
        ]
    elif isinstance(error := document.get("error"), dict):  # The format of OpenAI's API.
        kind = str(error.get("code", "")).replace("_", "-")
        title = detail = str(error.get("message", ""))
        if error.get("param"):
            field = str(error["param"])
            message = detail[len(field) + 2 :] if detail.startswith(f"{field}: ") else detail
            common["errors"] = [{"field": field, "message": message}]
    elif isinstance(error, str):  # The format of the Open Inference Protocol.
        kind, title, detail = "", error, error
    else:
        text = reply.content.decode("utf-8", "replace").strip()
        kind, title, detail = "", f"HTTP status {reply.status}", text[:_SHOWN]
        if reply.status in (502, 503, 504):
            return ProxyFailed(reply.status, kind, title, detail, **common)
    return problem_class(kind, reply.status)(reply.status, kind, title, detail, **common)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of Retry-After, which may also be a date; None if it is missing."""
    text = headers.get("retry-after", "").strip()
    with contextlib.suppress(ValueError):
        seconds = float(text)
        return seconds if 0 <= seconds < math.inf else None
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    return None


def _json_object(content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
