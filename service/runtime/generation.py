"""From sources to pixels: the only module that defines which graphs run in which order.

A `Plan` is a generator: it yields the graph runs that it needs, receives the outputs of each, and
returns its result. It is independent of how graphs are executed. `execute` drives a plan in the
calling thread, with `Model.run` or another function; the HTTP service drives the same plans through
its scheduler, without blocking (service/api/execution.py).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.runtime.images.encoding import Pixels, mixing_grid
from service.runtime.latent.editing import Edit, Vectors, move_latents, move_styles
from service.runtime.latent.interpolation import Interpolation, Place, feeds_at, rows_at
from service.runtime.latent.inversion import Candidates, Inversion
from service.runtime.latent.sources import LatentSource, class_feed, feeds, transform_feed
from service.runtime.latent.style_mixing import StyleMixing, mix_styles
from service.runtime.models.manifest import Manifest
from service.runtime.models.parts.graphs import (
    DISCRIMINATOR,
    ENCODER,
    GENERATOR,
    MAPPING,
    STEP,
    SYNTHESIS,
    TEXT_ENCODER,
    encoder_output,
)
from service.runtime.onnx.sessions import Array
from service.runtime.ranking import CandidateGroup, Selection, kept_candidates
from service.runtime.text.prompts import Prompt, token_feeds
from service.runtime.text.sampling import TextSource, TextState

T = TypeVar("T")

Feeds = Mapping[str, Array]
# Runs a graph of a model by its role, as Model.run does.
RunGraph = Callable[[str, Feeds], Feeds]


@dataclass(frozen=True)
class GraphRun:
    """The inputs of one run of a graph; `feeds` are arrays by input name, with rows first."""

    role: str
    feeds: Feeds

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(next(iter(self.feeds.values())))


Plan = Generator[GraphRun, Feeds, T]


@dataclass(frozen=True)
class Finished(Generic[T]):
    """The result of a plan that has ended."""

    result: T


@dataclass(frozen=True)
class SelectedImages:
    """The images that a selection keeps: ``pixels [N, H, W, C] uint8``, ``scores [N] float32``."""

    sources: list[LatentSource]
    scores: Array
    pixels: Pixels


class StyleLookup(Protocol):
    """A cache of the styles ``[layers, w_dim]`` of one model."""

    def get_many(self, keys: Sequence[Hashable]) -> dict[Hashable, Array]:
        """Return the cached styles among `keys`."""

    def put(self, key: Hashable, styles: Array) -> None:
        """Add styles to the cache."""


def start(plan: Plan[T]) -> GraphRun | Finished[T]:
    """Begin a plan: return its first run, or its result if it needs none."""
    try:
        return next(plan)
    except StopIteration as end:
        return Finished(end.value)


def advance(plan: Plan[T], outputs: Feeds) -> GraphRun | Finished[T]:
    """Give a plan the outputs of its last run: return its next run, or its result."""
    try:
        return plan.send(outputs)
    except StopIteration as end:
        return Finished(end.value)


def execute(plan: Plan[T], run: RunGraph, max_rows: int | None = None) -> T:
    """Drive `plan` in the calling thread and return its result.

    Runs of more than `max_rows` rows are split, which bounds the memory for activations. Raises
    what `run` raises.
    """
    step = start(plan)
    while isinstance(step, GraphRun):
        step = advance(plan, _run_in_parts(step, run, max_rows or step.rows))
    return step.result


def image_plan(
    manifest: Manifest, sources: Sequence[LatentSource], cache: StyleLookup | None = None
) -> Plan[Pixels]:
    """Return the images ``[N, H, W, C] uint8`` of `sources`: seeds and latents through the
    generator, styles through the synthesis network. For another output, its rows, such as the
    samples ``[N, T] int16`` of audio.
    """
    transform = transform_feed(sources, manifest)
    if all(source.w is None for source in sources):
        outputs = yield GraphRun(GENERATOR, feeds(sources, manifest) | transform)
    else:
        w = yield from style_plan(manifest, sources, cache)
        outputs = yield GraphRun(SYNTHESIS, {"w": w, **transform})
    return outputs[manifest.output.tensor]


def text_plan(
    manifest: Manifest,
    sources: Sequence[TextSource],
    observe: Callable[[int, int | None], object] = lambda *_: None,
) -> Plan[list[list[int]]]:
    """Return the tokens of the texts of `sources`, one run of the graph per token.

    `observe` is called with the index of a source and each of its new tokens, and with None at the
    end of a text. Texts that have ended take no rows. Raises ValueError if the model returns none.
    """
    spec = manifest.text
    if spec is None:
        raise ValueError(f"{manifest.name} returns no text")
    texts = [TextState(source, spec) for source in sources]
    active = [i for i, text in enumerate(texts) if not text.ended]
    state = np.zeros((len(active), spec.state), np.float32)
    while active:
        token = np.array([texts[i].next_input for i in active], np.int64)
        outputs = yield GraphRun(STEP, {"token": token, "state": state})
        for i, logits in zip(active, outputs["logits"], strict=True):
            new = texts[i].advance(logits)
            if new is not None:
                observe(i, new)
            if texts[i].ended:
                observe(i, None)
        going_on = [not texts[i].ended for i in active]
        active = [i for i in active if not texts[i].ended]
        state = outputs["new_state"][going_on]
    return [text.tokens for text in texts]


def text_cost(manifest: Manifest, sources: Sequence[TextSource]) -> int:
    """Return the cost of all steps of a `text_plan` in which no text ends before its length."""
    return manifest.output.cost * sum(len(each.prefix) + each.max_length for each in sources)


def prompt_plan(prompts: Sequence[Prompt], dimension: int) -> Plan[Array]:
    """Return the vectors ``[N, dimension] float32`` of prompts, by the graph of a text encoder.

    Each prompt is run alone, so that its vector does not depend on others, in any bit: graphs add
    the tokens of one row in another order than those of several. A prompt without tokens has the
    zero vector.
    """
    vectors = np.zeros((len(prompts), dimension), np.float32)
    for vector, prompt in zip(vectors, prompts, strict=True):
        if prompt.tokens:
            outputs = yield GraphRun(TEXT_ENCODER, token_feeds(prompt))
            vector[:] = outputs["text"][0]
    return vectors


def score_plan(manifest: Manifest, sources: Sequence[LatentSource], pixels: Pixels) -> Plan[Array]:
    """Return the discriminator's scores ``[N] float32`` of the images of `sources`."""
    inputs: dict[str, Array] = {"image": pixels}
    if manifest.classes:
        inputs |= class_feed([source.classes or {0: 1.0} for source in sources], manifest)
    outputs = yield GraphRun(DISCRIMINATOR, inputs)
    return outputs["score"]


