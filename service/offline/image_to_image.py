"""Runs the inputs of a job through an image-to-image model, in order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from service.offline.halving import Stopped, run_in_halves
from service.offline.inputs import UnreadableInput
from service.offline.job import JobItem, JobItems, SamplingJob
from service.runtime.errors import first_line
from service.runtime.generation import RunGraph, execute
from service.runtime.image_to_image import (
    ImageMismatch,
    Translation,
    UnusableInput,
    image_to_image_plan,
    prepare_image,
)
from service.runtime.images.encoding import Pixels
from service.runtime.images.masks import MaskInput
from service.runtime.models.model import Model
from service.runtime.models.parts.graphs import GENERATOR

log = logging.getLogger("ganymede.offline")

# Maximum number of pixels of an input: Pillow warns about larger images.
MAX_INPUT_PIXELS = 2**26
# Maximum output pixels of images that run together; a larger image runs alone.
_BATCH_PIXELS = 2**20


@dataclass(frozen=True)
class RenderedInput:
    """The output for one input image.

    `pixels` is None if the input could not be processed; `problem` is the reason.
    """

    item: JobItem
    pixels: Pixels | None
    problem: str | None = None


@dataclass(frozen=True)
class _Prepared:
    item: JobItem
    translation: Translation


class ImageToImageRenderer:
    """Generates the images of a job from its inputs. Thread-safe."""

    def __init__(self, model: Model, job: SamplingJob, items: JobItems, run: RunGraph) -> None:
        """Use `model`; `run` executes its graphs. Raises InputError."""
        assert items.inputs is not None  # noqa: S101 - the caller creates it for inputs only
        self._model, self._job, self._items, self._run = model, job, items, run
        self._inputs = items.inputs

    def shard(self, numbers: Sequence[int], stopped: Callable[[], bool]) -> Iterator[RenderedInput]:
        """Yield images in order. Consecutive images of equal size share batches. Raises Stopped."""
        batch: list[_Prepared] = []
        for number in numbers:
            if stopped():
                raise Stopped
            prepared = self._prepare(self._items(number))
            if batch and not (isinstance(prepared, _Prepared) and self._fits(batch, prepared)):
                yield from self._render(batch)
                batch = []
            if isinstance(prepared, _Prepared):
                batch.append(prepared)
            else:
                yield prepared
        if batch:
            yield from self._render(batch)

    def _fits(self, batch: Sequence[_Prepared], prepared: _Prepared) -> bool:
        """Whether an image may join a batch."""
        first = batch[0].translation
        return prepared.translation.tiling == first.tiling and len(batch) < images_per_batch(
            self._model, first
        )

    def _prepare(self, item: JobItem) -> _Prepared | RenderedInput:
        """Decode an image and its mask; an unusable one is logged and has no output."""
        try:
            prepared = prepare_image(
                self._model,
                self._inputs.images.read(item.number),
                self._mask(item),
                direction=self._job.direction,
                max_pixels=self._inputs.max_pixels or MAX_INPUT_PIXELS,
                animated="first",
                formats=None,
            )
        except (UnusableInput, ImageMismatch, UnreadableInput) as error:
            log.error("%s cannot be used: %s", item.input_file, error)
            return RenderedInput(item, None, str(error))
        parameters = prepared.parameters
        if self._job.resize is not None:
            parameters["resized"] = list(self._job.resize)
        return _Prepared(replace(item, parameters=parameters), prepared.translation)

    def _mask(self, item: JobItem) -> MaskInput | None:
        if self._job.boxes is not None:
            return MaskInput(boxes=self._job.boxes)
        if self._inputs.masks is None:
            return None
        mask = self._inputs.read_mask(item.number)
        if mask is None:
            raise ImageMismatch("it has no mask")
        return MaskInput(file=mask)

    def _render(self, batch: Sequence[_Prepared]) -> Iterator[RenderedInput]:
        """Run images of equal size, as one batch if memory allows."""
        problems: dict[int, str] = {}

        def report(prepared: _Prepared, error: Exception) -> None:
            problem = problems[prepared.item.number] = first_line(error)
            log.error("%s cannot be processed: %s", prepared.item.input_file, problem)

        outputs = run_in_halves(batch, self._run_batch, report)
        for prepared, pixels in zip(batch, outputs, strict=True):
            yield RenderedInput(prepared.item, pixels, problems.get(prepared.item.number))

    def _run_batch(self, batch: Sequence[_Prepared]) -> list[Pixels]:
        translations = [prepared.translation for prepared in batch]
        max_rows = self._model.max_rows(translations[0].tile_pixels)
        role = self._job.direction or GENERATOR
        return execute(image_to_image_plan(translations, role, max_rows), self._run)


def images_per_batch(model: Model, translation: Translation) -> int:
    """Return how many images like `translation` run together; at least 1."""
    rows = min(
        model.max_rows(translation.tile_pixels), _BATCH_PIXELS // max(1, translation.tile_pixels)
    )
    return max(1, rows // len(translation.tiling))
