"""From a shard's numbers to encoded pictures, a batch at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from service.offline.jobs import Item, Items, Job
from service.runtime.images import Pixels, encode, resized
from service.runtime.manifest import GENERATOR, MAPPING, SYNTHESIS
from service.runtime.model import Model
from service.runtime.scheduler import Rows
from service.runtime.sources import feeds
from service.runtime.styles import mix

log = logging.getLogger("ganymede.offline")


# Runs feeds by a role of the model, as Model.run does. Raises Stopped when it does so no more.
Run = Callable[[str, Rows], Rows]


class Stopped(Exception):
    """Whoever runs the job has asked for its end."""


@dataclass(frozen=True)
class Painted:
    """One picture: its file, or None where the model could not make it."""

    item: Item
    file: bytes | None


class Painter:
    """Makes the pictures of a job. Several threads may use it at a time."""

    def __init__(self, model: Model, job: Job, run: Run | None = None) -> None:
        """Make pictures with `model`; `run` runs its graphs, in place of `Model.run`."""
        self._run_graph = run or model.run
        self.items = Items(job, model.manifest)
        self._model = model
        self._job = job
        # In the order that the service has them: the files are the same to the last byte.
        self._identity = {"model": job.model, "version": job.version, "digest": job.digest}

    def shard(self, shard: int, stopped: Callable[[], bool] = lambda: False) -> Iterator[Painted]:
        """Yield the pictures of a shard, in order. Raises Stopped."""
        numbers = self._job.numbers(shard)
        for start in range(0, len(numbers), self._model.plan.max_rows):
            if stopped():
                raise Stopped
            yield from self.paint(numbers[start : start + self._model.plan.max_rows])

    def paint(self, numbers: Sequence[int]) -> list[Painted]:
        """Make some pictures, as one batch if the memory holds it."""
        items = [self.items(number) for number in numbers]
        return [
            Painted(item, None if pixels is None else self._encode(item, pixels))
            for item, pixels in zip(items, self.pixels(items), strict=True)
        ]

    def pixels(self, items: Sequence[Item]) -> Sequence[Pixels | None]:
        """Return the pictures ``[H, W, C]`` of `items`, None for one that the model cannot make.

        A batch that fails is halved, until it is known which of its rows are to blame.
        """
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

    def _run(self, items: Sequence[Item]) -> Pixels:
        manifest = self._model.manifest
        rows = feeds([item.row for item in items], manifest)
        if self._job.mix is None:
            pixels: Pixels = self._run_graph(GENERATOR, rows)["pixels"]
            return pixels
        columns = feeds([item.column for item in items if item.column], manifest)
        ours = self._run_graph(MAPPING, rows)["w"]
        theirs = self._run_graph(MAPPING, columns)["w"]
        mixed = [
            mix(row[None], column[None], self._job.mix)
            for row, column in zip(ours, theirs, strict=True)
        ]
        made: Pixels = self._run_graph(SYNTHESIS, {"w": np.concatenate(mixed)})["pixels"]
        return made

    def _encode(self, item: Item, pixels: Pixels) -> bytes:
        return encode(pixels, self._job.image, {**self._identity, **item.parameters})


def contact_sheet(pictures: Sequence[Pixels], *, across: int = 8, side: int = 128) -> Image.Image:
    """Lay pictures ``[H, W, C]`` out in one, none of them larger than `side`."""
    height, width, _ = pictures[0].shape
    scale = min(1.0, side / max(height, width))
    tile = (max(1, round(width * scale)), max(1, round(height * scale)))
    across = min(across, len(pictures))
    down = -(-len(pictures) // across)
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[pictures[0].shape[-1]]
    sheet = Image.new(mode, (across * tile[0], down * tile[1]), "white")
    for i, picture in enumerate(pictures):
        small = picture if scale == 1.0 else resized(picture, *tile)
        image = Image.fromarray(small.squeeze(-1) if small.shape[-1] == 1 else small)
        sheet.paste(image, (i % across * tile[0], i // across * tile[1]))
    return sheet
