"""`POST /v1/translate`, `/v1/upscale`, `/v1/inpaint` and `/v1/colorize`: pictures from pictures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Header, Request
from fastapi.responses import Response

from service.api import request_parsing, responses
from service.api.completion_time import Pace
from service.api.execution import RequestExecution, request_execution
from service.api.image_forms import (
    ImageToImageInput,
    ImageToImageRequest,
    SamplesRequest,
    SentFile,
    described,
    read_request,
)
from service.api.negotiation import Form, negotiate
from service.api.problems import Problem, invalid
from service.api.responses import Picture
from service.api.schemas import GenerateRequest, ImageToImageResponse
from service.runtime.images import encoding
from service.runtime.images.decoding import (
    DecodedImage,
    ImageDecodeError,
    box_mask,
    decode_image,
    decode_mask,
)
from service.runtime.images.image_to_image import (
    ImageMismatch,
    Pixels,
    Translation,
    digest_of,
    prepare,
)
from service.runtime.images.tiling import Canvas
from service.runtime.models.manifest import GENERATOR, Task
from service.runtime.models.model import Model
from service.runtime.onnx.machine import usable_cpus
from service.runtime.scheduling.batches import Rows
from service.runtime.scheduling.engine import Engine
from service.runtime.scheduling.scheduler import QueueFull
from service.settings import Settings

_SUMMARIES: dict[Task, str] = {
    "translate": "Pictures into another kind of picture",
    "upscale": "Larger pictures",
    "inpaint": "Pictures with their holes filled",
    "colorize": "Grey pictures in colour",
}
# So many pixels of pictures are worked on together; a larger picture is alone.
_TOGETHER_PIXELS = 2**20
_TOGETHER = 32
_ASK_AGAIN_S = 0.5


@dataclass(frozen=True)
class _Item:
    """One picture on its way: what goes in, and what its answer says of it."""

    picture: Picture
    translation: Translation
    field: str


class _Held:
    """Pixels of pictures that are decoded and not answered yet, over all requests."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._pixels = 0

    def take(self, pixels: int, field: str) -> None:
        """Count pixels. Raises QueueFull, and Problem (422) where they never will fit."""
        if pixels > self._bound:
            raise _unusable(
                "picture-too-large",
                f"{field}: {pixels:,} pixels go in and come out, and the queue holds "
                f"{self._bound:,}",
                field,
            )
        if self._pixels + pixels > self._bound:
            raise QueueFull(1.0)
        self._pixels += pixels

    def give(self, pixels: int) -> None:
        """Count them no more."""
        self._pixels -= pixels


def router(
    engine: Engine,
    settings: Settings,
    find: Callable[[str], Model],
    find_for: Callable[[str, Task], Model],
) -> APIRouter:
    """Return the routes; `find` gives the loaded model of a name that generates, and `find_for`
    one of a task.
    """
    routes = APIRouter(tags=["pictures"])
    held = _Held(settings.queue_pixels)
    decoding = _Decoding()

    def route(task: Task) -> None:
        @routes.post(
            f"/v1/{task}",
            summary=_SUMMARIES[task],
            response_model=ImageToImageResponse,
            responses=responses.ANSWERS,
            openapi_extra=described(masked=task == "inpaint"),
            name=task,
        )
        async def answer(
            request: Request, accept: Annotated[str | None, Header()] = None
        ) -> Response:
            wish = await read_request(request, settings.max_images)
            model = find_for(wish.body.model, task)
            direction = _direction(model, wish.body)
            async with request_execution(engine, request, settings.deadline_s) as run:
                sources = await _sources(wish, find, run, settings)
                form = negotiate(wish.body.format, accept, len(sources))
                work = _Work(model, direction, form, run, settings, held)
                for i, source in enumerate(sources):
                    work.add(
                        await decoding.run(
                            _read, model, source, wish, i, len(sources), settings, direction
                        )
                    )
                    if work.is_full or i + 1 == len(sources):
                        await work.make()
                return work.answer()

    for task in _SUMMARIES:
        route(task)
    return routes


class _Decoding:
    """Decodes as many pictures at a time as there are CPUs: each may take much memory."""

    def __init__(self) -> None:
        self._limiter: anyio.CapacityLimiter | None = None

    async def run(self, function: Callable[..., Any], *given: Any) -> Any:
        """Call a function in a thread."""
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(usable_cpus())
        return await anyio.to_thread.run_sync(function, *given, limiter=self._limiter)


