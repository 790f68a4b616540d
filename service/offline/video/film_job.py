"""A film through an image-to-image model, as a job: its parameters and what is done of it.

While a job runs, a folder beside the output holds the job, and the encoded segments with the times
of their frames. A segment counts when its times are written. The output appears when it is
complete.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.offline.job import JobError
from service.runtime.files import open_regular, replacing
from service.runtime.images.encoding import KEYWORD
from service.runtime.video import ffmpeg
from service.runtime.video.assembly import Times
from service.runtime.video.metadata import video_provenance

# Frames of a segment, the unit of resuming, and the distance of key frames.
SEGMENT_FRAMES = 48
_JOB_FILE = "job.json"
_LOCK = "lock"
# Bytes at both ends of a film that its fingerprint covers.
_FINGERPRINT_BYTES = 2**22


class FilmJob(BaseModel):
    """The parameters of a job. They determine its output completely."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    version: str
    digest: str
    task: str
    direction: str | None = None
    film: str
    film_fingerprint: str
    container: str
    quality: Annotated[int, Field(ge=1, le=100)]
    resize: tuple[int, int] | None = None
    boxes: tuple[tuple[int, int, int, int], ...] | None = None
    mask_fingerprint: str | None = None

    @property
    def fingerprint(self) -> str:
        """A hash of all fields: equal for jobs with the same output."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    @property
    def comment(self) -> str:
        """The metadata of the output."""
        fields = self.model_dump(mode="json", exclude_none=True)
        return f"{KEYWORD} {json.dumps({**fields, 'job': self.fingerprint})}"


@dataclass(frozen=True)
class Segment:
    """A finished segment: its file, and the times of its frames."""

    path: Path
    times: Times


class FilmLedger:
    """What is done of a job."""

    def __init__(self, out: Path, job: FilmJob) -> None:
        self.out, self.job = out, job
        self.folder = out.with_name(f"{out.name}.parts")

    def is_complete(self) -> bool:
        """True if the output is that of this job. Raises JobError if another file is there, or the
        folder of another job.
        """
        if self.out.exists():
            if _job_of(self.out) == self.job.fingerprint:
                return True
            raise JobError(f"--out: {self.out} exists; choose another name")
        try:
            other = FilmJob.model_validate_json((self.folder / _JOB_FILE).read_bytes())
        except FileNotFoundError:
            if self.folder.is_dir() and {path.name for path in self.folder.iterdir()} - {_LOCK}:
                raise JobError(f"--out: {self.folder} exists and holds no unfinished job") from None
            return False
        except (OSError, ValidationError) as error:
            raise JobError(
                f"--out: {self.folder} holds a job that cannot be read; remove it, or choose "
                "another name"
            ) from error
        own, existing = self.job.model_dump(), other.model_dump()
        for name, value in own.items():
            if existing[name] != value:
                raise JobError(
                    f"--out: {self.folder} holds another unfinished job: its "
                    f"{name.replace('_', ' ')} is {existing[name]}, not {value}; choose another "
                    "name, or remove the folder"
                )
        return False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Save the job, and lock its folder against other processes. Raises JobError."""
        import fcntl  # noqa: PLC0415 - not on Windows

        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / _LOCK).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise JobError(f"another process is writing {self.out}; wait for it") from error
            for leftover in self.folder.glob(".*"):
                leftover.unlink()
            with replacing(self.folder / _JOB_FILE) as path:
                path.write_text(self.job.model_dump_json(indent=2) + "\n")
            yield

    def segment_path(self, number: int) -> Path:
        """Return the path of the video of a segment."""
        return self.folder / f"{number:06}.mkv"

    def record(self, number: int, times: Times) -> None:
        """Record a segment whose video is written."""
        with replacing(self._times_path(number)) as path:
            path.write_text(json.dumps({"pts": list(times.pts), "last": times.last_duration}))

    def segments(self) -> list[Segment]:
        """Return the finished segments from the start of the film on."""
        found: list[Segment] = []
        while True:
            number = len(found)
            try:
                fields = json.loads(self._times_path(number).read_text())
                times = Times(tuple(fields["pts"]), int(fields["last"]))
            except (OSError, ValueError, KeyError, TypeError):
                return found
            if not self.segment_path(number).is_file():
                return found
            found.append(Segment(self.segment_path(number), times))
            if len(times.pts) < SEGMENT_FRAMES:
                return found

    def remove(self) -> None:
        """Remove the folder of a job that is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _times_path(self, number: int) -> Path:
        return self.folder / f"{number:06}.json"


def all_times(segments: Sequence[Segment]) -> Times:
    """Return the times of the frames of all segments."""
    pts = [each for segment in segments for each in segment.times.pts]
    return Times(pts, segments[-1].times.last_duration)


def fingerprint_of(path: Path) -> str:
    """Return a hash of the size, the first and the last bytes of a file. Raises OSError."""
    with open_regular(path) as file:
        size = file.seek(0, 2)
        digest = hashlib.sha256(f"{size}".encode())
        for start in (0, max(0, size - _FINGERPRINT_BYTES)):
            file.seek(start)
            digest.update(file.read(_FINGERPRINT_BYTES))
    return digest.hexdigest()[:16]


def _job_of(path: Path) -> Any:
    """Return the fingerprint of the job that wrote a film, or None."""
    av = ffmpeg.load()
    try:
        with av.open(str(path), metadata_errors="replace") as film:
            return (video_provenance(film) or {}).get("job")
    except av.error.FFmpegError:
        return None
