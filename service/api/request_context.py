"""The context of the current request, for its log line, its metrics and its span."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.trace import Span


class Rejection(StrEnum):
    """Why a request was not served although it may have been valid."""

    QUEUE_FULL = "queue-full"
    NOT_READY = "not-ready"
    DRAINING = "draining"
    DEADLINE = "deadline"
    TOO_LARGE = "too-large"
    MODEL_FAILED = "model-failed"
    RATE_LIMITED = "rate-limited"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    CLIENT_GONE = "client-gone"


@dataclass(slots=True)
class RequestContext:
    """One request. Middleware and routes fill in the fields as they learn them."""

    request_id: str
    # The name of the API key.
    key: str | None = None
    # The name of a model that is loaded, never what the client typed.
    model: str | None = None
    rejection: Rejection | None = None
    span: Span | None = None


_current: ContextVar[RequestContext | None] = ContextVar("ganymede_request", default=None)


def begin(context: RequestContext) -> None:
    """Make `context` the current one of this task and of the tasks that it starts."""
    _current.set(context)


def current() -> RequestContext | None:
    """Return the context of the current request; None outside a request."""
    return _current.get()


def note_key(name: str | None) -> None:
    """Record the name of the request's API key."""
    if (context := _current.get()) is not None:
        context.key = name


def note_model(name: str) -> None:
    """Record the request's model: the name of one that is loaded."""
    if (context := _current.get()) is not None:
        context.model = name


def note_rejection(reason: Rejection) -> None:
    """Record why the request is rejected. The first reason is kept."""
    if (context := _current.get()) is not None and context.rejection is None:
        context.rejection = reason
