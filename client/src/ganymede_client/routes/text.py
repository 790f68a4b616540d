"""Texts, and images from descriptions in words."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ganymede_client.errors import (
    ConnectionFailed,
    GanymedeError,
    RequestTimedOut,
    UnexpectedResponse,
    problem_from,
)
from ganymede_client.images import Images
from ganymede_client.records import Text, TextEvent, record
from ganymede_client.retries import RetryPolicy
from ganymede_client.routes.generate import ImageFormat
from ganymede_client.wire import parsing
from ganymede_client.wire.calls import Call, Reply, Request, fields, json_request, route
from ganymede_client.wire.events import EventParser, ServerSentEvent, check_stream, parse_events

_CHOSEN = {"format": "the method determines it"}


@route("POST", "/v1/text", left_out=_CHOSEN)
def text(
    model: str,
    *,
    n: int | None = None,
    seed: int | None = None,
    seeds: Sequence[int] | None = None,
    temperature: float = 1.0,
    prefix: str = "",
    max_length: int | None = None,
) -> Call[list[Text]]:
    """Generate texts from seeds.

    Args:
        model: ``name``, or ``name@version``.
        n: the number of texts; default: 1.
        seed: text i has the seed ``seed + i``; default: random.
        seeds: the seed of each text, instead of `n` and `seed`.
        temperature: below 1, likely tokens become more likely; 0 always takes the most likely one.
        prefix: the beginning of every text.
        max_length: the maximum number of tokens after the prefix; default: that of the model.
    """
    request = _request(model, n, seed, seeds, temperature, prefix, max_length, "json")
    return Call(request, parsing.parsed(_texts))


@route("POST", "/v1/text", left_out=_CHOSEN)
def stream_text(
    model: str,
    *,
    n: int | None = None,
    seed: int | None = None,
    seeds: Sequence[int] | None = None,
    temperature: float = 1.0,
    prefix: str = "",
    max_length: int | None = None,
) -> Call[list[TextEvent]]:
    """Generate texts from seeds, and yield a `TextEvent` for each part as it is generated.

    The texts and the arguments are those of `text`. A stream that breaks off raises
    ConnectionFailed; it is repeated only if nothing has been received yet.
    """
    request = _request(model, n, seed, seeds, temperature, prefix, max_length, "events")
    return Call(request, _all_events)


@route("POST", "/v1/text-to-image")
def text_to_image(
    model: str,
    prompt: str | Sequence[str],
    *,
    n: int | None = None,
    seed: int | None = None,
    seeds: Sequence[int] | None = None,
    truncation: float | None = None,
    format: ImageFormat = "png",  # noqa: A002 - the name of the field
    c2pa: bool | None = None,
) -> Call[Images]:
    """Generate images from descriptions in words.

    Args:
        model: ``name``, or ``name@version``.
        prompt: a description, or several, whose images follow each other. A description that is
            too long for the text encoder is truncated by the service.
        n: the number of images of each prompt; default: 1.
        seed: image i has the seed ``seed + i``, counted over all prompts; default: random.
        seeds: the seed of each image, instead of `seed`.
        truncation: only for models that support it.
        format: how the files of the images are encoded.
        c2pa: whether the service signs the files with Content Credentials; default: as it is set.
    """
    body = fields(
        model=model,
        prompt=prompt if isinstance(prompt, str) else list(prompt),
        n=n,
        seed=seed,
        seeds=None if seeds is None else list(seeds),
        truncation=truncation,
        format="zip" if format == "png" else format,
        c2pa=c2pa,
    )
    return Call(json_request("POST", "/v1/text-to-image", body), parsing.images)


class TextFollower:
    """A stream of texts. Does no I/O.

    The client sends `request`, calls `begin` with the head of the response and `feed` with each
    line, and then `pause`, unless `has_ended`.
    """

    def __init__(
        self,
        call: Call[list[TextEvent]],
        policy: RetryPolicy,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.request = call.request
        self.has_ended = False
        self._policy, self._clock, self._jitter = policy, clock, jitter
        self._parser = EventParser()
        self._has_begun = False
        self._since = clock()
        self._attempt = 0

    def begin(self, reply: Reply) -> None:
        """Start with a response, whose content is only complete if it is an error.

        Raises ProblemError for an error, and UnexpectedResponse.
        """
        check_stream(reply)
        self._parser = EventParser()
        self._reply = reply

    def feed(self, line: str) -> TextEvent | None:
        """Add a line of the response; return the event that it completes.

        Raises ProblemError if the service could not complete the texts.
        """
        received = self._parser.feed(line)
        if received is None:
            return None
        self._has_begun = True
        self.has_ended = received.event == "end"
        return _event(received, self._reply)

    def pause(self, error: GanymedeError | None) -> float:
        """Return the seconds until the request is repeated, after an error or an early end.

        Raises the error if it is not repeated.
        """
        error = error or ConnectionFailed("the stream ended before the texts", sent=True)
        if self._has_begun or isinstance(error, RequestTimedOut):
            raise error
        delay = self._policy.delay(error, self.request, self._attempt, self._jitter())
        self._attempt += 1
        if delay is None or self._clock() + delay - self._since > self._policy.total_s:
            raise error
        return delay


def _request(
    model: str,
    n: int | None,
    seed: int | None,
    seeds: Sequence[int] | None,
    temperature: float,
    prefix: str,
    max_length: int | None,
    format: str,  # noqa: A002 - the name of the field
) -> Request:
    body = fields(
        model=model,
        n=n,
        seed=seed,
        seeds=None if seeds is None else list(seeds),
        temperature=temperature,
        prefix=prefix,
        max_length=max_length,
        format=format,
    )
    return json_request("POST", "/v1/text", body)


def _texts(document: Mapping[str, Any]) -> list[Text]:
    return [record(Text, each) for each in document["texts"]]


def _all_events(reply: Reply) -> list[TextEvent]:
    events = parse_events(reply.content.decode("utf-8", "replace").splitlines())
    return [event for each in events if (event := _event(each, reply)) is not None]


def _event(received: ServerSentEvent, reply: Reply) -> TextEvent | None:
    """Return the event of a text; None for the end of all.

    Raises ProblemError for an error of the service, and UnexpectedResponse.
    """
    try:
        data = json.loads(received.data)
        if received.event == "error":
            content = received.data.encode()
            raise problem_from(
                Reply(
                    reply.base_url,
                    int(data["status"]),
                    {**reply.headers, "content-type": "application/problem+json"},
                    content,
                )
            )
        if received.event == "token":
            return TextEvent("token", data["index"], data["text"])
        if received.event == "text":
            return TextEvent("text", data["index"], data["text"], record(Text, data))
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise UnexpectedResponse(f"the data of an event is not a text: {error!r}") from error
    return None
