"""Pictures made of pictures: read, run, whole or in tiles, and handed on in their order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from service.offline.inputs import open_inputs
from service.offline.job import JobItem, JobItems, SamplingJob
from service.runtime.images.decoding import (
    DecodedImage,
    ImageDecodeError,
    box_mask,
    decode_image,
    decode_mask,
)
from service.runtime.images.encoding import Pixels
from service.runtime.images.image_to_image import ImageMismatch, Translation, digest_of, prepare
from service.runtime.models.manifest import GENERATOR
from service.runtime.models.model import Model
from service.runtime.scheduling.batches import Rows

log = logging.getLogger("ganymede.offline")

# Runs feeds by a role of the model, as Model.run does. Raises Stopped when it does so no more.
RunGraph = Callable[[str, Rows], Rows]

# What a picture may have: as many as Pillow takes without a warning.
MOST_PIXELS = 2**26
# So many pixels of pictures of one size are run together; a larger one is alone.
_TOGETHER_PIXELS = 2**20


class Stopped(Exception):
    """Whoever runs the job has asked for its end."""


@dataclass(frozen=True)
class RenderedInput:
    """A picture that was made of another; None where it could not be."""

    item: JobItem
    pixels: Pixels | None


@dataclass(frozen=True)
class _Ready:
    item: JobItem
    translation: Translation


class ImageToImageRenderer:
    """Makes the pictures of a job of those that go in. Several threads may use it at a time."""

    def __init__(self, model: Model, job: SamplingJob, items: JobItems, run: RunGraph) -> None:
        """Make pictures with `model`, whose graphs `run` runs. Raises InputError."""
        assert job.input is not None  # noqa: S101 - else nothing goes in
        self._model, self._job, self._items, self._run = model, job, items, run
        self._inputs = open_inputs(job.input)
        self._masks = None if job.mask is None else open_inputs(job.mask)
        self._role = job.direction or GENERATOR

    def shard(self, numbers: Sequence[int], stopped: Callable[[], bool]) -> Iterator[RenderedInput]:
        """Yield pictures in order; those of one size are run together. Raises Stopped."""
        waiting: list[_Ready] = []
        for number in numbers:
            if stopped():
                raise Stopped
            read = self._read(self._items(number))
            alike = isinstance(read, _Ready) and (
                not waiting or read.translation.tiling == waiting[0].translation.tiling
            )
            if waiting and not (alike and self._fits(waiting)):
                yield from self._made(waiting)
                waiting = []
            if isinstance(read, _Ready):
                waiting.append(read)
            else:
                yield read
        yield from self._made(waiting)

    def _fits(self, waiting: Sequence[_Ready]) -> bool:
        """Whether one more of the same size may wait."""
        this = waiting[0].translation
        rows = (len(waiting) + 1) * len(this.tiling)
        return (
            rows <= self._model.max_rows(this.tile_pixels)
            and rows * this.tile_pixels <= _TOGETHER_PIXELS
        )

    def _read(self, item: JobItem) -> _Ready | RenderedInput:
        """Read a picture with its mask; one that cannot be used is told, and is not made."""
        said: dict[str, Any] = {"task": self._model.manifest.task}
        if self._job.direction is not None:
            said["direction"] = self._job.direction
        try:
            upload = decode_image(
                self._inputs.read(item.number), max_pixels=MOST_PIXELS, animated="first"
            )
            said["input"] = digest_of(upload)
            mask = self._mask(item, upload)
            if mask is not None:
                said["mask"] = digest_of(DecodedImage(mask[..., None].repeat(3, 2), None))
            if self._job.resize is not None:
                said["resized"] = list(self._job.resize)
            translation = prepare(self._model, upload, mask)
        except (ImageDecodeError, ImageMismatch) as error:
            log.error("%s cannot be used: %s", item.input_file, error)
            return RenderedInput(item, None)
        return _Ready(replace(item, parameters=said), translation)

    def _mask(self, item: JobItem, upload: DecodedImage) -> Pixels | None:
        height, width = upload.pixels.shape[:2]
        if self._job.boxes is not None:
            return box_mask(self._job.boxes, width, height)
        if self._masks is None:
            return None
        number = self._masks.number_of(item.input_file or "")
        if number is None:
            raise ImageMismatch("there is no mask for it")
        return decode_mask(self._masks.read(number), max_pixels=MOST_PIXELS)

    def _made(self, ready: Sequence[_Ready]) -> Iterator[RenderedInput]:
        """Make pictures of one size, as one batch if the memory holds it."""
        if not ready:
            return
        try:
            made = self._run_together(ready)
        except Stopped:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a graph raises is that picture's
            if len(ready) == 1:
                name = ready[0].item.input_file
                log.error("%s cannot be made: %s", name, str(error).splitlines()[0])
                yield RenderedInput(ready[0].item, None)
                return
            half = len(ready) // 2
            yield from self._made(ready[:half])
            yield from self._made(ready[half:])
            return
        for one, pixels in zip(ready, made, strict=True):
            yield RenderedInput(one.item, pixels)

    def _run_together(self, ready: Sequence[_Ready]) -> list[Pixels]:
        first = ready[0].translation
        if len(first.tiling) > 1:
            return [self._tiled(one.translation) for one in ready]
        parts = [one.translation.feeds([0]) for one in ready]
        feeds = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        rows = self._run(self._role, feeds)["pixels"]
        made = []
        for one, row in zip(ready, rows, strict=True):
            canvas = one.translation.canvas()
            canvas.put(0, row)
            made.append(one.translation.finished(canvas.picture()))
        return made

    def _tiled(self, this: Translation) -> Pixels:
        canvas = this.canvas()
        at_once = self._model.max_rows(this.tile_pixels)
        for start in range(0, len(this.rows), at_once):
            indices = this.rows[start : start + at_once]
            this.lay(canvas, indices, self._run(self._role, this.feeds(indices))["pixels"])
        return this.finished(canvas.picture())
