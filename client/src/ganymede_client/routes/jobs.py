"""Jobs: data sets that take longer than a request may."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from ganymede_client import records
from ganymede_client.records import Job, JobPage
from ganymede_client.wire import parsing
from ganymede_client.wire.calls import Call, Request, fields, json_request, query, route, segment
from ganymede_client.wire.uploads import ArchiveInput, archive_upload
from ganymede_client.wire.values import (
    ClassSelector,
    Rank,
    Weights,
    class_value,
    named_weights,
    to_json,
)


@route("POST", "/v1/jobs", left_out={"job": "the form has the other fields in it"})
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
    input: ArchiveInput | None = None,  # noqa: A002 - the name of the field
    mask: ArchiveInput | None = None,
    boxes: Sequence[Sequence[int]] | None = None,
    direction: str | None = None,
    prompts: Sequence[str] | None = None,
    temperature: float | None = None,
    prefix: str | None = None,
    max_length: int | None = None,
    output: str | None = None,
    format: Literal["webdataset", "parquet", "folder", "jsonl"] | None = None,  # noqa: A002
    image: Literal["png", "jpeg", "webp"] = "png",
    audio: Literal["wav", "flac", "npy"] | None = None,
    shard_size: int | None = None,
    webhook: str | None = None,
) -> Call[Job]:
    """Start a job that generates `count` images, sounds or texts, or an image from each of `input`.

    If the connection fails, it is not repeated, because the service may have accepted it: `jobs`
    lists the jobs.

    Args:
        model: ``name``, or ``name@version``.
        count: the number of images, sounds or texts.
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
        input: for an image-to-image model: a ZIP archive or tar file of images, as a path or an
            open file, which is uploaded; or the URL of such a file or of a folder of images.
        mask: for inpaint: masks with the names of the images, in the same forms as `input`.
        boxes: for inpaint, instead of `mask`: ``[x, y, width, height]`` in pixels.
        direction: for a model with several; default: its first.
        prompts: for a text-to-image model: image i has prompt i, from the first again if `count`
            is larger.
        temperature: for a model of texts, as for `text`; default: 1.
        prefix: for a model of texts: the beginning of every text.
        max_length: for a model of texts: the maximum number of tokens after the prefix.
        output: the URL of the folder for the results; default: the service keeps them.
        format: the format of the files of the job; default: ``webdataset``, or ``jsonl`` for texts.
            ``folder`` only with `output`.
        image: how each image is encoded.
        audio: how audio is encoded, for a model that returns audio; default: ``wav``.
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
        input=input if _is_url(input) else None,
        mask=mask if _is_url(mask) else None,
        boxes=boxes,
        direction=direction,
        prompts=prompts,
        temperature=temperature,
        prefix=prefix,
        max_length=max_length,
        output=output,
        format=format,
        image=image,
        audio=audio,
        shard_size=shard_size,
        webhook=None if webhook is None else {"url": webhook},
    )
    archives = {"input": input, "mask": mask}
    files = [
        archive_upload(file, name)
        for name, file in archives.items()
        if file is not None and not _is_url(file)
    ]
    if not files:
        request = json_request("POST", "/v1/jobs", body, repeatable=False)
    else:
        form = {"job": to_json(body).decode()}
        request = Request("POST", "/v1/jobs", form=form, files=files, repeatable=False)
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


def _is_url(value: object) -> bool:
    return isinstance(value, str) and "://" in value


def _path(job: Job | str) -> str:
    return f"/v1/jobs/{segment(job.id if isinstance(job, Job) else job)}"


def _page(document: Mapping[str, Any]) -> JobPage:
    following = document.get("next")
    after = parse_qs(urlsplit(following).query)["after"][0] if following else None
    return JobPage([records.job(each) for each in document["data"]], after)
