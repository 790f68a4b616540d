"""`/v1/jobs`: datasets that take too long to generate within a request."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response
from starlette.concurrency import run_in_threadpool

from service.api.middleware.authentication import Caller, get_caller
from service.api.problems import Problem, invalid
from service.api.responses import PROBLEMS
from service.api.routes import head_requests
from service.api.schemas.jobs import JobAnswer, JobFile, JobList, JobRequest
from service.api.schemas.problems import ProblemDocument
from service.api.state import state_of
from service.offline import options
from service.offline.job import Layout, make_job
from service.offline.queue import JobNotFound, JobQueue, JobState, QueuedJob, TooManyJobs
from service.offline.writers import assert_layout_supported
from service.runtime.images.encoding import ImageFormat

router = APIRouter(
    tags=["jobs"],
    responses={
        404: {"model": ProblemDocument, "description": "Job not found"},
        503: PROBLEMS[503],
    },
)
_ADD_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: PROBLEMS[status] for status in (404, 422, 429)
}


@router.post(
    "/v1/jobs",
    status_code=202,
    summary="Start a job",
    response_model=JobAnswer,
    responses=_ADD_RESPONSES,
)
async def add_job(body: JobRequest, request: Request) -> Response:
    """Validate a job and add it to the queue."""
    answer = await run_in_threadpool(_add, body, request)
    return Response(
        answer.model_dump_json(exclude_none=True),
        202,
        {"location": f"/v1/jobs/{answer.id}"},
        "application/json",
    )


# Neither this function nor the following handlers are coroutines, because SQLite and files block:
# they run in threads.
def _add(body: JobRequest, request: Request) -> JobAnswer:
    state = state_of(request)
    model = state.find_model(body.model)
    layout, image = Layout(body.format), ImageFormat(body.image)
    assert_layout_supported(layout)
    job = make_job(
        model.manifest,
        count=body.count,
        seeds=None if body.seeds is None else options.parse_seed_range(body.seeds),
        seed=body.seed,
        classes=body.classes,
        truncation=body.truncation,
        mix=None if body.mix is None else options.parse_layers(body.mix),
        resize=None if body.resize is None else options.parse_size(body.resize),
        layout=layout,
        image=image,
        shard_size=body.shard_size,
    )
    if job.count > state.settings.max_job_images:
        raise invalid("count", f"expected at most {state.settings.max_job_images:,} images")
    queue = _queue(request)
    caller = get_caller(request)
    # Jobs count toward the rate limit; otherwise they could circumvent it.
    pixels = job.count * model.manifest.image.pixels
    if caller.rate_limit is not None:
        caller.rate_limit.take(pixels)
    try:
        queued = queue.add(job, caller.name)
    except TooManyJobs as error:
        if caller.rate_limit is not None:
            caller.rate_limit.put_back(pixels)
        raise Problem(
            429, "too-many-jobs", "Too many jobs are waiting", str(error), retry_after=60
        ) from error
    return _answer(queued, queue)


@head_requests.get(router, "/v1/jobs", summary="List jobs", response_model_exclude_none=True)
def list_jobs(request: Request) -> JobList:
    """List the jobs that the caller may see."""
    queue, caller = _queue(request), get_caller(request)
    visible = [job for job in queue.all() if _may_see(job, caller)]
    return JobList(data=[_answer(job, queue, files=False) for job in visible])


@head_requests.get(router, "/v1/jobs/{job}", summary="Get a job", response_model_exclude_none=True)
def get_job(job: str, request: Request) -> JobAnswer:
    """Return the state of a job, and the files that are complete."""
    return _answer(_find(job, request), _queue(request))


@router.delete(
    "/v1/jobs/{job}",
    summary="Cancel a job, or delete a job that has ended and its files",
    response_model_exclude_none=True,
)
def delete_job(job: str, request: Request) -> JobAnswer:
    """Cancel a job. A job that has ended is deleted, with its files."""
    _find(job, request)
    queue = _queue(request)
    return _answer(queue.cancel(job), queue, files=False)


@head_requests.get(
    router,
    "/v1/jobs/{job}/files/{name}",
    summary="Download a file of a job",
    response_class=FileResponse,
    responses={200: {"content": {"application/octet-stream": {}}}},
)
def get_job_file(job: str, name: str, request: Request) -> FileResponse:
    """Return a complete file of a job."""
    queued = _find(job, request)
    for path in _queue(request).files(queued):
        if path.name == name:
            return FileResponse(path, filename=name)
    raise Problem(
        404, "file-not-found", "File not found", f"the job has no complete file {name[:100]!r}"
    )


def _queue(request: Request) -> JobQueue:
    """Return the job queue. Raises Problem (503) if it accepts no jobs."""
    queue = state_of(request).queue
    if queue.problem is not None:
        raise Problem(
            503,
            "no-jobs-taken",
            "Jobs are not available",
            f"{queue.problem}; --jobs FOLDER sets where jobs are stored",
            retry_after=10,
        )
    return queue


def _find(job: str, request: Request) -> QueuedJob:
    """Return a job that the caller may see. Raises Problem (404)."""
    try:
        queued = _queue(request).get(job)
    except JobNotFound as error:
        raise _not_found(job) from error
    if not _may_see(queued, get_caller(request)):
        raise _not_found(job)
    return queued


def _may_see(job: QueuedJob, caller: Caller) -> bool:
    return caller.admin or job.owner == caller.name


def _answer(queued: QueuedJob, queue: JobQueue, *, files: bool = True) -> JobAnswer:
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
        files=[
            JobFile(
                name=path.name,
                bytes=path.stat().st_size,
                url=f"/v1/jobs/{queued.id}/files/{path.name}",
            )
            for path in (queue.files(queued) if files else [])
        ],
    )


def _not_found(job: str) -> Problem:
    return Problem(404, "job-not-found", "Job not found", f"no job {job[:50]!r}")
