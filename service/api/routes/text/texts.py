"""`POST /v1/text`: texts from seeds, complete or streamed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from service.api import responses
from service.api.execution import RequestExecution, request_execution
from service.api.negotiation import accept_header, negotiate_text
from service.api.schemas.text import TextRequest, TextResponse
from service.api.server_sent_events import MEDIA_TYPE, encode_event, event_response, stream_problem
from service.api.state import state_of
from service.runtime.generation import text_cost, text_plan
from service.runtime.models.model import Model
from service.runtime.text.records import model_vocabulary, text_record
from service.runtime.text.requests import text_sources
from service.runtime.text.sampling import TextSource
from service.runtime.text.vocabulary import Vocabulary

router = APIRouter(tags=["generate"])

# Tokens that wait to be sent, before the next step is put off.
_MAX_WAITING_TOKENS = 256
_TEXT = {"schema": {"type": "string"}}


@router.post(
    "/v1/text",
    summary="Generate texts",
    response_model=TextResponse,
    responses={200: {"content": {"text/plain": _TEXT, MEDIA_TYPE: _TEXT}}, **responses.PROBLEMS},
)
async def text(body: TextRequest, request: Request) -> Response:
    """Generate texts from seeds.

    A text depends on the model, its seed, the temperature and the prefix only: not on the other
    texts of the request, nor on whether it is streamed. A shorter `max_length` returns the
    beginning of the same text.
    """
    state = state_of(request)
    model = state.find_model(body.model, "text")
    vocabulary = model_vocabulary(model)
    sources = text_sources(
        model.manifest,
        vocabulary,
        max_texts=state.settings.max_images,
        n=body.n,
        seed=body.seed,
        seeds=body.seeds,
        temperature=body.temperature,
        prefix=body.prefix,
        max_length=body.max_length,
    )
    chosen = negotiate_text(body.format, accept_header(request))
    headers = responses.headers(model, seed=[source.seed for source in sources])
    async with AsyncExitStack() as stack:
        execution = await stack.enter_async_context(
            request_execution(state.engine, request, state.settings.deadline_s)
        )
        # For all steps at once, so that the rate limit cannot interrupt a text.
        execution.reserve_pixels(text_cost(model.manifest, sources))
        if chosen == "events":
            events = text_events(request, execution, model, vocabulary, sources)
            stack.push_async_callback(events.aclose)
            # An error before the first event is an error response.
            first = await anext(events)
            return event_response(_continued(first, events), headers, stack.pop_all())

        def respond(tokens: list[list[int]]) -> Response:
            texts = [
                text_record(source, each, vocabulary)
                for source, each in zip(sources, tokens, strict=True)
            ]
            if chosen == "text":
                plain = plain_text([each["text"] for each in texts])
                return Response(plain, 200, headers, "text/plain; charset=utf-8")
            document = responses.identity(model) | {"texts": texts}
            return Response(json.dumps(document), 200, headers, "application/json")

        plan = text_plan(model.manifest, sources)
        return await execution.execute(model, plan, respond, wait_after_first=True)


def plain_text(texts: Sequence[str]) -> str:
    """Return a single text as it is; several with one text per line.

    Line breaks within one of several texts become spaces.
    """
    if len(texts) == 1:
        return texts[0]
    return "".join(" ".join(each.splitlines()) + "\n" for each in texts)


async def text_events(
    request: Request,
    execution: RequestExecution,
    model: Model,
    vocabulary: Vocabulary,
    sources: Sequence[TextSource],
) -> AsyncGenerator[bytes, None]:
    """Yield the event `token` for each part of a text, `text` for each complete one, then `end`.

    An error before the first event is raised, a later one is the event `error`. While the client
    does not read, no further tokens are generated.
    """
    loop = asyncio.get_running_loop()
    # The index of a text with a token, or None at its end; None at the end of all.
    drawn: asyncio.Queue[tuple[int, int | None] | None] = asyncio.Queue()

    has_room = asyncio.Event()

    async def wait_for_room() -> None:
        while drawn.qsize() > _MAX_WAITING_TOKENS:
            has_room.clear()
            await has_room.wait()
        # Each step has its own deadline, because the response has already started.
        execution.renew_deadline()

    def observe(index: int, token: int | None) -> None:
        # The plan continues in other threads.
        loop.call_soon_threadsafe(drawn.put_nowait, (index, token))

    async def generate() -> None:
        try:
            await execution.execute(
                model,
                text_plan(model.manifest, sources, observe),
                lambda tokens: tokens,
                pause=wait_for_room,
                wait_after_first=True,
            )
        finally:
            # Not put at once: the tokens of the last step may still wait in the event loop.
            loop.call_soon(drawn.put_nowait, None)

    texts = [list(source.prefix) for source in sources]
    task = asyncio.ensure_future(generate())
    begun = False
    try:
        while (item := await drawn.get()) is not None:
            begun = True
            has_room.set()
            index, token = item
            if token is None:
                record = text_record(sources[index], texts[index], vocabulary)
                yield encode_event({"index": index, **record}, "text")
                continue
            piece = vocabulary.piece(token, len(texts[index]))
            texts[index].append(token)
            yield encode_event({"index": index, "text": piece}, "token")
        await task
        yield encode_event({**responses.identity(model), "texts": len(texts)}, "end")
    except Exception as error:
        if not begun:
            raise
        problem = stream_problem(error, request.method, request.scope["path"])
        yield encode_event(_error(problem.body()), "error")
    finally:
        task.cancel()
        await asyncio.wait([task])


def _error(problem: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(problem)
    return document


async def _continued(
    first: bytes, events: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    yield first
    async for event in events:
        yield event
