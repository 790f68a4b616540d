"""`GET /v1/jobs/{id}/events`: the states and the progress of a job as Server-Sent Events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.responses import Response
from fastapi.sse import format_sse_event
from starlette.concurrency import run_in_threadpool

from service.api.metrics import EVENT_STREAMS
from service.api.middleware.authentication import get_caller
from service.api.problems import Problem
from service.api.responses import PROBLEMS
from service.api.routes import head_requests
from service.api.routes.jobs import find_job, job_answer, owner_of
from service.api.schemas.problems import ProblemDocument
from service.api.server_sent_events import MEDIA_TYPE, encode_event, event_response
from service.api.state import ServiceState, state_of
from service.offline.queue.job_watcher import JobWatch
from service.offline.queue.table import JobVersion, QueuedJob

# Milliseconds after which a client connects again.
_RETRY_MS = 2000
# Seconds after which a client has to connect again, with a key that is still valid.
_MAX_STREAM_S = 3600.0
# Seconds for which a stream that is opened while the service starts waits for the table of jobs: a
# browser that gets an error does not connect again.
_OPEN_S, _POLL_S = 5.0, 0.05
# The part of all streams that one key may have open.
_PART_PER_KEY = 4

router = APIRouter(tags=["jobs"])
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events, until the job has ended",
        "content": {MEDIA_TYPE: {"schema": {"type": "string"}}},
    },
    204: {"description": "The job has ended, and the client knows its last event"},
    404: {"model": ProblemDocument, "description": "Job not found"},
    429: {"model": ProblemDocument, "description": "Too many streams are open: see Retry-After"},
    503: PROBLEMS[503],
}


@head_requests.get(
    router,
    "/v1/jobs/{job}/events",
    summary="Follow a job",
    response_class=Response,
    responses=_RESPONSES,
)
async def follow_job(
    job: str,
    request: Request,
    last_event_id: Annotated[
        str | None,
        Header(
            alias="Last-Event-ID", description="The id of the last event that the client knows."
        ),
    ] = None,
) -> Response:
    """Send an event when the state or the progress of a job changes, until the job has ended.

    The data of the events `state`, `progress` and `end` is the job, without its files.
    """
    state = state_of(request)
    opened_by = time.monotonic() + _OPEN_S
    while not state.queue.is_open and time.monotonic() < opened_by:
        await asyncio.sleep(_POLL_S)
    queued = await run_in_threadpool(find_job, job, request)
    if queued.ended is not None and str(queued.version) == last_event_id:
        # The only response after which an EventSource does not connect again.
        return Response(status_code=204)
    owner = owner_of(get_caller(request)).id
    _assert_free(state, owner)
    if request.method == "HEAD":
        return Response(media_type=MEDIA_TYPE)
    return event_response(_events(state, queued.id, owner, last_event_id))


def _assert_free(state: ServiceState, owner: str | None) -> None:
    """Raise Problem (429) if no further stream may be opened."""
    limit = state.settings.max_event_streams
    per_key = max(1, limit // _PART_PER_KEY)
    if state.watcher.count() >= limit:
        detail = f"{limit} event streams are open"
    elif owner is not None and state.watcher.count(owner) >= per_key:
        detail = f"{per_key} event streams of this key are open"
    else:
        return
    raise Problem(
        429,
        "too-many-streams",
        "Too many event streams are open",
        f"{detail}; close some, or ask for the job from time to time",
        retry_after=10,
    )


async def _events(
    state: ServiceState, job_id: str, owner: str | None, known: str | None
) -> AsyncGenerator[bytes, None]:
    """Yield the events after the one with the id `known`."""
    # Counted from here, where the end of the block is certain.
    with state.watcher.watch(job_id, owner) as watch, EVENT_STREAMS.track_inprogress():
        yield format_sse_event(retry=_RETRY_MS)
        before: JobVersion | None = None
        until = time.monotonic() + _MAX_STREAM_S
        while True:
            try:
                # The parts of a response may be asked for by different tasks, so that no timeout
                # can be around the loop.
                await asyncio.wait_for(watch.changed.wait(), until - time.monotonic())
            except TimeoutError:
                yield _reconnect(watch, f"a stream lasts at most {_MAX_STREAM_S:g} s")
                return
            watch.changed.clear()
            if watch.is_deleted:
                yield encode_event({"id": job_id}, "deleted")
                return
            if (queued := watch.job) is not None and queued.version != before:
                if str(queued.version) != known:
                    yield _event(state, queued, before)
                before = queued.version
                if queued.ended is not None:
                    return
            if watch.is_closing:
                yield _reconnect(watch, "the service is stopping")
                return


def _event(state: ServiceState, queued: QueuedJob, before: JobVersion | None) -> bytes:
    """Return the event for a job that had the version `before` when the last event was sent."""
    kind = "progress" if before is not None and before.state is queued.state else "state"
    data = job_answer(queued, state.queue, files=False).model_dump(
        mode="json", exclude={"files"}, exclude_none=True
    )
    return encode_event(data, "end" if queued.ended is not None else kind, str(queued.version))


def _reconnect(watch: JobWatch, reason: str) -> bytes:
    return encode_event({"id": watch.job_id, "reason": reason}, "reconnect", retry_ms=_RETRY_MS)
