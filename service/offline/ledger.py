"""Records which shards of a job are done, so that an interrupted job resumes without duplicates.

While a job runs, ``.ganymede/`` in the output folder holds the job and one file per finished shard.
The file is written after the shard itself. Its first line is the shard's record; each further line
is the metadata of one image. When all shards are done, the lines become ``metadata.jsonl`` and
``.ganymede/`` is removed. An output folder belongs to one job.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError

from service.offline.job import JobError, SamplingJob, as_text
from service.offline.stores import STATE_FOLDER, Store

JOB_FILE = "job.json"
METADATA_FILE = "metadata.jsonl"
SUMMARY_FILE = "summary.json"
CONTACT_SHEET_FILE = "contact-sheet.png"
_UNFINISHED_JOB = f"{STATE_FOLDER}/{JOB_FILE}"
_SHARDS = f"{STATE_FOLDER}/shards"
_LOCK = f"{STATE_FOLDER}/lock"
# In the first line of the file of a shard, besides its record.
_PROBLEMS = "problems"


class OutputConflict(JobError):
    """The output folder belongs to another job, or contains other files."""


@dataclass(frozen=True)
class ShardRecord:
    """A finished shard. `failed` lists the seeds whose images could not be generated."""

    shard: int
    images: int
    bytes: int
    failed: tuple[int, ...] = ()


def as_started(job: SamplingJob, store: Store) -> SamplingJob:
    """Return `job` as the output folder has it, if an earlier version without marks started it.

    Its images get no marks either: all files of a job are alike. Raises StoreError.
    """
    unmarked = job.model_copy(update={"marked": False})
    for name in (JOB_FILE, _UNFINISHED_JOB):
        with suppress(FileNotFoundError, ValidationError):
            if SamplingJob.model_validate_json(store.read(name)) == unmarked:
                return unmarked
    return job


class Ledger:
    """The state of one job in its output folder. All methods raise StoreError."""

    def __init__(self, store: Store, job: SamplingJob) -> None:
        self._store = store
        self._job = job
        self._digits = max(5, len(str(job.shards - 1)))

    def is_complete(self) -> bool:
        """True if this job is already done. Raises OutputConflict."""
        for name, is_final in ((JOB_FILE, True), (_UNFINISHED_JOB, False)):
            try:
                text = self._store.read(name)
            except FileNotFoundError:
                continue
            self._assert_same_job(text)
            if is_final and self._store.exists(SUMMARY_FILE):
                return True
        own = (STATE_FOLDER, JOB_FILE, METADATA_FILE, CONTACT_SHEET_FILE)
        foreign = [name for name in self._store.names() if name not in own]
        if foreign and not self._store.exists(_UNFINISHED_JOB):
            raise OutputConflict(
                f"{self._store.url} is not empty ({foreign[0]}, …) and holds no unfinished job; "
                "choose another folder"
            )
        return False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder against other processes on this machine. Raises OutputConflict."""
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
                    f"another process is writing to {self._store.url}; wait for it, or stop it"
                ) from error
            yield

    def begin(self) -> None:
        """Save the job, and remove temporary files of a killed process."""
        self._store.clear_temporary()
        self._store.write(_UNFINISHED_JOB, as_text(self._job).encode())

    def record(
        self,
        record: ShardRecord,
        lines: list[dict[str, Any]],
        problems: Mapping[str, str] | None = None,
    ) -> None:
        """Record a finished shard; `lines` holds the metadata of each image.

        `problems` are the reasons why inputs have no output, by the name of the input.
        """
        first = asdict(record) | ({_PROBLEMS: dict(problems)} if problems else {})
        entries = [json.dumps(each, separators=(",", ":")) for each in [first, *lines]]
        self._store.write(self._shard_file(record.shard), ("\n".join(entries) + "\n").encode())

    def records(self) -> dict[int, ShardRecord]:
        """Return the records of the finished shards, by number."""
        records = {}
        for name in self._store.names(_SHARDS):
            number = name.partition(".")[0]
            if number.isdigit():
                record = self._read_record(int(number))
                if record is not None:
                    records[record.shard] = record
        return records

    def metadata(self) -> Iterator[bytes]:
        """Yield the metadata lines of all images, one shard at a time."""
        for shard in range(self._job.shards):
            yield self._store.read(self._shard_file(shard)).partition(b"\n")[2]

    def problems(self, records: Sequence[ShardRecord]) -> dict[str, str]:
        """Return why inputs have no output, by their names, for the shards of `records`."""
        found: dict[str, str] = {}
        for record in records:
            if record.failed:
                line = self._store.read(self._shard_file(record.shard)).partition(b"\n")[0]
                found |= json.loads(line).get(_PROBLEMS, {})
        return found

    def seeds(self, numbers: Sequence[int]) -> dict[int, int]:
        """Return the seeds of images by their numbers, without those that failed."""
        wanted, seeds = set(numbers), {}
        for shard in sorted({number // self._job.shard_size for number in wanted}):
            for line in self._store.read(self._shard_file(shard)).splitlines()[1:]:
                fields = json.loads(line)
                if fields["number"] in wanted:
                    seeds[fields["number"]] = fields["seed"]
        return seeds

    def complete(self, summary: dict[str, Any], sheet: bytes | None) -> None:
        """Write the final files. The summary comes last: it marks the job as done.

        `sheet` is the contact sheet, or None without one.
        """
        with self._store.new(METADATA_FILE) as path, path.open("wb") as out:
            for lines in self.metadata():
                out.write(lines)
        if sheet is not None:
            self._store.write(CONTACT_SHEET_FILE, sheet)
        self._store.write(JOB_FILE, as_text(self._job).encode())
        self._store.sync()
        self._store.write(SUMMARY_FILE, (json.dumps(summary, indent=2) + "\n").encode())
        self._store.remove_folder(STATE_FOLDER)

    def _read_record(self, shard: int) -> ShardRecord | None:
        line = self._store.read(self._shard_file(shard)).partition(b"\n")[0]
        try:
            fields = json.loads(line)
            fields.pop(_PROBLEMS, None)
            return ShardRecord(**{**fields, "failed": tuple(fields["failed"])})
        except (ValueError, TypeError, KeyError):
            return None  # An unreadable record does not count: the shard is built again.

    def _shard_file(self, shard: int) -> str:
        return f"{_SHARDS}/{shard:0{self._digits}}.jsonl"

    def _assert_same_job(self, text: bytes) -> None:
        try:
            other = SamplingJob.model_validate_json(text)
        except ValidationError as error:
            raise OutputConflict(
                f"{self._store.url} holds a job that cannot be read; choose another folder"
            ) from error
        if other == self._job:
            return
        own, existing = self._job.model_dump(mode="json"), other.model_dump(mode="json")
        name = next(name for name in own if own[name] != existing[name])
        raise OutputConflict(
            f"{self._store.url} holds another job: its {name.replace('_', ' ')} is "
            f"{existing[name]}, not {own[name]}; choose another folder"
        )
