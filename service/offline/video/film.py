"""Sends a film through an image-to-image model, frame by frame, with bounded memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Self

import numpy as np

from service.offline.halving import Stopped, run_in_halves
from service.offline.image_to_image import images_per_batch
from service.offline.job import JobFailed
from service.offline.video.film_job import (
    SEGMENT_FRAMES,
    FilmJob,
    FilmLedger,
    all_times,
)
from service.runtime.errors import first_line
from service.runtime.files import replacing
from service.runtime.generation import execute
from service.runtime.image_to_image import image_to_image_plan, prepare
from service.runtime.images.decoding import DecodedImage
from service.runtime.images.encoding import Pixels, resized
from service.runtime.models.model import Model
from service.runtime.models.parts.graphs import GENERATOR
from service.runtime.parallel import map_in_order
from service.runtime.video import ffmpeg
from service.runtime.video.assembly import Times, assemble
from service.runtime.video.containers import CONTAINERS
from service.runtime.video.encoding import VideoEncoder, VideoSpec, to_yuv
from service.runtime.video.film import FilmDamaged, FilmFrame, FilmReader

# Called with the number of finished frames, and the number of all, if known.
FilmProgress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class FilmSummary:
    """A finished film. `notes` state what of the original was left out or changed."""

    frames: int
    bytes: int
    notes: tuple[str, ...]


class FilmTask:
    """Runs one job, or what remains of it."""

    def __init__(
        self,
        model: Model,
        job: FilmJob,
        reader: FilmReader,
        ledger: FilmLedger,
        mask: Pixels | None = None,
    ) -> None:
        """Use `model` on the frames of `reader`; `mask` ``[H, W]`` is white where to inpaint.

        Raises ImageMismatch if the frames or the mask do not fit the model.
        """
        self._model, self._job, self._reader, self._ledger = model, job, reader, ledger
        self._mask = mask
        info = reader.info
        blank = np.zeros((info.height, info.width, 3), np.uint8)
        self._batch_size = images_per_batch(model, prepare(model, DecodedImage(blank, None), mask))

    def run(
        self, on_progress: FilmProgress, should_stop: Callable[[], bool], *, partial: bool
    ) -> FilmSummary:
        """Write the remaining segments, and then the film.

        With `partial`, the film ends before the first frame that cannot be read. Raises Stopped,
        FilmDamaged, JobFailed and CannotWrite; finished segments are kept.
        """
        notes = []
        with self._ledger.locked():
            try:
                self._write_segments(on_progress, should_stop)
            except FilmDamaged as error:
                if not partial:
                    raise
                notes.append(str(error))
            segments = self._ledger.segments()
            if not segments:
                raise JobFailed(f"{self._reader.path} has no frame that can be read")
            out, job = self._ledger.out, self._job
            av = ffmpeg.load()
            times = all_times(segments)
            try:
                with replacing(out) as path:
                    notes += assemble(
                        self._reader.path,
                        self._reader.info,
                        [segment.path for segment in segments],
                        times,
                        path,
                        CONTAINERS[job.container],
                        job.comment,
                    )
            except av.error.FFmpegError as error:
                raise JobFailed(f"{out} cannot be written: {first_line(error)}") from error
            self._ledger.remove()
        return FilmSummary(len(times.pts), out.stat().st_size, tuple(notes))

    def _write_segments(self, on_progress: FilmProgress, should_stop: Callable[[], bool]) -> None:
        """Write the remaining segments. Raises FilmDamaged after the last frame before the damage,
        when all frames up to it are recorded.
        """
        # The last segment of a film is shorter. It is written again, because a film that ended at
        # a damaged frame has one, too.
        full = [each for each in self._ledger.segments() if len(each.times.pts) == SEGMENT_FRAMES]
        done, total = SEGMENT_FRAMES * len(full), self._reader.info.frames
        on_progress(done, total)
        writer = _SegmentWriter(self._ledger, self._reader, self._job, len(full))
        batches = _Batches(self._reader.frames(done), self._batch_size)
        with writer:
            for batch, outputs in map_in_order(self._render, batches, self._model.plan.workers):
                for frame, pixels in zip(batch, outputs, strict=True):
                    if should_stop():
                        raise Stopped
                    writer.add(frame, pixels)
                done += len(batch)
                on_progress(done, total and max(done, total))
            writer.finish()
        if batches.damage is not None:
            raise batches.damage
        on_progress(done, done)

    def _render(self, batch: Sequence[FilmFrame]) -> tuple[Sequence[FilmFrame], list[Pixels]]:
        outputs = run_in_halves(batch, self._run_batch, _fail)
        rendered = [output for output in outputs if output is not None]
        if self._job.resize is not None:
            rendered = [resized(output, *self._job.resize) for output in rendered]
        return batch, rendered

    def _run_batch(self, batch: Sequence[FilmFrame]) -> list[Pixels]:
        translations = [
            prepare(self._model, DecodedImage(frame.pixels, None), self._mask) for frame in batch
        ]
        max_rows = self._model.max_rows(translations[0].tile_pixels)
        role = self._job.direction or GENERATOR
        return execute(image_to_image_plan(translations, role, max_rows), self._model.run)


def _fail(frame: FilmFrame, error: Exception) -> None:
    raise JobFailed(f"frame {frame.number:,} cannot be processed: {first_line(error)}") from error


class _Batches:
    """Consecutive frames in batches that do not cross segments. They end before a frame that cannot
    be read; `damage` is then the error.
    """

    def __init__(self, frames: Iterator[FilmFrame], size: int) -> None:
        self._frames, self._size = frames, size
        self.damage: FilmDamaged | None = None

    def __iter__(self) -> Iterator[list[FilmFrame]]:
        batch: list[FilmFrame] = []
        try:
            for frame in self._frames:
                batch.append(frame)
                is_segment_end = (frame.number + 1) % SEGMENT_FRAMES == 0
                if len(batch) == self._size or is_segment_end:
                    yield batch
                    batch = []
        except FilmDamaged as error:
            self.damage = error
        if batch:
            yield batch


class _Abandoned(Exception):
    """A segment is not finished: its temporary file is removed."""


class _SegmentWriter:
    """Encodes frames into segments, each of which is recorded when it is complete."""

    def __init__(self, ledger: FilmLedger, reader: FilmReader, job: FilmJob, number: int) -> None:
        self._ledger, self._info, self._job, self._number = ledger, reader.info, job, number
        # Matroska keeps the packets of every codec; the times are kept beside it.
        self._container = replace(CONTAINERS[job.container], muxer="matroska")
        self._encoder: VideoEncoder | None = None
        self._files = ExitStack()
        self._pts: list[int] = []
        self._last_duration = 0

    def add(self, frame: FilmFrame, pixels: Pixels) -> None:
        """Encode a frame. Raises CannotWrite and JobFailed."""
        if self._encoder is None:
            path = self._files.enter_context(replacing(self._ledger.segment_path(self._number)))
            self._encoder = self._open(path, pixels)
        self._encoder.add(to_yuv(pixels, self._info.color), len(self._pts))
        self._pts.append(frame.pts)
        self._last_duration = frame.duration
        if len(self._pts) == SEGMENT_FRAMES:
            self.finish()

    def finish(self) -> None:
        """End the current segment."""
        if self._encoder is None:
            return
        self._encoder.close()
        self._encoder = None
        self._files.close()
        self._ledger.record(self._number, Times(self._pts, self._last_duration))
        self._number, self._pts = self._number + 1, []

    def __enter__(self) -> Self:
        """Remove the unfinished segment at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        self._encoder = None
        with contextlib.suppress(_Abandoned), self._files:
            raise _Abandoned

    def _open(self, path: Path, pixels: Pixels) -> VideoEncoder:
        info = self._info
        height, width = pixels.shape[:2]
        # The shape of the output as it is shown, also if the model changes the proportions.
        aspect = info.pixel_aspect * Fraction(info.width * height, info.height * width)
        spec = VideoSpec(
            width,
            height,
            info.rate,
            quality=self._job.quality,
            color=info.color,
            pixel_aspect=aspect.limit_denominator(10_000),
            key_frames=SEGMENT_FRAMES,
        )
        return VideoEncoder(path, self._container, spec)
