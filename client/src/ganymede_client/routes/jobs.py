"""Jobs: data sets that take longer than a request may."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from ganymede_client import records
from ganymede_client.records import Job, JobPage
from ganymede_client.wire import parsing
from ganymede_client.wire.calls import Call, Request, fields, json_request, query, route, segment
from ganymede_client.wire.values import ClassSelector, Rank, Weights, class_value, named_weights


@route("POST", "/v1/jobs")
def submit_job(
    model: str,
    *,
    count: int | None = None,
    seed: int | None = None,
    seeds: str | None = None,
    classes: Literal["balanced"] | Sequence[ClassSelector] | Weights | None = None,
    truncation: float | None = None,
    mix: str | None = None,
    resize: str | None = None,
    directions: Mapping[str, float] | None = None,
    rank: Rank | None = None,
    format: Literal["webdataset", "parquet"] = "webdataset",  # noqa: A002 - the name of the field
    image: Literal["png", "jpeg", "webp"] = "png",
    shard_size: int | None = None,
    webhook: str | None = None,
) -> Call[Job]:
    """Start a job that generates `count` images.

    If the connection fails, it is not repeated, because the service may have accepted it: `jobs`
    lists the jobs.

    Args:
        model: ``name``, or ``name@version``.
        count: the number of images.
        seed: the seed of the first image; default: 0.
        seeds: a range ``A-B``, instead of `count` and `seed`.
        classes: ``balanced``, a list of classes to cycle through, or weights from which the class
            of each seed is drawn.
        truncation: only for models that support it.
        mix: layers that take the styles of a second seed: ``coarse``, ``middle``, ``fine`` or
            indices, separated by commas.
        resize: ``64x64``.
        directions: moves every image along directions of the model, as for `edit`.
        rank: the share of generated images to keep, as for `generate`.
        format: the format of the files of the job.
        image: how each image is encoded.
        shard_size: images per file.
        webhook: a URL that is notified when the job ends, with a signature by the Standard
            Webhooks specification. The operator of the service permits hosts.
    """
    body = fields(
        model=model,
        count=count,
        seed=seed,
        seeds=seeds,
        classes=class_value(classes),
        truncation=truncation,
        mix=mix,
        resize=resize,
        directions=directions and named_weights(directions),
        rank=rank,
        format=format,
        image=image,
        shard_size=shard_size,
        webhook=None if webhook is None else {"url": webhook},
    )
    request = json_request("POST", "/v1/jobs", body, repeatable=False)
    return Call(request, parsing.parsed(records.job))


@route("GET", "/v1/jobs")
def list_jobs(*, limit: int = 100, after: str | None = None) -> Call[JobPage]:
    """List jobs that the key may see, newest first, without their files.

    Args:
        limit: jobs per page.
        after: `JobPage.after` of the previous page.
    """
    request = Request("GET", "/v1/jobs", query(limit=limit, after=after))
    return Call(request, parsing.parsed(_page))


@route("GET", "/v1/jobs/{job}")
def job(job: Job | str) -> Call[Job]:
    """Return the state of a job, and the files that are complete."""
    return Call(Request("GET", _path(job)), parsing.parsed(records.job))


@route("DELETE", "/v1/jobs/{job}")
def delete_job(job: Job | str) -> Call[Job]:
    """Cancel a job; **delete** a job that has ended, with its files. See also `cancel_job`."""
    # Not repeatable: the second request would delete the files of the job that the first cancelled.
    request = Request("DELETE", _path(job), repeatable=False)
    return Call(request, parsing.parsed(records.job))


@route("GET", "/v1/jobs/{job}/files/{name}")
def job_file(job: Job | str, name: str) -> Call[bytes]:
    """Return the content of a file of a job. `download_job` writes all files to a folder."""
    return Call(file_request(job, name), lambda reply: reply.content)


def file_request(job: Job | str, name: str, start: int = 0) -> Request:
    """Return the request for a file of a job, from the byte `start`."""
    # A range is one of the bytes that are sent, so they must be those of the file.
    headers = {"accept-encoding": "identity"}
    if start:
        headers["range"] = f"bytes={start}-"
    return Request("GET", f"{_path(job)}/files/{segment(name)}", headers=headers)


def _path(job: Job | str) -> str:
    return f"/v1/jobs/{segment(job.id if isinstance(job, Job) else job)}"


def _page(document: Mapping[str, Any]) -> JobPage:
    following = document.get("next")
    after = parse_qs(urlsplit(following).query)["after"][0] if following else None
    return JobPage([records.job(each) for each in document["data"]], after)
