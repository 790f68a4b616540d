"""From a shard's numbers to encoded pictures, a batch at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from service.offline.image_to_image import ImageToImageRenderer, RenderedInput, RunGraph, Stopped
from service.offline.job import JobItem, JobItems, SamplingJob
from service.runtime.images.encoding import Pixels, encode, resized, to_image
from service.runtime.latent.sources import feeds
from service.runtime.latent.style_mixing import mix_styles
from service.runtime.models.manifest import GENERATOR, MAPPING, SYNTHESIS
from service.runtime.models.model import Model

log = logging.getLogger("ganymede.offline")


@dataclass(frozen=True)
class RenderedImage:
    """One picture: its file, or None where the model could not make it."""

    item: JobItem
    file: bytes | None


class ShardRenderer:
    """Makes the pictures of a job. Several threads may use it at a time."""

    def __init__(self, model: Model, job: SamplingJob, run: RunGraph | None = None) -> None:
        """Make pictures with `model`; `run` runs its graphs, in place of `Model.run`."""
        self._run_graph = run or model.run
        self.items = JobItems(job, model.manifest)
        self._model = model
        self._job = job
        # In the order that the service has them: the files are the same to the last byte.
        self._identity = {"model": job.model, "version": job.version, "digest": job.digest}
        self._translator: ImageToImageRenderer | None = None
        if job.input is not None:
            self._translator = ImageToImageRenderer(model, job, self.items, self._run_graph)

    def shard(
        self, shard: int, stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[RenderedImage]:
        """Yield the pictures of a shard, in order. Raises Stopped."""
        numbers = self._job.numbers(shard)
        if self._translator is not None:
            for item in self._translator.shard(numbers, stopped):
                yield RenderedImage(item.item, self._finished(item))
            return
        for start in range(0, len(numbers), self._model.plan.max_rows):
            if stopped():
                raise Stopped
            yield from self.render(numbers[start : start + self._model.plan.max_rows])

    def render(self, numbers: Sequence[int]) -> list[RenderedImage]:
        """Make some pictures, as one batch if the memory holds it."""
        if self._translator is not None:
            made = self._translator.shard(numbers, lambda: False)
            return [RenderedImage(each.item, self._finished(each)) for each in made]
        items = [self.items(number) for number in numbers]
        return [
            RenderedImage(item, None if pixels is None else self._encode(item, pixels))
            for item, pixels in zip(items, self.pixels(items), strict=True)
        ]

    def pixels(self, items: Sequence[JobItem]) -> Sequence[Pixels | None]:
        """Return the pictures ``[H, W, C]`` of `items`, None for one that the model cannot make.

        A batch that fails is halved, until it is known which of its rows are to blame.
        """
        if self._translator is not None:
            made_of = self._translator.shard([item.number for item in items], lambda: False)
            return [each.pixels for each in made_of]
        try:
            made = self._run(items)
        except Stopped:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a graph raises is that picture's
            if len(items) == 1:
                log.error("seed %d cannot be made: %s", items[0].seed, str(error).splitlines()[0])
                return [None]
            half = len(items) // 2
            return [*self.pixels(items[:half]), *self.pixels(items[half:])]
        if self._job.resize is None:
            return list(made)
        return [resized(picture, *self._job.resize) for picture in made]

    def _run(self, items: Sequence[JobItem]) -> Pixels:
        manifest = self._model.manifest
        rows = feeds([item.row for item in items], manifest)
        if self._job.mix is None:
            pixels: Pixels = self._run_graph(GENERATOR, rows)["pixels"]
            return pixels
        columns = feeds([item.column for item in items if item.column], manifest)
        ours = self._run_graph(MAPPING, rows)["w"]
        theirs = self._run_graph(MAPPING, columns)["w"]
        mixed = [
            mix_styles(row[None], column[None], self._job.mix)
            for row, column in zip(ours, theirs, strict=True)
        ]
        made: Pixels = self._run_graph(SYNTHESIS, {"w": np.concatenate(mixed)})["pixels"]
        return made

    def _finished(self, made: RenderedInput) -> bytes | None:
        """Return the file of a picture that was made of another."""
        if made.pixels is None:
            return None
        pixels = made.pixels
        if self._job.resize is not None:
            pixels = resized(pixels, *self._job.resize)
        return self._encode(made.item, pixels)

    def _encode(self, item: JobItem, pixels: Pixels) -> bytes:
        return encode(pixels, self._job.image, {**self._identity, **item.parameters})


def contact_sheet(pictures: Sequence[Pixels], *, across: int = 8, side: int = 128) -> Image.Image:
    """Lay pictures ``[H, W, C]`` out in one, none of them larger than `side`."""
    images = []
    for picture in pictures:
        height, width, _ = picture.shape
        scale = min(1.0, side / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        images.append(to_image(picture if scale == 1.0 else resized(picture, *size)))
    tile = tuple(max(image.size[axis] for image in images) for axis in (0, 1))
    across = min(across, len(images))
    down = -(-len(images) // across)
    modes = {image.mode for image in images}
    mode = modes.pop() if len(modes) == 1 else "RGBA"
    sheet = Image.new(mode, (across * tile[0], down * tile[1]), "white")
    for i, image in enumerate(images):
        sheet.paste(image.convert(mode), (i % across * tile[0], i // across * tile[1]))
    return sheet
