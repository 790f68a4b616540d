"""When a request is repeated."""

from __future__ import annotations

from dataclasses import dataclass

from ganymede_client.errors import (
    ConnectionFailed,
    GanymedeError,
    ProxyFailed,
    TooManyRequests,
    Unavailable,
)
from ganymede_client.wire.calls import Request


@dataclass(frozen=True)
class RetryPolicy:
    """When a request is repeated.

    Repeated are requests that were refused with Retry-After (429, 503), and, if repeating has no
    other effect than sending once, those without a response and those that a proxy refused with 502
    or 503. Delays without Retry-After double, with jitter. Up to a quarter of Retry-After and at
    most a second is added to it, so that clients that were refused together return one by one.

    Attributes:
        total_s: no request is repeated later than this after the first; 0 to never repeat.
        first_delay_s, max_delay_s: the limits of the delays without Retry-After.
    """

    total_s: float = 60.0
    first_delay_s: float = 0.2
    max_delay_s: float = 8.0

    def delay(
        self, error: GanymedeError, request: Request, attempt: int, jitter: float
    ) -> float | None:
        """Return the seconds until the request is repeated; None to raise the error.

        `attempt` counts from 0. `jitter` is a random number from 0 to 1.
        """
        backoff = min(self.first_delay_s * 2.0**attempt, self.max_delay_s) * (0.5 + 0.5 * jitter)
        if isinstance(error, ConnectionFailed):
            return backoff if request.repeatable or not error.sent else None
        if not isinstance(error, (TooManyRequests, Unavailable)):
            return None
        if error.retry_after is not None:
            # Refused before anything was done, so repeating is safe.
            return error.retry_after + jitter * min(1.0, 0.25 * error.retry_after)
        is_passing = isinstance(error, ProxyFailed) and error.status != 504
        # A problem of the service without Retry-After, such as a failed model, lasts.
        return backoff if is_passing and request.repeatable else None
