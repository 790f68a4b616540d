"""`POST /v1/jobs` as a form: a job for an image-to-image model, with the images in an archive.

The archive is written to the jobs folder as it arrives, so that it is never in memory as a whole.
"""

from __future__ import annotations

import contextlib
from typing import Any, BinaryIO

from fastapi import APIRouter, Request
from fastapi.datastructures import UploadFile
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from service.api.field_errors import describe_field_errors
from service.api.middleware.authentication import get_caller
from service.api.middleware.early_responses import send_problem
from service.api.middleware.errors import BodyRefused
from service.api.middleware.json_bodies import JsonLimits, assert_bounded, parse
from service.api.problems import Problem, client_disconnected, invalid, not_json, to_problem
from service.api.routes.jobs import (
    accepting_queue,
    limit_errors,
    owner_of,
    submit,
    table_errors,
)
from service.api.schemas.jobs import JobRequest
from service.api.state import state_of
from service.offline.inputs import archive_kind
from service.offline.queue.runner import JobQueue
from service.offline.queue.uploads import Upload
from service.offline.stores import DiskFull
from service.settings import Settings

_FILES = ("input", "mask")
# Nesting depth of the job. Valid values are at most three deep.
_MAX_DEPTH = 16
# Bytes between two checks of the free space.
_SPACE_STEP = 16 * 2**20


class _UploadRoute(APIRoute):
    """A route for forms; other requests are left to the route for JSON."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        media_types = [value for name, value in scope["headers"] if name == b"content-type"]
        is_form = media_types[:1] and media_types[0].lower().startswith(b"multipart/form-data")
        return super().matches(scope) if is_form else (Match.NONE, {})


router = APIRouter(route_class=_UploadRoute)


# The form is described with the route for JSON, which has the same path and method.
@router.post("/v1/jobs", include_in_schema=False, response_model=None)
async def add_uploaded_job(request: Request) -> Response:
    """Receive the files of a job, validate it and add it to the queue."""
    try:
        return await _receive(request)
    except BodyRefused:
        raise
    except Exception as error:
        problem = to_problem(error)
        if problem is None:
            raise
        # The rest of the body may be large.
        return _Refusal(problem)


class _Refusal(Response):
    """A response that does not wait for the rest of the body."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(status_code=problem.status)
        self._problem = problem

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_problem(self._problem, scope, receive, send)


async def _receive(request: Request) -> Response:
    state = state_of(request)
    if not state.settings.max_job_upload:
        raise Problem(
            403,
            "uploads-not-allowed",
            "Uploads are not allowed",
            "the operator of this service accepts no images for jobs; see --max-job-upload",
        )
    state.ready_catalog()
    queue = await run_in_threadpool(_assert_accepts, request)
    with contextlib.ExitStack() as stack:
        upload = stack.enter_context(queue.locations.uploads.receiving())
        parser = _UploadParser(request, queue, upload, state.settings)
        try:
            form = await parser.parse()
        except (MultiPartException, KeyError, ValueError) as error:
            raise Problem(
                400, "invalid-form", "The form is invalid", str(error)[:200] or "it is incomplete"
            ) from error
        except (DiskFull, OSError) as error:
            raise _no_space(error) from error
        except ClientDisconnect as error:
            raise client_disconnected() from error
        finally:
            parser.close()
        return await submit(_body(form, upload), request, upload)


def _assert_accepts(request: Request) -> JobQueue:
    """Return the queue, if it would accept a job of the caller. Raises Problem (429, 503)."""
    queue = accepting_queue(request)
    with table_errors(), limit_errors():
        queue.assert_accepts(owner_of(get_caller(request)))
    return queue


def _no_space(error: Exception) -> Problem:
    reason = f"the upload cannot be stored: {getattr(error, 'strerror', None) or error}"
    return Problem(503, "no-jobs-taken", "Jobs are not available", reason, retry_after=60)


