"""`/v1/jobs`: datasets that take too long to generate within a request."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, Response
from starlette.concurrency import run_in_threadpool

from service.api.middleware.authentication import Caller, get_caller
from service.api.middleware.limits import deadline_seconds
from service.api.problems import Problem, invalid
from service.api.responses import PROBLEMS
from service.api.routes import head_requests
from service.api.schemas.fields import selection_value
from service.api.schemas.jobs import JobAnswer, JobFile, JobList, JobRequest, JobWebhookAnswer
from service.api.schemas.problems import ProblemDocument
from service.api.state import state_of
from service.offline import options
from service.offline.job import Layout, SamplingJob, make_job
from service.offline.ledger import OutputConflict
from service.offline.queue.locations import LocationRefused
from service.offline.queue.runner import JobQueue, TooManyJobs
from service.offline.queue.table import JobNotFound, JobState, Owner, QueuedJob
from service.offline.queue.uploads import SCHEME, Upload
from service.offline.queue.webhook_table import JobWebhook
from service.offline.stores import StoreError
from service.offline.writers import assert_layout_supported
from service.runtime.audio.formats import AudioFormat
from service.runtime.generation import text_cost
from service.runtime.images.encoding import ImageFormat
from service.runtime.text.records import model_vocabulary
from service.settings import Settings
from service.url_prefixes import URLNotAllowed
from service.webhooks.targets import PermittedTargets, WebhookNotPermitted, WebhookRefused

# Pixels of a shard: other keys have to wait for its end.
_MAX_SHARD_PIXELS = 2**33
# Characters of all prompts of a job, which is kept in the table of jobs.
_MAX_PROMPT_CHARACTERS = 2**20

router = APIRouter(
    tags=["jobs"],
    responses={
        404: {"model": ProblemDocument, "description": "Job not found"},
        503: PROBLEMS[503],
    },
)
_ADD_RESPONSES: dict[int | str, dict[str, Any]] = {
    **{status: PROBLEMS[status] for status in (404, 422, 429, 504)},
    403: {
        "model": ProblemDocument,
        "description": "A URL is not allowed or permitted",
    },
    409: {"model": ProblemDocument, "description": "The output belongs to another job"},
}
_BINARY = {"type": "string", "format": "binary"}
_FORM = {
    "type": "object",
    "required": ["job", "input"],
    "properties": {
        "job": {
            "type": "string",
            "contentMediaType": "application/json",
            "description": "The fields of the JSON body, without input and mask.",
        },
        "input": {**_BINARY, "description": "A ZIP archive or tar file of images."},
        "mask": {**_BINARY, "description": "A ZIP archive or tar file of masks."},
    },
}
# Threads that wait for stores, which may not respond.
_store_threads = anyio.CapacityLimiter(8)


@dataclass(frozen=True)
class _CheckedJob:
    """A valid job, and the pixels that it makes."""

    job: SamplingJob
    pixels: int


@router.post(
    "/v1/jobs",
    status_code=202,
    summary="Start a job",
    response_model=JobAnswer,
    responses=_ADD_RESPONSES,
    openapi_extra={"requestBody": {"content": {"multipart/form-data": {"schema": _FORM}}}},
)
async def add_job(body: JobRequest, request: Request) -> Response:
    """Validate a job and add it to the queue.

    The images for an image-to-image model are at the URL `input`, or uploaded in a form.
    """
    return await submit(body, request)


async def submit(body: JobRequest, request: Request, upload: Upload | None = None) -> Response:
    """Validate a job, with its uploaded files, add it to the queue and respond. Raises Problem."""
    seconds = deadline_seconds(request, state_of(request).settings.deadline_s)
    try:
        with anyio.fail_after(seconds):
            # Stores of other hosts may not respond. Nothing is added before they have.
            is_remote = bool(body.output or body.input)
            checked = await anyio.to_thread.run_sync(
                partial(_check, body, request, upload),
                abandon_on_cancel=is_remote,
                limiter=_store_threads if is_remote else None,
            )
    except TimeoutError as error:
        raise Problem(
            504,
            "deadline-exceeded",
            "The deadline has passed",
            f"the input or the output did not respond within {seconds:g} s",
        ) from error
    answer = await run_in_threadpool(_add, checked, body, request, upload)
    return Response(
        answer.model_dump_json(exclude_none=True),
        202,
        {"location": f"/v1/jobs/{answer.id}"},
        "application/json",
    )


# Neither this function nor the following handlers are coroutines, because SQLite and files block:
# they run in threads.
def _check(body: JobRequest, request: Request, upload: Upload | None) -> _CheckedJob:
    """Validate a job, its inputs and its output. Raises Problem and InvalidRequest."""
    state = state_of(request)
    if body.webhook is not None:
        _assert_webhook_permitted(body.webhook.url, state.settings)
    model = state.find_any_model(body.model)
    if sum(map(len, body.prompts or ())) > _MAX_PROMPT_CHARACTERS:
        raise invalid("prompts", f"expected at most {_MAX_PROMPT_CHARACTERS:,} characters in all")
    locations = accepting_queue(request).locations
    layout = None if body.format is None else Layout(body.format)
    if layout is Layout.FOLDER and body.output is None:
        raise invalid("format", "folder is only possible with output")
    if layout is not None:
        assert_layout_supported(layout)
    vocabulary = None if model.manifest.text is None else model_vocabulary(model)
    input_, mask = body.input, body.mask
    try:
        # Before uploaded files have names: a client must not name files on this machine.
        locations.assert_allowed(output=body.output, input_=input_, mask=mask)
        if upload is not None:
            input_, mask = (
                SCHEME + name if (name := upload.names.get(field)) else None
                for field in ("input", "mask")
            )
        job = make_job(
            model.manifest,
            count=body.count,
            seeds=None if body.seeds is None else options.parse_seed_range(body.seeds),
            seed=body.seed,
            classes=body.classes,
            truncation=body.truncation,
            mix=None if body.mix is None else options.parse_layers(body.mix),
            resize=None if body.resize is None else options.parse_size(body.resize),
            rank=selection_value(body.rank),
            directions=body.directions,
            layout=layout,
            default_layout=Layout.WEBDATASET,
            image=ImageFormat(body.image),
            audio=None if body.audio is None else AudioFormat(body.audio),
            shard_size=body.shard_size,
            input_=input_,
            mask=mask,
            boxes=None if body.boxes is None else [(x, y, w, h) for x, y, w, h in body.boxes],
            direction=body.direction,
            prompts=body.prompts,
            temperature=body.temperature,
            prefix=body.prefix,
            max_length=body.max_length,
            vocabulary=vocabulary,
            open_inputs=partial(locations.open_inputs, upload.id if upload else ""),
        )
        cost = model.manifest.output.cost
        if vocabulary is not None:
            cost = text_cost(model.manifest, [job.text_source(job.first_seed, vocabulary)])
        plural = model.manifest.output.kind
        job, pixels = _bounded(job, cost, state.settings, plural)
        if body.output is not None:
            locations.assert_output(job, body.output)
    except LocationRefused as error:
        raise _refused(error) from error
    return _CheckedJob(job, pixels)


def _refused(error: LocationRefused) -> Problem:
    """Return the problem for a location that a client chose."""
    setting = "--jobs-outputs" if error.field == "output" else "--jobs-inputs"
    match error.__cause__:
        case URLNotAllowed():
            detail = f"{error}; {setting} lists the URLs that are allowed"
            return Problem(403, "url-not-allowed", "The URL is not allowed", detail)
        case OutputConflict():
            return Problem(409, "output-in-use", "The output is in use", str(error))
        case StoreError():
            return Problem(422, "output-not-writable", "The output cannot be written", str(error))
    return invalid(error.field, error.reason)


def _add(
    checked: _CheckedJob, body: JobRequest, request: Request, upload: Upload | None
) -> JobAnswer:
    """Add a valid job to the queue. Raises Problem."""
    queue = accepting_queue(request)
    caller = get_caller(request)
    # Jobs count toward the rate limit; otherwise they could circumvent it.
    if caller.rate_limit is not None:
        caller.rate_limit.take(checked.pixels)
    try:
        with table_errors(), limit_errors():
            queued = queue.add(
                checked.job,
                owner_of(caller),
                None if body.webhook is None else body.webhook.url,
                output=body.output,
                upload=upload,
            )
    except BaseException:
        if caller.rate_limit is not None:
            caller.rate_limit.put_back(checked.pixels)
        raise
    return job_answer(queued, queue)


def _assert_webhook_permitted(url: str, settings: Settings) -> None:
    """Raise Problem: 422 for an invalid URL, 403 for one that the operator does not permit."""
    try:
        PermittedTargets(settings.webhook_hosts).find(url)
    except WebhookNotPermitted as error:
        raise Problem(
            403, "webhook-not-permitted", "The webhook is not permitted", f"webhook.url: {error}"
        ) from error
    except WebhookRefused as error:
        raise invalid("webhook.url", str(error)) from error


def _bounded(
    job: SamplingJob, generated: int, settings: Settings, plural: str
) -> tuple[SamplingJob, int]:
    """Return the job, with a shard size that lets others have their turn, and its pixels.

    `generated` are the pixels that the model generates for each image, or the cost of a sound or a
    text; `plural` says which. Raises Problem (422).
    """
    if job.count > settings.max_job_images:
        raise invalid("count", f"expected at most {settings.max_job_images:,} {plural}")
    if job.candidates > settings.max_job_images:
        raise invalid(
            "rank",
            f"{job.count:,} images are selected from up to {job.candidates:,} candidates; expected "
            f"at most {settings.max_job_images:,}",
        )
    if job.resize is not None and job.resize[0] * job.resize[1] > settings.max_resized_pixels:
        raise invalid("resize", f"expected at most {settings.max_resized_pixels:,} pixels")
    per_image = job.pixels_per_image(generated)
    pixels = job.count * per_image
    if pixels > settings.max_job_pixels:
        raise invalid(
            "count",
            f"the job would cost {pixels:,} pixels, and the limit is {settings.max_job_pixels:,}; "
            f"expected at most {settings.max_job_pixels // per_image:,} {plural} of this size",
        )
    shard_size = min(job.shard_size, max(1, _MAX_SHARD_PIXELS // per_image))
    return job.model_copy(update={"shard_size": shard_size}), pixels


@head_requests.get(
    router,
    "/v1/jobs",
    summary="List jobs",
    response_model_exclude_none=True,
    responses={422: PROBLEMS[422]},
)
def list_jobs(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=1000, description="Jobs per page.")] = 100,
    after: Annotated[
        str | None,
        Query(max_length=100, description="From the URL of the next page."),
    ] = None,
) -> JobList:
    """List the jobs that the caller may see."""
    queue, caller = _queue(request), get_caller(request)
    with table_errors():
        # One more than the page has, to know whether another page follows.
        jobs = queue.table.page(
            None if caller.admin else owner_of(caller), limit + 1, _position(after)
        )
    page = jobs[:limit]
    more = len(jobs) > limit
    last = f"{page[-1].created!r}-{page[-1].id}" if more else None
    return JobList(
        data=[job_answer(job, queue, files=False) for job in page],
        has_more=more,
        next=f"/v1/jobs?limit={limit}&after={last}" if more else None,
    )


def _position(after: str | None) -> tuple[float, str] | None:
    """Return the creation time and the id of the last job of a page. Raises Problem (422)."""
    if after is None:
        return None
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,12})?)-([0-9a-f]{1,64})", after, re.ASCII)
    if match is None:
        raise invalid("after", "expected the value from the URL of the next page")
    return float(match[1]), match[2]


@head_requests.get(router, "/v1/jobs/{job}", summary="Get a job", response_model_exclude_none=True)
def get_job(job: str, request: Request) -> JobAnswer:
    """Return the state of a job, and the files that are complete."""
    return job_answer(find_job(job, request), _queue(request))


@router.delete(
    "/v1/jobs/{job}",
    summary="Cancel a job, or delete a job that has ended and its files",
    response_model_exclude_none=True,
)
def delete_job(job: str, request: Request) -> JobAnswer:
    """Cancel a job. A job that has ended is deleted, with its files."""
    find_job(job, request)
    queue = _queue(request)
    with table_errors():
        try:
            return job_answer(queue.cancel(job), queue, files=False)
        except JobNotFound as error:  # Deleted in the meantime.
            raise _not_found(job) from error


@head_requests.get(
    router,
    "/v1/jobs/{job}/files/{name}",
    summary="Download a file of a job",
    response_class=FileResponse,
    responses={200: {"content": {"application/octet-stream": {}}}},
)
def get_job_file(job: str, name: str, request: Request) -> FileResponse:
    """Return a complete file of a job. Results at a URL of the operator are read there."""
    queued = find_job(job, request)
    if queued.output is not None:
        raise Problem(
            404,
            "results-elsewhere",
            "The results are elsewhere",
            f"the files of this job are in {queued.output}, and not on this server",
        )
    for path in _queue(request).files(queued):
        if path.name == name:
            return FileResponse(path, filename=name)
    raise Problem(
        404, "file-not-found", "File not found", f"the job has no complete file {name[:100]!r}"
    )


def accepting_queue(request: Request) -> JobQueue:
    """Return the job queue. Raises Problem (503) if it accepts no jobs."""
    queue = state_of(request).queue
    if queue.problem is not None:
        raise _unavailable(f"{queue.problem}; --jobs FOLDER sets where jobs are stored")
    return queue


def _queue(request: Request) -> JobQueue:
    """Return the job queue, which may accept no jobs. Raises Problem (503) if it has no table."""
    queue = state_of(request).queue
    return queue if queue.is_open else accepting_queue(request)


@contextmanager
def table_errors() -> Iterator[None]:
    """Raise Problem (503) if the table cannot be read or changed."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise _unavailable(f"the table of jobs cannot be used: {error}") from error