def selection_plan(
    manifest: Manifest, groups: Sequence[CandidateGroup], selection: Selection
) -> Plan[SelectedImages]:
    """Return the images that `selection` keeps of the candidates in `groups`."""
    candidates = [source for group in groups for source in group.sources()]
    pixels = yield from image_plan(manifest, candidates)
    scores = yield from score_plan(manifest, candidates, pixels)
    discriminator = manifest.discriminator
    calibration = discriminator.calibration if discriminator else None
    kept = kept_candidates(groups, scores, selection, calibration)
    return SelectedImages([candidates[i] for i in kept], scores[kept], pixels[kept])


def style_plan(
    manifest: Manifest, sources: Sequence[LatentSource], cache: StyleLookup | None = None
) -> Plan[Array]:
    """Return the styles ``[N, layers, w_dim] float32`` of `sources`, truncated.

    Each distinct source that has no styles of its own and is not in `cache` is mapped once.
    """
    styles = {source.key: source.w for source in sources if source.w is not None}
    latents = {source.key: source for source in sources if source.w is None}
    if cache is not None and latents:
        styles |= cache.get_many(list(latents))
    missing = {key: source for key, source in latents.items() if key not in styles}
    if missing:
        outputs = yield GraphRun(MAPPING, feeds(list(missing.values()), manifest))
        for key, row in zip(missing, outputs["w"], strict=True):
            styles[key] = row
            if cache is not None:
                cache.put(key, row)
    return np.stack([styles[source.key] for source in sources])


def mixing_plan(
    manifest: Manifest, mixings: Sequence[StyleMixing], cache: StyleLookup | None = None
) -> Plan[Pixels]:
    """Return the images of style mixing, for each of `mixings` in row-major order."""
    sources = [source for mixing in mixings for source in (*mixing.rows, *mixing.columns)]
    w = yield from style_plan(manifest, sources, cache)
    outputs = yield GraphRun(SYNTHESIS, {"w": np.concatenate(_mixed_styles(mixings, w))})
    return outputs["pixels"]


def mixing_grid_plan(
    manifest: Manifest, mixing: StyleMixing, cache: StyleLookup | None = None
) -> Plan[Pixels]:
    """Return one image: the grid of a mixing, with the images of its rows and columns at the edge.

    The images of the distinct sources and the mixed images are one run, so that they share batches.
    """
    sources = [*mixing.rows, *mixing.columns]
    first_index: dict[Hashable, int] = {}
    for i, source in enumerate(sources):
        first_index.setdefault(source.key, i)
    distinct = list(first_index.values())
    position = {key: i for i, key in enumerate(first_index)}
    w = yield from style_plan(manifest, sources, cache)
    styles = np.concatenate([w[distinct], *_mixed_styles([mixing], w)])
    outputs = yield GraphRun(SYNTHESIS, {"w": styles})
    unmixed, mixed = np.split(outputs["pixels"], [len(distinct)])
    rows, columns = np.split(
        unmixed[[position[source.key] for source in sources]], [len(mixing.rows)]
    )
    return mixing_grid(columns=columns, rows=rows, mixed=mixed)