class _Work:
    """The pictures of one request, as far as they are made."""

    def __init__(
        self,
        model: Model,
        direction: str,
        form: Form,
        run: RequestExecution,
        settings: Settings,
        held: _Held,
    ) -> None:
        self._model, self._direction, self._form = model, direction, form
        self._run, self._settings, self._held = run, settings, held
        self._waiting: list[_Item] = []
        self._pictures: list[Picture] = []
        self._resized: list[str] = []
        self._files: list[bytes] = []
        self._arrays: list[Pixels] = []

    def add(self, item: _Item) -> None:
        """Take a picture to be made with others."""
        self._waiting.append(item)

    @property
    def is_full(self) -> bool:
        """Whether what waits is enough to be made: one large picture, or several small ones."""
        pixels = sum(item.translation.made_pixels for item in self._waiting)
        enough = min(_TOGETHER_PIXELS, self._settings.queue_pixels // 8)
        return pixels >= enough or len(self._waiting) >= _TOGETHER

    async def make(self) -> None:
        """Make what waits side by side, and keep the files."""
        items, self._waiting = self._waiting, []
        pixels = 0
        try:
            for item in items:
                there = item.translation.made_pixels + item.translation.image[..., 0].size
                self._held.take(there, "image")
                pixels += there
            async with asyncio.TaskGroup() as group:
                made = [group.create_task(self._made(item)) for item in items]
        except BaseExceptionGroup as several:
            # Of several that failed, the first is the answer.
            raise several.exceptions[0] from None
        finally:
            self._held.give(pixels)
        for item, task in zip(items, made, strict=True):
            self._pictures.append(item.picture)
            before = item.translation.resized
            self._resized.append(f"{before[0]}x{before[1]}" if before else "")
            if self._form.container == "npy":
                self._arrays.append(task.result())
            else:
                self._files.append(task.result())

    async def _made(self, item: _Item) -> Any:
        """Return the file of a picture, or for NPY its pixels."""
        this = item.translation
        canvas = this.canvas()
        plan = self._model.plan
        # Few enough to leave the queue to others, and enough to fill batches.
        room = self._settings.queue_pixels // 4 // this.tile_pixels
        most = plan.workers * self._model.max_rows(this.tile_pixels)
        at_once = max(1, min(most, room))
        pace = Pace(len(this.rows), self._settings.deadline_s)
        for start in range(0, len(this.rows), at_once):
            indices = this.rows[start : start + at_once]
            last = start + at_once >= len(this.rows)

            def work(outputs: Rows, indices: Sequence[int] = indices, *, last: bool = last) -> Any:
                this.lay(canvas, indices, outputs["pixels"])
                return self._finished(item, canvas) if last else None

            feeds = this.feeds(indices)
            while True:
                try:
                    found = await self._run.through(
                        self._model, self._direction, feeds, work, pace.ran
                    )
                    break
                except QueueFull as full:
                    if not start:
                        raise
                    # What has begun is worth the wait.
                    self._run.assert_in_time()
                    await asyncio.sleep(min(full.retry_after, _ASK_AGAIN_S))
            if not last and pace.is_too_slow:
                raise self._too_slow(item, pace)
        return found

    def _too_slow(self, item: _Item, pace: Pace) -> Problem:
        height, width = item.translation.image.shape[:2]
        return _unusable(
            "picture-too-large",
            f"{item.field}: {width} × {height} pixels would take {pace.total:,.0f} s here, and an "
            f"answer has {self._settings.deadline_s:g} s; send a smaller picture, or have it made "
            "by `ganymede sample --input`",
            item.field,
        )

    def _finished(self, item: _Item, canvas: Canvas) -> Any:
        made = item.translation.finished(canvas.picture())
        kind = self._form.image
        if self._form.container == "npy":
            return made
        if max(made.shape[:2]) > kind.longest_side:
            raise invalid(
                "format",
                f"a {kind} holds {kind.longest_side:,} pixels in a row, and the picture has "
                f"{max(made.shape[:2]):,}; take png",
            )
        return responses.encoded(self._model, item.picture, made, self._form)

    def answer(self) -> Response:
        """Return all pictures in one."""
        said: dict[str, Any] = {
            "input": [picture.parameters["input"] for picture in self._pictures]
        }
        if self._model.directions:
            said["direction"] = [self._direction]
        if any(self._resized):
            side = self._model.manifest.input.side if self._model.manifest.input else 0
            said["resized"] = [f"{each}>{side}x{side}" if each else "" for each in self._resized]
        headers = responses.headers(self._model, **said)
        if self._form.container == "npy":
            if len({each.shape for each in self._arrays}) > 1:
                raise invalid("format", "npy needs pictures of one size; take zip or json")
            array = encoding.encode_npy(np.stack(self._arrays))
            return Response(array, 200, headers, "application/x-npy")
        return responses.wrapped(self._model, self._pictures, self._files, self._form, headers)


@dataclass(frozen=True)
class _Source:
    """A picture before it is decoded, or one that another model has made."""

    sent: SentFile | None = None
    made: Pixels | None = None
    said: dict[str, Any] | None = None


async def _sources(
    wish: ImageToImageInput, find: Callable[[str], Model], run: RequestExecution, settings: Settings
) -> list[_Source]:
    """Return the pictures of a request; samples are made here. Raises Problem."""
    if wish.body.samples is None:
        return [_Source(sent=sent) for sent in wish.images]
    samples: SamplesRequest = wish.body.samples
    model = find(samples.model)
    asked = GenerateRequest.model_validate(samples.model_dump(by_alias=True, exclude_none=True))
    sources = request_parsing.to_generate(asked, model, settings.max_images)
    pixels = await run.pictures(model, sources, lambda outputs: outputs["pixels"])
    identity = responses.identity(model)
    return [
        _Source(made=picture, said=identity | source.parameters(model.manifest))
        for picture, source in zip(pixels, sources, strict=True)
    ]


def _read(
    model: Model,
    source: _Source,
    wish: ImageToImageInput,
    number: int,
    count: int,
    settings: Settings,
    direction: str,
) -> _Item:
    """Decode one picture and its mask. Raises Problem (422)."""
    said: dict[str, Any] = {"task": model.manifest.task}
    if model.directions:
        said["direction"] = direction
    field, name = f"image.{number}", "image"
    try:
        if source.sent is not None:
            field, name = source.sent.field, source.sent.name
            upload = decode_image(
                source.sent.content,
                max_pixels=settings.max_upload_pixels,
                animated=wish.body.animated,
            )
        else:
            assert source.made is not None  # noqa: S101 - one of the two is there
            upload = _upload_of(source.made)
            said["source"] = source.said
        said["input"] = digest_of(upload)
        field, mask = f"mask.{number}", None
        mask = _mask(model, upload, wish, number, count, settings)
        if mask is not None:
            said["mask"] = digest_of(DecodedImage(mask[..., None].repeat(3, 2), None))
        return _Item(Picture(said, name), prepare(model, upload, mask), f"image.{number}")
    except ImageDecodeError as error:
        where = field if error.kind.startswith(("mask", "box")) else f"image.{number}"
        raise _unusable(error.kind.value, f"{where}: {error}", where) from error
    except ImageMismatch as error:
        raise invalid(field, str(error)) from error


def _mask(
    model: Model,
    upload: DecodedImage,
    wish: ImageToImageInput,
    number: int,
    count: int,
    settings: Settings,
) -> Pixels | None:
    masked = model.manifest.input is not None and model.manifest.input.masked
    body, height, width = wish.body, *upload.pixels.shape[:2]
    if not masked:
        if wish.masks or body.boxes:
            raise invalid("mask", f"{model.manifest.name} takes no mask")
        return None
    if body.boxes:
        return box_mask(body.boxes, width, height)
    if not wish.masks:
        raise invalid("mask", "say what is to be filled: a mask (white is filled), or boxes")
    if len(wish.masks) not in (1, count):
        raise invalid("mask", f"there are {len(wish.masks)} masks for {count} pictures")
    sent = wish.masks[number if len(wish.masks) > 1 else 0]
    return decode_mask(sent.content, max_pixels=settings.max_upload_pixels)


def _upload_of(made: Pixels) -> DecodedImage:
    colour = made[..., :3] if made.shape[2] > 1 else made.repeat(3, 2)
    return DecodedImage(np.ascontiguousarray(colour), made[..., 3] if made.shape[2] == 4 else None)


def _direction(model: Model, body: ImageToImageRequest) -> str:
    there = model.directions
    if body.direction is None:
        return there[0] if there else GENERATOR
    if body.direction not in there:
        known = f"there are: {', '.join(there)}" if there else f"{model.manifest.name} has none"
        raise invalid("direction", f"no direction {body.direction[:50]!r}; {known}")
    return body.direction


def _unusable(kind: str, detail: str, field: str) -> Problem:
    return Problem(
        422,
        kind,
        "The picture cannot be used",
        detail,
        errors=[{"field": field, "message": detail.partition(": ")[2] or detail}],
    )
