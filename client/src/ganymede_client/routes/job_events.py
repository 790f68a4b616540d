"""The events of a job: its states and its progress until it has ended."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable

from ganymede_client import records
from ganymede_client.errors import (
    ConnectionFailed,
    GanymedeError,
    RequestTimedOut,
    UnexpectedResponse,
)
from ganymede_client.records import Job, JobEvent
from ganymede_client.retries import RetryPolicy
from ganymede_client.wire.calls import Call, Reply, Request, route, segment
from ganymede_client.wire.events import (
    MEDIA_TYPE,
    EventParser,
    ServerSentEvent,
    check_stream,
    parse_events,
)

# Events whose data is a job.
_KINDS = ("state", "progress", "end")
_RETRY_S = 2.0


@route("GET", "/v1/jobs/{job}/events", names={"last_event_id": "Last-Event-ID"})
def job_events(job: Job | str, last_event_id: str | None = None) -> Call[list[JobEvent]]:
    """Follow a job: yield a `JobEvent` whenever its state or its progress changes, to its end.

    If the connection fails or the service restarts, the client connects again and continues.

    Args:
        job: a job or its ID.
        last_event_id: `JobEvent.id` of the last known event, which is not repeated.

    Raises JobNotFound, also if the job is deleted in the meantime.
    """
    headers = {"accept": MEDIA_TYPE}
    if last_event_id is not None:
        headers["last-event-id"] = last_event_id
    path = f"/v1/jobs/{segment(job.id if isinstance(job, Job) else job)}/events"
    return Call(Request("GET", path, headers=headers), _all)


def _all(reply: Reply) -> list[JobEvent]:
    events = parse_events(reply.content.decode("utf-8", "replace").splitlines())
    return [event for each in events if (event := _job_event(each)) is not None]


class JobFollower:
    """A job that is followed, over as many connections as it takes. Does no I/O.

    For each connection, the client sends `request`, calls `begin` with the head of the response and
    `feed` with each line, and then `pause`, unless `has_ended`.
    """

    def __init__(
        self,
        call: Call[list[JobEvent]],
        policy: RetryPolicy,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.request = call.request
        self.has_ended = False
        self._policy, self._clock, self._jitter = policy, clock, jitter
        self._parser = EventParser()
        self._retry_s = _RETRY_S
        # Since when there has been no response, and how often the client has tried since.
        self._failing_since: float | None = None
        self._attempt = 0

    def begin(self, reply: Reply) -> None:
        """Start with a new response, whose content is only complete if it is an error.

        Raises ProblemError for an error, and UnexpectedResponse.
        """
        # 204: the last known event was the last one.
        self.has_ended = reply.status == 204
        if not self.has_ended:
            check_stream(reply)
        self._failing_since, self._attempt = None, 0
        self._parser = EventParser()

    def feed(self, line: str) -> JobEvent | None:
        """Add a line of the response; return the event that it completes."""
        received = self._parser.feed(line)
        self._retry_s = _RETRY_S if self._parser.retry_s is None else self._parser.retry_s
        if received is None or (event := _job_event(received)) is None:
            return None
        self.request = Request(
            "GET",
            self.request.path,
            headers={**self.request.headers, "last-event-id": event.id},
        )
        self.has_ended = event.kind == "end"
        return event

    def pause(self, error: GanymedeError | None) -> float:
        """Return the seconds until the client connects again, after an error or an early end.

        Raises the error if the policy does not repeat it, or not for so long.
        """
        if error is None:
            return self._retry_s
        if isinstance(error, RequestTimedOut):
            # Silent for longer than the service ever is.
            error = ConnectionFailed(str(error), sent=True)
        now = self._clock()
        if self._failing_since is None:
            self._failing_since = now
        delay = self._policy.delay(error, self.request, self._attempt, self._jitter())
        self._attempt += 1
        if delay is None or now + delay - self._failing_since > self._policy.total_s:
            raise error
        return delay


def _job_event(received: ServerSentEvent) -> JobEvent | None:
    """Return the event of a job; None for an event about the connection.

    Raises UnexpectedResponse.
    """
    if received.event not in _KINDS:
        return None
    try:
        job = records.job(json.loads(received.data))
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise UnexpectedResponse(f"the data of an event is not a job: {error!r}") from error
    return JobEvent(received.event, received.id or "", job)
