"""Generates and encodes the images of a shard, one batch at a time."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from service.offline.halving import Stopped, run_in_halves
from service.offline.image_to_image import ImageToImageRenderer, RenderedInput
from service.offline.inputs import JobInputs
from service.offline.job import JobFailed, JobItem, JobItems, SamplingJob
from service.runtime.errors import first_line
from service.runtime.generation import (
    Plan,
    RunGraph,
    edited_image_plan,
    execute,
    image_plan,
    mixing_plan,
    score_plan,
)
from service.runtime.images.encoding import Pixels, resized, to_image
from service.runtime.latent.sources import LatentSource
from service.runtime.latent.style_mixing import StyleMixing
from service.runtime.models.catalog import find_encoder
from service.runtime.models.model import Model
from service.runtime.outputs import Output, drawn, encode_output
from service.runtime.ranking import kept_candidates
from service.runtime.text.prompt_vectors import PromptEncoder
from service.runtime.text.records import generate_records, model_vocabulary

log = logging.getLogger("ganymede.offline")


@dataclass(frozen=True)
class RenderedImage:
    """One image; `file` is None if the model failed to generate it.

    `problem` is the reason why an input has no output.
    """

    item: JobItem
    file: bytes | None
    problem: str | None = None


class ShardRenderer:
    """Generates the images of a job. Thread-safe."""

    def __init__(
        self,
        model: Model,
        job: SamplingJob,
        run: RunGraph | None = None,
        inputs: JobInputs | None = None,
        encoder: PromptEncoder | None = None,
    ) -> None:
        """Use `model`; `run` runs its graphs instead of `Model.run`.

        `inputs` are those of the job; default: those at its URLs. `encoder` is that of
        prompts; default: the text encoder beside the model. Raises InputError, JobFailed if the
        model's directions are not those of the job, and ModelUnusable without a text encoder.
        """
        known = model.manifest.directions
        if job.directions_sha256 not in (None, known.sha256 if known else ""):
            raise JobFailed(f"the directions of {job.model} have changed since the job was started")
        self._run_graph = run or model.run
        self.items = JobItems(job, model.manifest, inputs)
        self._model = model
        self._job = job
        # The same order as in the HTTP service, so that the files are identical.
        self._identity = {"model": job.model, "version": job.version, "digest": job.digest}
        if encoder is None and (spec := model.manifest.text_input) is not None:
            encoder = PromptEncoder(find_encoder(model.folder.parent.parent, spec, model.provider))
        self._encoder = encoder
        self._vocabulary = None if model.manifest.text is None else model_vocabulary(model)
        self._image_to_image: ImageToImageRenderer | None = None
        if job.input is not None:
            self._image_to_image = ImageToImageRenderer(model, job, self.items, self._run_graph)

    def truncated_prompts(self) -> list[int]:
        """Return the numbers of the prompts that are too long to be used completely."""
        if self._encoder is None or self._job.prompts is None:
            return []
        return self._encoder.truncated(self._job.prompts)

    def shard(
        self, shard: int, stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[RenderedImage]:
        """Yield the images of a shard, in order. Raises Stopped."""
        numbers = self._job.numbers(shard)
        if self._image_to_image is not None:
            for rendered in self._image_to_image.shard(numbers, stopped):
                yield self._finished(rendered)
            return
        items = self._items(numbers, stopped)
        for start in range(0, len(items), self._model.plan.max_rows):
            yield from self._render(items[start : start + self._model.plan.max_rows], stopped)

    def render(self, numbers: Sequence[int]) -> list[RenderedImage]:
        """Return the images with these numbers, generated as one batch if memory allows.

        With a selection, only the candidates for these images compete.
        """
        if self._image_to_image is not None:
            rendered = self._image_to_image.shard(numbers, lambda: False)
            return [self._finished(each) for each in rendered]
        return list(self._render(self._items(numbers, lambda: False), lambda: False))

    def _items(self, numbers: Sequence[int], stopped: Callable[[], bool]) -> list[JobItem]:
        """Return the images with these numbers, selected if the job requires it. Raises Stopped.

        The candidates are scored in batches, and only their scores are kept: the images of a shard
        may not fit into memory.
        """
        if self._job.rank is None:
            return [self.items(number) for number in numbers]
        groups = self.items.candidates(numbers)
        candidates = [source for group in groups for source in group.sources()]
        scores: list[float] = []
        for start in range(0, len(candidates), self._model.plan.max_rows):
            if stopped():
                raise Stopped
            batch = candidates[start : start + self._model.plan.max_rows]
            scored = run_in_halves(batch, self._scores, _report_candidate)
            scores += [-math.inf if score is None else score for score in scored]
        discriminator = self._model.manifest.discriminator
        calibration = discriminator.calibration if discriminator else None
        kept = kept_candidates(groups, np.array(scores), self._job.rank, calibration)
        return [
            self.items.selected(number, seed)
            for number, i in zip(numbers, kept, strict=True)
            if (seed := candidates[i].seed) is not None
        ]

    def _scores(self, candidates: Sequence[LatentSource]) -> list[float]:
        manifest, max_rows = self._model.manifest, self._model.plan.max_rows
        pixels = execute(image_plan(manifest, candidates), self._run_graph, max_rows)
        scores = execute(score_plan(manifest, candidates, pixels), self._run_graph, max_rows)
        return [float(score) for score in scores]

    def _render(
        self, items: Sequence[JobItem], stopped: Callable[[], bool]
    ) -> Iterator[RenderedImage]:
        """Generate images as one batch, and encode one after the other. Raises Stopped."""
        for item, output in zip(items, self._outputs(items, stopped), strict=True):
            yield RenderedImage(item, None if output is None else self._encode(item, output))

    def pixels(
        self, items: Sequence[JobItem], stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[Pixels | None]:
        """Yield the images ``[H, W, C]`` of `items`; None if the model failed. Audio is drawn.

        Raises Stopped, and ValueError for texts.
        """
        if self._image_to_image is not None:
            for each in self._image_to_image.shard([item.number for item in items], stopped):
                yield each.pixels
            return
        for start in range(0, len(items), self._model.plan.max_rows):
            for row in self._outputs(items[start : start + self._model.plan.max_rows], stopped):
                if isinstance(row, Mapping):
                    raise ValueError("texts have no pixels")
                yield None if row is None else drawn(self._model.manifest, row)

    def _outputs(
        self, items: Sequence[JobItem], stopped: Callable[[], bool]
    ) -> Iterator[Output | None]:
        """Yield the outputs of one batch. Images are resized one at a time: they can be large."""
        if stopped():
            raise Stopped
        size = self._job.resize
        for output in run_in_halves(items, self._generate, _report):
            if stopped():
                raise Stopped
            if output is None or size is None or isinstance(output, Mapping):
                yield output
            else:
                yield resized(output, *size)

    def _generate(self, items: Sequence[JobItem]) -> Sequence[Output]:
        manifest = self._model.manifest
        if self._vocabulary is not None:
            texts = [self._job.text_source(item.seed, self._vocabulary) for item in items]
            return generate_records(self._model, texts, self._run_graph, self._model.plan.max_rows)
        if self._job.edit is not None:
            edits = [self._job.edit] * len(items)
            sources = [item.row for item in items]
            vectors = self._model.direction_vectors
            plan: Plan[Pixels] = edited_image_plan(manifest, sources, edits, vectors)
        elif self._job.mix is None:
            plan = image_plan(manifest, self._with_vectors([item.row for item in items]))
        else:
            mixings = [
                StyleMixing((item.row,), (item.column,), self._job.mix)
                for item in items
                if item.column is not None
            ]
            plan = mixing_plan(manifest, mixings)
        return list(execute(plan, self._run_graph, self._model.plan.max_rows))

    def _with_vectors(self, sources: list[LatentSource]) -> list[LatentSource]:
        """Return `sources` with the vectors of their prompts."""
        return sources if self._encoder is None else self._encoder(sources)

    def _finished(self, rendered: RenderedInput) -> RenderedImage:
        """Return the output of an image-to-image model as a file."""
        if (pixels := rendered.pixels) is None:
            return RenderedImage(rendered.item, None, rendered.problem)
        if self._job.resize is not None:
            pixels = resized(pixels, *self._job.resize)
        return RenderedImage(rendered.item, self._encode(rendered.item, pixels))

    def _encode(self, item: JobItem, output: Output) -> bytes:
        provenance = {**self._identity, **item.parameters}
        manifest, kind = self._model.manifest, self._job.image
        return encode_output(manifest, output, kind, provenance, marked=self._job.marked)


def _report(item: JobItem, error: Exception) -> None:
    log.error("the output of seed %d cannot be generated: %s", item.seed, first_line(error))


def _report_candidate(source: LatentSource, error: Exception) -> None:
    log.error("the candidate of seed %d cannot be scored: %s", source.seed, first_line(error))


def contact_sheet(
    images: Iterable[Pixels], *, columns: int = 8, side: int = 128
) -> Image.Image | None:
    """Arrange images ``[H, W, C]`` in one image, each scaled down to at most `side` pixels.

    Returns None without images. Only one image at a time is kept in full size.
    """
    thumbnails = []
    for pixels in images:
        height, width, _ = pixels.shape
        scale = min(1.0, side / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        thumbnails.append(to_image(pixels if scale == 1.0 else resized(pixels, *size)))
    if not thumbnails:
        return None
    tile = tuple(max(image.size[axis] for image in thumbnails) for axis in (0, 1))
    columns = min(columns, len(thumbnails))
    rows = -(-len(thumbnails) // columns)
    modes = {image.mode for image in thumbnails}
    mode = modes.pop() if len(modes) == 1 else "RGBA"
    sheet = Image.new(mode, (columns * tile[0], rows * tile[1]), "white")
    for i, image in enumerate(thumbnails):
        sheet.paste(image.convert(mode), (i % columns * tile[0], i // columns * tile[1]))
    return sheet
