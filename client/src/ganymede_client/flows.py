"""What takes several requests, or repeats them, written once for both clients.

A flow is a generator that does no I/O: it yields steps, and a client carries them out and sends the
result back. `Client` blocks for each step, `AsyncClient` awaits it.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ganymede_client.errors import (
    GanymedeError,
    JobCancelled,
    JobFailed,
    UnexpectedResponse,
    WaitTimedOut,
    problem_from,
)
from ganymede_client.files import write_files
from ganymede_client.records import Job, JobFile
from ganymede_client.retries import RetryPolicy
from ganymede_client.routes import jobs as routes
from ganymede_client.wire.calls import Call, Reply, Request

T = TypeVar("T")

# Which job the files of a folder belong to, so that files of two jobs never mix.
_MARKER = ".ganymede-job"
_FIRST_POLL_S, _MAX_POLL_S = 0.2, 5.0
_REPORT_S = 1.0
# A request that is repeated for longer is a warning: Python shows those by default.
_NOTICED_S = 5.0

_log = logging.getLogger("ganymede_client")


@dataclass(frozen=True)
class Exchange:
    """A step: send a request. The result is its `Reply`.

    Raises ConnectionFailed and RequestTimedOut. With `sink`, the content of a successful response
    is written there in parts instead of being returned.
    """

    request: Request
    sink: Sink | None = None


@dataclass(frozen=True)
class Pause:
    """A step: wait for `seconds`."""

    seconds: float


@dataclass(frozen=True)
class Repeated:
    """A step: send the request of `exchange`, repeated by the policy of the client.

    `exchange` is called for each attempt. The result is the `Reply`.
    """

    exchange: Callable[[], Exchange]


Step = Exchange | Pause | Repeated | Call[Any]
Flow = Generator[Step, Any, T]


def send(
    step: Call[T] | Repeated,
    policy: RetryPolicy,
    clock: Callable[[], float] = time.monotonic,
    jitter: Callable[[], float] = random.random,
) -> Flow[Any]:
    """Send a call, and parse its response, or another request; repeated by `policy`."""
    if isinstance(step, Repeated):
        return (yield from _repeat(step.exchange, frozenset(), policy, clock, jitter))
    exchange = Exchange(step.request)
    reply = yield from _repeat(lambda: exchange, step.accepts, policy, clock, jitter)
    return step.parse(reply)


def _repeat(
    step: Callable[[], Exchange],
    accepts: frozenset[int],
    policy: RetryPolicy,
    clock: Callable[[], float],
    jitter: Callable[[], float],
) -> Flow[Reply]:
    started, attempt = clock(), 0
    while True:
        exchange = step()
        size = exchange.sink.size if exchange.sink else 0
        try:
            reply: Reply = yield exchange
            if 200 <= reply.status < 300 or reply.status in accepts:
                return reply
            raise problem_from(reply)
        except GanymedeError as error:
            if exchange.sink and exchange.sink.size > size:
                # The policy limits the time without progress, not that of a large file.
                started, attempt = clock(), 0
            delay = policy.delay(error, exchange.request, attempt, jitter())
            waited = clock() - started
            if delay is None or waited + delay > policy.total_s:
                raise
            _log.log(
                logging.WARNING if waited + delay > _NOTICED_S else logging.INFO,
                "%s; repeated in %.1f s, until %.0f s after the first attempt",
                error,
                delay,
                policy.total_s,
            )
        yield Pause(delay)
        attempt += 1


def perform(call: Call[T]) -> Flow[T]:
    """Send a call from within a flow."""
    result: T = yield call
    return result


def jobs() -> Flow[list[Job]]:
    """List all jobs that the key may see, newest first, without their files."""
    page = yield from perform(routes.list_jobs(limit=1000))
    found = list(page.jobs)
    while page.after is not None:
        page = yield from perform(routes.list_jobs(limit=1000, after=page.after))
        found += page.jobs
    return found


def cancel_job(job: Job | str) -> Flow[Job]:
    """Cancel a job that waits or runs. One that has ended is returned, with its files."""
    current = yield from perform(routes.job(job))
    if current.has_ended:
        return current
    return (yield from perform(routes.delete_job(job)))


def wait_for_job(
    job: Job | str,
    *,
    progress: Callable[[Job], object] | None = None,
    timeout: float | None = None,
) -> Flow[Job]:
    """Wait until a job is done; return it with its files.

    Args:
        job: a job or its ID.
        progress: called with the job whenever it has changed; ``print`` prints lines.
        timeout: seconds; default: no limit.

    Raises JobFailed and JobCancelled, and WaitTimedOut if the job has not ended in time.
    """
    started, pause = time.monotonic(), _FIRST_POLL_S
    last: Job | None = None
    while True:
        current = yield from perform(routes.job(job))
        if progress is not None and current != last:
            progress(current)
        last = current
        if current.state == "failed":
            raise JobFailed(current)
        if current.state == "cancelled":
            raise JobCancelled(current)
        if current.has_ended:
            return current
        left = None if timeout is None else timeout - (time.monotonic() - started)
        if left is not None and left <= 0:
            raise WaitTimedOut(
                f"job {current.id} has not ended in {timeout:g} s: {current}", current
            )
        yield Pause(pause if left is None else min(pause, left))
        pause = min(1.5 * pause, _MAX_POLL_S)


@dataclass(frozen=True)
class Download:
    """The progress of a download: `bytes` of `total_bytes` of all files, and the current file."""

    name: str
    bytes: int
    total_bytes: int

    def __str__(self) -> str:
        """Return one line: ``images-00000.tar: 3.0 of 12.5 MB``."""
        return f"{self.name}: {self.bytes / 1e6:,.1f} of {self.total_bytes / 1e6:,.1f} MB"


def download_job(
    job: Job | str,
    folder: Path | str,
    *,
    progress: Callable[[Download], object] | None = None,
) -> Flow[list[Path]]:
    """Download the complete files of a job to a folder; return their paths.

    Files that are there already are not downloaded again, and one that was interrupted continues
    where it ended, now or in a later call. While the job runs, its finished files are downloaded.

    Args:
        job: a job or its ID.
        folder: created if it does not exist. It must not contain files of another job.
        progress: called with a `Download` each second and after each file; ``print`` prints lines.

    Raises FileExistsError before anything is written, if a file is not one of this job; and
    ValueError for a job whose results are at a URL.
    """
    current = yield from perform(routes.job(job))
    if current.output is not None:
        raise ValueError(f"the files of job {current.id} are in {current.output}; read them there")
    target = Path(folder)
    _assert_free(target, current)
    target.mkdir(parents=True, exist_ok=True)
    write_files([(target / _MARKER, f"{current.id}\n".encode())], overwrite=True)
    total, done = sum(file.bytes for file in current.files), 0
    for file in current.files:
        path = target / file.name
        if not path.exists():
            yield from _download(current, file, path, _reporter(progress, file, done, total))
        done += file.bytes
    return [target / file.name for file in current.files]


def _reporter(
    progress: Callable[[Download], object] | None, file: JobFile, before: int, total: int
) -> Callable[[int], None]:
    """Return a function of the size of `file` that calls `progress` each second and at the end.

    `before` are the bytes of the files before it, `total` those of all files.
    """
    reported = time.monotonic()

    def report(size: int) -> None:
        nonlocal reported
        is_due = time.monotonic() - reported >= _REPORT_S or size == file.bytes
        if progress is not None and is_due:
            reported = time.monotonic()
            progress(Download(file.name, before + size, total))

    return report


@dataclass
class Sink:
    """Appends the content of a response to a part file, of which `size` bytes are there."""

    path: Path
    report: Callable[[int], None]
    size: int = 0

    @contextmanager
    def opened(self, reply: Reply) -> Iterator[Callable[[bytes], None]]:
        """Open the file: at its end for the rest of the content, otherwise empty.

        Raises UnexpectedResponse for another range than the rest.
        """
        is_rest = reply.status == 206
        content_range = reply.headers.get("content-range", "")
        if is_rest and not content_range.startswith(f"bytes {self.size}-"):
            raise UnexpectedResponse(f"asked for the bytes from {self.size}, got {content_range!r}")
        self.size = self.size if is_rest else 0
        with self.path.open("ab" if is_rest else "wb") as file:

            def write(content: bytes) -> None:
                file.write(content)
                self.size += len(content)
                self.report(self.size)

            yield write


def _download(job: Job, file: JobFile, path: Path, report: Callable[[int], None]) -> Flow[None]:
    part = path.with_name(f".{file.name}.part")
    sink = Sink(part, report)

    def rest() -> Exchange:
        sink.size = part.stat().st_size if part.exists() else 0
        return Exchange(routes.file_request(job, file.name, sink.size), sink)

    if part.exists() and part.stat().st_size > file.bytes:
        part.unlink()
    if not part.exists() or part.stat().st_size < file.bytes:
        yield Repeated(rest)
    if (size := part.stat().st_size) != file.bytes:
        part.unlink()
        raise UnexpectedResponse(f"{file.name} has {file.bytes} bytes, and {size} were received")
    part.replace(path)


def _assert_free(folder: Path, job: Job) -> None:
    """Raise FileExistsError if files of `job` would mix with others in `folder`."""
    marker = folder / _MARKER
    owner = marker.read_text().strip() if marker.exists() else None
    if owner not in (None, job.id):
        raise FileExistsError(f"{folder} contains files of the job {owner}")
    for file in job.files:
        path = folder / file.name
        if Path(file.name).name != file.name or file.name.startswith("."):
            raise UnexpectedResponse(f"{file.name!r} is no valid file name")
        if path.exists() and (owner is None or path.stat().st_size != file.bytes):
            raise FileExistsError(f"{path} exists, and is not from the job {job.id}")