def edit_plan(
    manifest: Manifest,
    sources: Sequence[LatentSource],
    edits: Sequence[Edit],
    vectors: Vectors,
    cache: StyleLookup | None = None,
) -> Plan[list[LatentSource]]:
    """Return the sources, each moved by its edit: a w for a model with styles, otherwise a z.

    `image_plan` turns them into images. Raises ValueError if a w would be moved in z.
    """
    moved = move_latents(sources, edits, manifest, vectors)
    if manifest.styles is None:
        return moved
    w = move_styles((yield from style_plan(manifest, moved, cache)), edits, manifest, vectors)
    return [
        LatentSource(w=row, transform=source.transform)
        for row, source in zip(w, sources, strict=True)
    ]


def edited_image_plan(
    manifest: Manifest,
    sources: Sequence[LatentSource],
    edits: Sequence[Edit],
    vectors: Vectors,
    cache: StyleLookup | None = None,
) -> Plan[Pixels]:
    """Return the images ``[N, H, W, C] uint8`` of sources that are moved by their edits."""
    moved = yield from edit_plan(manifest, sources, edits, vectors, cache)
    return (yield from image_plan(manifest, moved))


def inversion_plan(
    manifest: Manifest, images: Pixels, classes: Sequence[int] = ()
) -> Plan[list[Inversion]]:
    """Return the latent of each image ``[N, H, W, C] uint8``, by the encoder of the model.

    Each pass of the encoder corrects the latents, given the images and their current
    reconstructions (ReStyle, arXiv:2104.02699, equation 2). The best pass is kept. For a model
    without styles, every class of `classes` is tried; they must not be empty if it has classes.

    Raises InversionFailed, and ValueError if the model has no encoder.
    """
    candidates = Candidates(manifest, images, classes)
    assert manifest.encoder is not None  # noqa: S101 - checked by Candidates
    space = manifest.latent_space_name
    # The first reconstruction is the same for all images.
    first = yield from image_plan(manifest, candidates.starts)
    reconstructions = np.tile(first, (len(images), 1, 1, 1))
    for number in range(1, manifest.encoder.passes + 1):
        inputs = feeds(candidates.sources, manifest) if space == "z" else {}
        inputs |= {
            space: candidates.latents,
            "image": candidates.images,
            "reconstruction": reconstructions,
        }
        names = manifest.graphs[ENCODER].inputs
        outputs = yield GraphRun(ENCODER, {name: inputs[name] for name in names})
        candidates.move(outputs[encoder_output(space)])
        reconstructions = yield from image_plan(manifest, candidates.sources)
        candidates.keep_better(reconstructions, number)
    return candidates.best()


def inversion_rows(manifest: Manifest, images: int, classes: int = 0) -> int:
    """Return the rows of all runs in the `inversion_plan` of `images` images and `classes` classes.

    Raises ValueError if the model has no encoder.
    """
    if manifest.encoder is None:
        raise ValueError(f"{manifest.name} has no encoder")
    starts = max(classes, 1)
    # In each pass, the encoder and the generator run once for each image and class.
    return starts * (1 + 2 * manifest.encoder.passes * images)


def frame_plan(
    manifest: Manifest, walk: Interpolation, positions: Sequence[Place], w: Array | None
) -> Plan[Pixels]:
    """Return the images at `positions` of a walk; `w` are the styles of its keys, for space w."""
    if w is None:
        run = GraphRun(GENERATOR, feeds_at(walk.keys, positions, walk.path, manifest))
    else:
        run = GraphRun(SYNTHESIS, {"w": rows_at(w, positions, walk.path)})
    outputs = yield run
    return outputs["pixels"]


def walk_plan(manifest: Manifest, walk: Interpolation, positions: Sequence[Place]) -> Plan[Pixels]:
    """Return the images at `positions` of a walk, in the space of the walk."""
    w = (yield from style_plan(manifest, walk.keys)) if walk.space == "w" else None
    return (yield from frame_plan(manifest, walk, positions, w))


def _mixed_styles(mixings: Sequence[StyleMixing], w: Array) -> list[NDArray[np.float32]]:
    """Return the mixed styles of each mixing, from the styles of all of their rows and columns."""
    mixed = []
    start_row = 0
    for mixing in mixings:
        middle = start_row + len(mixing.rows)
        end = middle + len(mixing.columns)
        mixed.append(mix_styles(w[start_row:middle], w[middle:end], mixing.layers))
        start_row = end
    return mixed


def _run_in_parts(step: GraphRun, run: RunGraph, max_rows: int) -> Feeds:
    if step.rows <= max_rows:
        return run(step.role, step.feeds)
    parts = [
        run(
            step.role,
            {name: array[row : row + max_rows] for name, array in step.feeds.items()},
        )
        for row in range(0, step.rows, max_rows)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
