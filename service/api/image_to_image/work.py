"""Runs an image-to-image model on the images of one request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Literal, TypeVar

from service.api.execution import RequestExecution
from service.api.image_to_image.completion_time import CompletionEstimate
from service.api.problems import Problem, invalid, unusable_image
from service.api.responses import ImageRecord
from service.api.state import ServiceState, UploadTooLarge
from service.runtime.image_to_image import (
    Translation,
    UnusableInput,
    image_to_image_plan,
    prepare_image,
)
from service.runtime.images.decoding import DecodedImage, ImageDecodeError
from service.runtime.images.encoding import Pixels
from service.runtime.images.masks import MaskInput
from service.runtime.models.model import Model
from service.runtime.models.parts.graphs import GENERATOR

T = TypeVar("T")

# Maximum output pixels of images that run together; a larger image runs alone.
_BATCH_PIXELS = 2**20
_BATCH_IMAGES = 32


@dataclass(frozen=True)
class InputImage:
    """An input image before it is decoded; `parameters` if another model generated it.

    `field` is its path in the request, for error messages.
    """

    field: str
    name: str
    image: bytes | DecodedImage
    parameters: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class ReadyImage:
    """One input image, ready to run, with its entry in the response."""

    record: ImageRecord
    translation: Translation
    field: str

    def changes(self) -> dict[str, str]:
        """Return how the image was changed to fit the model, by header; empty for unchanged."""
        translation = self.translation
        parameters, size = translation.parameters, translation.original_size
        shape = "{1}x{0}".format(*translation.tiling.shape)
        count = parameters["tiles"]["count"] if "tiles" in parameters else None
        return {
            "resized": f"{size[0]}x{size[1]}>{shape}" if size else "",
            "color": parameters.get("color", ""),
            "tiles": f"{count}x{shape}" if count else "",
        }


class ImageToImageWork(Generic[T]):
    """Runs the images of one request in batches. `finish` makes the result from the pixels.

    `finish` is called in the threads of the engine; `long` is that of RequestExecution.execute.
    `direction` is the role of the graph; None for a model with one.
    """

    def __init__(
        self,
        model: Model,
        direction: str | None,
        execution: RequestExecution,
        state: ServiceState,
        finish: Callable[[ReadyImage, Pixels], T],
        *,
        long: bool = False,
    ) -> None:
        self._model, self._direction = model, direction
        self._execution, self._state = execution, state
        self._finish = finish
        self._long = long
        self._waiting: list[ReadyImage] = []
        self._count = 0

    async def add(
        self, source: InputImage, mask: MaskInput | None, *, animated: Literal["refuse", "first"]
    ) -> ReadyImage:
        """Decode an image and its mask, and add it to the next batch.

        Raises Problem (422), and the errors of RequestExecution.in_thread.
        """
        prepare = partial(self._prepare, source, mask, self._count, animated)
        item = await self._execution.in_thread(prepare, self._state.decoders)
        self._waiting.append(item)
        self._count += 1
        return item

    @property
    def is_full(self) -> bool:
        """True if the batch should run now: it has one large image, or enough small ones."""
        pixels = sum(item.translation.output_pixels for item in self._waiting)
        limit = min(_BATCH_PIXELS, self._state.settings.queue_pixels // 8)
        return pixels >= limit or len(self._waiting) >= _BATCH_IMAGES

    async def run(self) -> list[tuple[ReadyImage, T]]:
        """Run the waiting images concurrently; return them with their results, in their order.

        Raises Problem (422), QueueFull, and the errors of RequestExecution.run.
        """
        items, self._waiting = self._waiting, []
        acquired = 0
        try:
            for item in items:
                acquired += self._acquire(item)
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._run_one(item)) for item in items]
        except BaseExceptionGroup as several:
            # The response reports the first error.
            raise several.exceptions[0] from None
        finally:
            self._state.upload_pixels.release(acquired)
        return [(item, task.result()) for item, task in zip(items, tasks, strict=True)]

    def _prepare(
        self,
        source: InputImage,
        mask: MaskInput | None,
        number: int,
        animated: Literal["refuse", "first"],
    ) -> ReadyImage:
        try:
            prepared = prepare_image(
                self._model,
                source.image,
                mask,
                direction=self._direction,
                max_pixels=self._state.settings.max_upload_pixels,
                animated=animated,
                source=source.parameters,
            )
        except UnusableInput as error:
            field = source.field if error.field == "image" else f"{error.field}.{number}"
            if isinstance(error.cause, ImageDecodeError):
                raise unusable_image(error.cause.kind.value, f"{field}: {error}", field) from error
            raise invalid(field, str(error)) from error
        record = ImageRecord(prepared.parameters, source.name)
        return ReadyImage(record, prepared.translation, source.field)

    def _acquire(self, item: ReadyImage) -> int:
        """Reserve memory for the input and output of an image; return its pixels."""
        pixels = item.translation.output_pixels + item.translation.image[..., 0].size
        try:
            self._state.upload_pixels.acquire(pixels)
        except UploadTooLarge as error:
            raise unusable_image(
                "picture-too-large",
                f"image: input and output have {pixels:,} pixels together, but the maximum is "
                f"{self._state.upload_pixels.limit:,}",
                "image",
            ) from error
        return pixels

    async def _run_one(self, item: ReadyImage) -> T:
        translation = item.translation
        plan, settings = self._model.plan, self._state.settings
        # Small enough to leave room in the queue for other requests, large enough to fill batches.
        limit = settings.queue_pixels // 4 // translation.tile_pixels
        batch = plan.workers * self._model.max_rows(translation.tile_pixels)
        estimate = CompletionEstimate(len(translation.rows), settings.deadline_s)

        def check_time(rows: int, seconds: float) -> None:
            estimate.add_run(rows, seconds)
            if estimate.is_too_slow:
                raise self._too_slow(item, estimate)

        return await self._execution.execute(
            self._model,
            image_to_image_plan(
                [translation], self._direction or GENERATOR, max(1, min(batch, limit))
            ),
            lambda images: self._finish(item, images[0]),
            after_run=check_time,
            wait_after_first=True,
            long=self._long,
        )

    def _too_slow(self, item: ReadyImage, estimate: CompletionEstimate) -> Problem:
        height, width = item.translation.image.shape[:2]
        return unusable_image(
            "picture-too-large",
            f"{item.field}: {width} × {height} pixels would take {estimate.total:,.0f} s, and the "
            f"deadline is {self._state.settings.deadline_s:g} s; send a smaller image, or use "
            "`ganymede sample --input`",
            item.field,
        )
