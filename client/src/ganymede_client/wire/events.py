"""Server-Sent Events (HTML Living Standard, section 9.2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ganymede_client.errors import GanymedeError, UnexpectedResponse, problem_from
from ganymede_client.wire.calls import Reply, Request

MEDIA_TYPE = "text/event-stream"

Event_co = TypeVar("Event_co", covariant=True)


@dataclass(frozen=True)
class ServerSentEvent:
    """One event. `id` is None if the event has none of its own."""

    event: str
    data: str
    id: str | None


def check_stream(reply: Reply) -> None:
    """Check the head of a response, whose content is only complete if it is an error.

    Raises ProblemError for an error, and UnexpectedResponse if it is not a stream of events.
    """
    if not 200 <= reply.status < 300:
        raise problem_from(reply)
    if reply.media_type != MEDIA_TYPE:
        raise UnexpectedResponse(
            f"{reply.base_url} responded with {reply.media_type or 'no media type'} instead of "
            "events"
        )


class EventParser:
    """Parses the lines of one response."""

    def __init__(self) -> None:
        # The seconds after which the service asks clients to connect again; None if it does not.
        self.retry_s: float | None = None
        # The fields of the event that is being read.
        self._event = ""
        self._data: list[str] = []
        self._id: str | None = None

    def feed(self, line: str) -> ServerSentEvent | None:
        """Add a line without its end; return the event that it completes."""
        if line:
            name, _, value = line.partition(":")
            self._add(name, value.removeprefix(" "))
            return None
        event = ServerSentEvent(self._event or "message", "\n".join(self._data), self._id)
        is_complete = bool(self._data)
        self._clear()
        return event if is_complete else None

    def _add(self, name: str, value: str) -> None:
        if name == "event":
            self._event = value
        elif name == "data":
            self._data.append(value)
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry_s = int(value) / 1000
        # Others are ignored, and so are comments, whose name is empty.

    def _clear(self) -> None:
        self._event = ""
        self._data = []
        self._id = None


def parse_events(lines: Iterable[str]) -> Iterator[ServerSentEvent]:
    """Yield the events of a complete response."""
    parser = EventParser()
    for line in lines:
        if (event := parser.feed(line)) is not None:
            yield event


class Follower(Protocol[Event_co]):
    """Follows a stream of events, over as many connections as it takes. Does no I/O.

    For each connection, the client sends `request`, calls `begin` with the head of the response and
    `feed` with each line, and then `pause`, unless `has_ended`.
    """

    request: Request
    has_ended: bool

    def begin(self, reply: Reply) -> None:
        """Start with a new response, whose content is only complete if it is an error."""

    def feed(self, line: str) -> Event_co | None:
        """Add a line of the response; return the event that it completes."""

    def pause(self, error: GanymedeError | None) -> float:
        """Return the seconds until the client connects again, or raise the error."""