@contextmanager
def limit_errors() -> Iterator[None]:
    """Raise Problem (429) if there are too many jobs."""
    try:
        yield
    except TooManyJobs as error:
        raise Problem(
            429, "too-many-jobs", "Too many jobs are waiting", str(error), retry_after=60
        ) from error


def _unavailable(reason: str) -> Problem:
    return Problem(503, "no-jobs-taken", "Jobs are not available", reason, retry_after=10)


def find_job(job: str, request: Request) -> QueuedJob:
    """Return a job that the caller may see. Raises Problem (404)."""
    try:
        with table_errors():
            queued = _queue(request).get(job)
    except JobNotFound as error:
        raise _not_found(job) from error
    if not _may_see(queued, get_caller(request)):
        raise _not_found(job)
    return queued


def owner_of(caller: Caller) -> Owner:
    """Return the owner of the caller's jobs."""
    key = caller.key
    return Owner() if key is None else Owner(key.id, key.name, key.created.timestamp())


def _may_see(job: QueuedJob, caller: Caller) -> bool:
    return caller.admin or job.belongs_to(owner_of(caller))


def job_answer(queued: QueuedJob, queue: JobQueue, *, files: bool = True) -> JobAnswer:
    rate = queued.images / queued.seconds if queued.seconds else None
    left = queued.job.count - queued.images - queued.failed
    running = queued.state is JobState.RUNNING
    return JobAnswer(
        id=queued.id,
        state=queued.state,
        model=f"{queued.job.model}@{queued.job.version}",
        count=queued.job.count,
        images=queued.images,
        failed=queued.failed,
        bytes=queued.bytes,
        created=queued.created,
        started=queued.started,
        ended=queued.ended,
        images_per_second=rate and round(rate, 1),
        eta_s=round(left / rate, 1) if rate and running else None,
        error=queued.error,
        attempts=queued.attempts,
        expires=queue.expires(queued),
        webhook=None if queued.webhook is None else _webhook_answer(queued.webhook),
        input=queued.job.input,
        output=queued.output,
        files=[
            JobFile(
                name=path.name,
                bytes=path.stat().st_size,
                url=f"/v1/jobs/{queued.id}/files/{path.name}",
            )
            for path in (queue.files(queued) if files else [])
        ],
    )


def _webhook_answer(webhook: JobWebhook) -> JobWebhookAnswer:
    return JobWebhookAnswer(
        id=webhook.id,
        url=webhook.url,
        state=webhook.state,
        attempts=webhook.attempts,
        next_attempt=webhook.retry_at,
        delivered=webhook.delivered,
        error=webhook.error,
    )


def _not_found(job: str) -> Problem:
    return Problem(404, "job-not-found", "Job not found", f"no job {job[:50]!r}")
