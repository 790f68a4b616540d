"""A request and its answer, as far as they have come: what logs, metrics and traces say of them."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.trace import Span


class Rejection(StrEnum):
    """Why a request that may have been well formed was not done."""

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
    """What is known of one exchange. `model` is the name of a model that is loaded, `key` that of
    the key that it came with.
    """

    request_id: str
    key: str | None = None
    model: str | None = None
    rejection: Rejection | None = None
    span: Span | None = None


_current: ContextVar[RequestContext | None] = ContextVar("ganymede_exchange", default=None)


def begin(exchange: RequestContext) -> None:
    """Make `exchange` the one that this task, and whatever it starts, is about."""
    _current.set(exchange)


def current() -> RequestContext | None:
    """Return the exchange that this task is about; None outside of any."""
    return _current.get()


def note_key(name: str | None) -> None:
    """Say of the exchange whose key it came with."""
    if (exchange := _current.get()) is not None:
        exchange.key = name


def note_model(name: str) -> None:
    """Say of the exchange which model it is about: the name of one that is loaded."""
    if (exchange := _current.get()) is not None:
        exchange.model = name


def note_rejection(reason: Rejection) -> None:
    """Say of the exchange why it is refused; the first reason stands."""
    if (exchange := _current.get()) is not None and exchange.rejection is None:
        exchange.rejection = reason
