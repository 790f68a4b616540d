"""What is done of a job, so that it goes on where it was interrupted, with nothing twice.

While a job is under way, ``.ganymede/`` beside its output holds the job, and a file for each shard
that has been written, which comes after the shard itself: a line about the shard, then one for
each of its pictures. When all are there they become ``metadata.jsonl``, a line for each picture,
and the folder goes. In one folder there is one job.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError

from service.offline.job import JobError, SamplingJob, as_text
from service.offline.stores import STATE_FOLDER, Store

JOB_FILE = "job.json"
METADATA_FILE = "metadata.jsonl"
SUMMARY_FILE = "summary.json"
SHEET_FILE = "contact-sheet.png"
_KEPT_JOB = f"{STATE_FOLDER}/{JOB_FILE}"
_SHARDS = f"{STATE_FOLDER}/shards"
_LOCK = f"{STATE_FOLDER}/lock"


class OutputConflict(JobError):
    """The output folder holds something else."""


@dataclass(frozen=True)
class ShardRecord:
    """A shard that has been written. `failed` are the seeds that the model could not make."""

    shard: int
    images: int
    bytes: int
    failed: tuple[int, ...] = ()


class Ledger:
    """The state of one job in its output folder. Raises what Store raises."""

    def __init__(self, store: Store, job: SamplingJob) -> None:
        self._store = store
        self._job = job
        self._digits = max(5, len(str(job.shards - 1)))

    def is_complete(self) -> bool:
        """Tell whether this job was done already. Raises OutputConflict."""
        for name, complete in ((JOB_FILE, True), (_KEPT_JOB, False)):
            try:
                text = self._store.read(name)
            except FileNotFoundError:
                continue
            self._assert_the_same(text)
            if complete and self._store.exists(SUMMARY_FILE):
                return True
        ours = (STATE_FOLDER, JOB_FILE, METADATA_FILE, SHEET_FILE)
        others = [name for name in self._store.names() if name not in ours]
        if others and not self._store.exists(_KEPT_JOB):
            raise OutputConflict(
                f"{self._store.url} is not empty, and what is in it ({others[0]}, …) is of no job "
                "that can go on here; choose another folder"
            )
        return False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes on this machine from the same folder. Raises OutputConflict."""
        if self._store.local is None:
            yield
            return
        import fcntl  # noqa: PLC0415

        path = self._store.local / _LOCK
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise OutputConflict(
                    f"another process is at work in {self._store.url}; let it end, or end it"
                ) from error
            yield

    def begin(self) -> None:
        """Note the job, and remove what a process that was killed has left."""
        self._store.clear_temporary()
        self._store.write(_KEPT_JOB, as_text(self._job).encode())

    def note(self, record: ShardRecord, lines: list[dict[str, Any]]) -> None:
        """Note a shard as done; `lines` say it of each picture."""
        said = [json.dumps(each, separators=(",", ":")) for each in [asdict(record), *lines]]
        self._store.write(self._shard_file(record.shard), ("\n".join(said) + "\n").encode())

    def done(self) -> dict[int, ShardRecord]:
        """Return the shards that are done."""
        found = {}
        for name in self._store.names(_SHARDS):
            number = name.partition(".")[0]
            if number.isdigit():
                record = self._record(int(number))
                if record is not None:
                    found[record.shard] = record
        return found

    def metadata(self) -> Iterator[bytes]:
        """Yield the lines about all pictures, a shard at a time."""
        for shard in range(self._job.shards):
            yield self._store.read(self._shard_file(shard)).partition(b"\n")[2]

    def finish(self, summary: dict[str, Any], sheet: bytes) -> None:
        """Put the files that stay in place, the last of which says that all is done."""
        with self._store.new(METADATA_FILE) as path, path.open("wb") as out:
            for lines in self.metadata():
                out.write(lines)
        self._store.write(SHEET_FILE, sheet)
        self._store.write(JOB_FILE, as_text(self._job).encode())
        self._store.settle()
        self._store.write(SUMMARY_FILE, (json.dumps(summary, indent=2) + "\n").encode())
        self._store.remove_folder(STATE_FOLDER)

    def _record(self, shard: int) -> ShardRecord | None:
        line = self._store.read(self._shard_file(shard)).partition(b"\n")[0]
        try:
            said = json.loads(line)
            return ShardRecord(**{**said, "failed": tuple(said["failed"])})
        except (ValueError, TypeError, KeyError):
            return None  # Made again: only what can be read counts as done.

    def _shard_file(self, shard: int) -> str:
        return f"{_SHARDS}/{shard:0{self._digits}}.jsonl"

    def _assert_the_same(self, text: bytes) -> None:
        try:
            other = SamplingJob.model_validate_json(text)
        except ValidationError as error:
            raise OutputConflict(
                f"{self._store.url} holds a job that cannot be read; choose another folder"
            ) from error
        if other == self._job:
            return
        ours, theirs = self._job.model_dump(mode="json"), other.model_dump(mode="json")
        name = next(name for name in ours if ours[name] != theirs[name])
        raise OutputConflict(
            f"{self._store.url} holds another job: its {name.replace('_', ' ')} is "
            f"{theirs[name]}, and this one's {ours[name]}; choose another folder"
        )