def _body(form: FormData, upload: Upload) -> JobRequest:
    """Return the job of a form. Raises Problem (400, 422)."""
    fields: dict[str, str] = {}
    for key, value in form.multi_items():
        if isinstance(value, str):
            if key in _FILES:
                raise invalid(key, "expected a file: add a filename to this part")
            if key != "job":
                raise invalid(key[:50], "unexpected field: the fields are job, input and mask")
            if key in fields:
                raise invalid(key, "is given twice")
            fields[key] = value
    if "input" not in upload.names:
        raise invalid("input", "missing: a ZIP archive or tar file of images")
    if "job" not in fields:
        raise invalid("job", "missing: the fields of the job as JSON")
    data = fields["job"].encode("utf-8", "surrogatepass")
    assert_bounded(data, JsonLimits(_MAX_DEPTH))
    try:
        document: Any = parse(data)
    except (ValueError, RecursionError) as error:
        raise not_json(error) from error
    try:
        body = JobRequest.model_validate(document)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False, include_context=False)
        located = [{**each, "loc": ("body", *each["loc"])} for each in errors]
        first = describe_field_errors(located, document)[0]
        raise invalid(first["field"][:100], first["message"]) from error
    for name in _FILES:
        if getattr(body, name) is not None:
            raise invalid(name, "give a URL or a file, not both")
    return body


class _UploadParser(MultiPartParser):
    """Writes the files of a form to the folder of an upload, as they arrive."""

    def __init__(
        self, request: Request, queue: JobQueue, upload: Upload, settings: Settings
    ) -> None:
        super().__init__(request.headers, request.stream(), max_files=len(_FILES), max_fields=5)
        self._upload, self._queue = upload, queue
        self._left = self._most = int(settings.max_job_upload)
        self._files: dict[str, tuple[_Writer, contextlib.ExitStack]] = {}

    def on_headers_finished(self) -> None:
        """Open the file of a part. Raises Problem (422)."""
        super().on_headers_finished()
        part = self._current_part
        if part.file is None:
            return
        if part.field_name not in _FILES:
            raise invalid(part.field_name[:50], "unexpected file: the files are input and mask")
        if part.field_name in self._upload.names:
            raise invalid(part.field_name, "is given twice")
        name = part.file.filename or ""
        if archive_kind(name) is None:
            raise invalid(part.field_name, "expected a file whose name ends in .zip or .tar")
        part.file = UploadFile(self._opened(part.field_name, name), size=0, filename=name)

    def _opened(self, field: str, name: str) -> Any:
        stack = contextlib.ExitStack()
        file = stack.enter_context(self._upload.writing(field, name))
        writer = _Writer(file, self._assert_room)
        self._files[field] = writer, stack
        return writer

    def _assert_room(self, size: int) -> None:
        """Count bytes before they are written. Raises Problem (413) and DiskFull."""
        before, self._left = self._left, self._left - size
        if self._left < 0:
            raise Problem(
                413,
                "body-too-large",
                "The body is too large",
                f"the limit for the images of a job is {self._most:,} bytes",
            )
        if before == self._most or before // _SPACE_STEP != self._left // _SPACE_STEP:
            self._queue.assert_space()

    async def parse(self) -> FormData:
        """Parse the form; the files exist then."""
        form = await super().parse()
        files, self._files = self._files, {}
        for _, stack in files.values():
            await run_in_threadpool(stack.close)
        return form

    def close(self) -> None:
        """Close files that are incomplete; the folder of the upload is deleted."""
        for writer, _ in self._files.values():
            writer.close()


class _Writer:
    """A file that is written in parts, in threads."""

    def __init__(self, file: BinaryIO, assert_room: Any) -> None:
        self._file, self._assert_room = file, assert_room

    def write(self, data: bytes) -> int:
        """Write a part of the file. Raises Problem, DiskFull and OSError."""
        self._assert_room(len(data))
        return self._file.write(data)

    def seek(self, _: int) -> None:
        """Do nothing: the file is complete, and is not read here."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()
