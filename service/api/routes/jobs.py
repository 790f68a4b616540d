"""`/v1/jobs`: data sets that take longer than a request may."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from service.api.middleware.authentication import Caller, get_caller
from service.api.problems import Problem, invalid
from service.api.responses import PROBLEMS
from service.api.routes import head_requests
from service.api.schemas import ProblemDocument, Seed, TruncationField, Weight
from service.offline.job import JobError, Layout, make_job
from service.offline.queue import JobNotFound, JobQueue, JobState, QueuedJob, TooManyJobs
from service.offline.writers import assert_layout_supported
from service.runtime.images.encoding import ImageFormat
from service.runtime.models.model import Model
from service.settings import Settings


class JobRequest(BaseModel):
    """What `ganymede sample` takes: `count` pictures from `seed` on, or `seeds` from A to B."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"model": "cgan-fashion", "count": 200, "classes": "balanced"}]
        },
    )

    model: str
    count: Annotated[int, Field(ge=1)] | None = None
    seed: Seed | None = None
    seeds: Annotated[str, Field(pattern=r"^\d{1,12}-\d{1,12}$", examples=["0-999"])] | None = None
    classes: (
        Literal["balanced"]
        | Annotated[list[str | Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=10_000)]
        | Annotated[dict[str, Weight], Field(min_length=1, max_length=10_000)]
        | None
    ) = Field(default=None, description="Balanced, in turn, or drawn by weights.")
    truncation: TruncationField | None = None
    mix: Annotated[str, Field(max_length=1000)] | None = Field(
        default=None, description="Layers that come from a second seed: coarse, middle, fine, 3."
    )
    resize: Annotated[str, Field(max_length=20, examples=["64x64"])] | None = None
    format: Literal["webdataset", "parquet"] = "webdataset"
    image: Literal["png", "jpeg", "webp"] = "png"
    shard_size: Annotated[int, Field(ge=1, le=100_000)] | None = None


class JobFile(BaseModel):
    """A file that can be fetched at `url`."""

    name: str
    bytes: int
    url: str


class JobAnswer(BaseModel):
    """A job, and how far it is. Times are seconds since the epoch."""

    id: str
    state: JobState
    model: str
    count: int
    images: int
    failed: int
    bytes: int
    created: float
    started: float | None = None
    ended: float | None = None
    images_per_second: float | None = None
    eta_s: float | None = None
    error: str | None = None
    files: list[JobFile] = []


class JobList(BaseModel):
    """The jobs of who asks, or of all for an administrator; the newest first."""

    data: list[JobAnswer]


def router(queue: JobQueue, settings: Settings, find: Callable[[str], Model]) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(
        tags=["jobs"],
        responses={
            404: {"model": ProblemDocument, "description": "No such job"},
            503: PROBLEMS[503],
        },
    )

    def jobs() -> JobQueue:
        if queue.problem is not None:
            raise Problem(
                503,
                "no-jobs-taken",
                "No jobs are taken",
                f"{queue.problem}; --jobs FOLDER says where they are kept",
                retry_after=10,
            )
        return queue

    def own(name: str, request: Request) -> QueuedJob:
        try:
            ticket = jobs().get(name)
        except JobNotFound as error:
            raise _not_found(name) from error
        if not _may_see(ticket, get_caller(request)):
            raise _not_found(name)
        return ticket

    # SQLite and the disk take their time, so none of these is a coroutine.
    @routes.post(
        "/v1/jobs",
        status_code=202,
        summary="Begin a job",
        responses=_of_add(),
        response_model_exclude_none=True,
    )
    def add(body: JobRequest, request: Request, response: Response) -> JobAnswer:
        model = find(body.model)
        said = body.model_dump(exclude={"model", "format", "image"})
        layout, image = Layout(body.format), ImageFormat(body.image)
        try:
            assert_layout_supported(layout)
            job = make_job(model.manifest, **said, layout=layout, image=image)
        except JobError as error:
            raise _invalid(str(error)) from error
        if job.count > settings.max_job_images:
            raise invalid("count", f"at most {settings.max_job_images:,} in one job")
        caller = get_caller(request)
        taken = jobs()
        pixels = job.count * model.manifest.image.pixels
        if caller.rate_limit is not None:
            # Else a job would be the way around it.
            caller.rate_limit.take(pixels)
        try:
            ticket = taken.add(job, caller.name)
        except TooManyJobs as error:
            if caller.rate_limit is not None:
                caller.rate_limit.put_back(pixels)
            raise Problem(
                429, "too-many-jobs", "Too many jobs wait", str(error), retry_after=60
            ) from error
        response.headers["location"] = f"/v1/jobs/{ticket.id}"
        return _answer(ticket, taken)

    @head_requests.get(routes, "/v1/jobs", summary="The jobs", response_model_exclude_none=True)
    def listed(request: Request) -> JobList:
        caller = get_caller(request)
        seen = [ticket for ticket in jobs().all() if _may_see(ticket, caller)]
        return JobList(data=[_answer(ticket, jobs(), files=False) for ticket in seen])

    @head_requests.get(
        routes, "/v1/jobs/{job}", summary="One job", response_model_exclude_none=True
    )
    def one(job: str, request: Request) -> JobAnswer:
        return _answer(own(job, request), jobs())

    @routes.delete(
        "/v1/jobs/{job}",
        summary="Cancel a job; forget one that has ended, with its files",
        response_model_exclude_none=True,
    )
    def cancel(job: str, request: Request) -> JobAnswer:
        own(job, request)
        return _answer(jobs().cancel(job), jobs(), files=False)

    @head_requests.get(
        routes,
        "/v1/jobs/{job}/files/{name}",
        summary="A file of a job",
        response_class=FileResponse,
        responses={200: {"content": {"application/octet-stream": {}}}},
    )
    def file(job: str, name: str, request: Request) -> FileResponse:
        ticket = own(job, request)
        for path in jobs().files(ticket):
            if path.name == name:
                return FileResponse(path, filename=name)
        raise Problem(
            404,
            "file-not-found",
            "No such file",
            f"the job has no file {name[:100]!r} that is whole",
        )

    return routes


def _may_see(ticket: QueuedJob, caller: Caller) -> bool:
    return caller.admin or ticket.owner == caller.name


def _answer(ticket: QueuedJob, queue: JobQueue, *, files: bool = True) -> JobAnswer:
    rate = ticket.images / ticket.seconds if ticket.seconds else None
    left = ticket.job.count - ticket.images - ticket.failed
    running = ticket.state is JobState.RUNNING
    return JobAnswer(
        id=ticket.id,
        state=ticket.state,
        model=f"{ticket.job.model}@{ticket.job.version}",
        count=ticket.job.count,
        images=ticket.images,
        failed=ticket.failed,
        bytes=ticket.bytes,
        created=ticket.created,
        started=ticket.started,
        ended=ticket.ended,
        images_per_second=rate and round(rate, 1),
        eta_s=round(left / rate, 1) if rate and running else None,
        error=ticket.error,
        files=[
            JobFile(
                name=path.name,
                bytes=path.stat().st_size,
                url=f"/v1/jobs/{ticket.id}/files/{path.name}",
            )
            for path in (queue.files(ticket) if files else [])
        ],
    )


def _invalid(message: str) -> Problem:
    """Say of a field what the command says of a flag."""
    flag = re.match(r"--([a-z-]+)", message)
    field = flag[1].replace("-", "_") if flag else "seeds"
    return invalid(field, re.sub(r"^--[a-z-]+: ", "", message).replace("--", ""))


def _not_found(name: str) -> Problem:
    return Problem(404, "job-not-found", "No such job", f"no job {name[:50]!r}")


def _of_add() -> dict[int | str, dict[str, Any]]:
    return {status: PROBLEMS[status] for status in (404, 422, 429)}
