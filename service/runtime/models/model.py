"""A model: its manifest, and a session for each of its graphs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import numpy as np

from service.runtime.generation import execute, image_plan, style_plan
from service.runtime.latent.directions import Vector, load_directions
from service.runtime.latent.sources import LatentSource, feeds
from service.runtime.latent.transforms import identity_transforms
from service.runtime.models.manifest import ManifestError, file_sha256, read_manifest
from service.runtime.models.memory_budget import MemoryBudget
from service.runtime.models.parts.graphs import (
    DISCRIMINATOR,
    ENCODER,
    GENERATOR,
    MAPPING,
    SYNTHESIS,
    TRANSFORM,
    Graph,
    encoder_output,
)
from service.runtime.models.parts.latent import StyleSpace
from service.runtime.models.probe_inputs import (
    probe_images,
    probe_masks,
    probe_texts,
    probe_tokens,
)
from service.runtime.onnx.sessions import (
    Array,
    ExecutionPlan,
    GraphError,
    OutOfMemory,
    Provider,
    ProviderUnavailable,
    Session,
)


class GoldenMatch(StrEnum):
    """How a model's images compare with its golden images."""

    EXACT = "exact"
    NEAR = "near"


class ModelFailed(Exception):
    """The model exists but cannot be served. The message gives the reason."""


@dataclass(frozen=True)
class _Sessions:
    """The sessions of the graphs, by role.

    `usual` follow the execution plan. `alone` run the same graphs with more threads, for a batch
    that is the only one running. If the plan defines no threads for that case, `alone` is `usual`.
    """

    usual: Mapping[str, Session]
    alone: Mapping[str, Session]


class Model:
    """A model that is verified, loaded and warmed up.

    The role `generator` turns inputs into images, with one graph or several. A model with styles
    also has the roles `mapping` and `synthesis`. An image-to-image model with several directions
    has one role per direction, and `generator` is the first of them.

    With a memory budget, the sessions may be released at any time; the next thread that runs the
    model loads them again. Reloading repeats every check, so a model always matches its manifest.
    """

    def __init__(
        self,
        folder: Path,
        provider: Provider,
        plan: ExecutionPlan,
        budget: MemoryBudget | None = None,
        verify: Callable[[Model], None] = lambda _: None,
    ) -> None:
        """Load the model in `folder`. With a `budget`, loading is deferred to the first run.

        `verify` is called with the loaded model, and raises if it must not be served.

        Raises ManifestError, ProviderUnavailable, or GraphError (a wrong digest, a file that ONNX
        Runtime rejects, or inputs, outputs or shapes that differ from the manifest).
        """
        self.folder = folder
        self.provider = provider
        self.plan = plan
        self.manifest = read_manifest(folder)
        self.digest = self.manifest.digest
        self.files_bytes = sum(
            _size(folder / name)
            for graph in self.manifest.graphs.values()
            for name, _ in graph.files
        )
        # Memory that the last load allocated; 0 if it is not measured.
        self.memory_bytes = 0
        # Result of the comparison with the golden images; None before it was made.
        self.golden: GoldenMatch | None = None
        # Why loading failed. Once set, loading is not tried again.
        self.problem: str | None = None
        self._budget = budget
        self._verify = verify
        self._lock = threading.RLock()
        self._sessions: _Sessions | None = None
        self._direction_vectors: Mapping[str, Vector] | None = None
        # Loaded but not yet verified; used by the thread that verifies.
        self._unverified: _Sessions | None = None
        if budget is None:
            self._load()

    @property
    def loaded(self) -> bool:
        """Whether the sessions are loaded."""
        return self._sessions is not None

    @property
    def sessions(self) -> Mapping[str, Session]:
        """The sessions by role, loaded if necessary. Raises ModelFailed."""
        return self._loaded_sessions().usual

    @property
    def alone(self) -> Mapping[str, Session]:
        """The sessions for a batch that is the only one running. Raises ModelFailed."""
        return self._loaded_sessions().alone

    def _loaded_sessions(self) -> _Sessions:
        """Return the sessions, loaded if necessary. Raises ModelFailed."""
        sessions = self._sessions
        if sessions is None:
            with self._lock:
                sessions = self._sessions or self._unverified or self._load_again()
        if self._budget is not None:
            self._budget.touch(self)
        return sessions

    @property
    def direction_vectors(self) -> Mapping[str, Vector]:
        """The vectors of the directions in latent space by name. Raises ModelFailed."""
        if self._direction_vectors is None:
            # The sessions are not loaded: they take seconds, and the vectors do not need them.
            try:
                self._direction_vectors = load_directions(self.folder, self.manifest)
            except ManifestError as error:
                raise ModelFailed(f"{self.manifest.name} cannot be served: {error}") from error
        return self._direction_vectors

    def take_over(self, other: Model) -> None:
        """Take the plan and the sessions of another loaded model of the same folder."""
        self.plan, self.golden, self._sessions = other.plan, other.golden, other._loaded_sessions()

    def lend(self, other: Model) -> None:
        """Share these sessions with `other`, the same model with fewer threads per run.

        `other` uses them for a batch that is the only one running.
        """
        other._sessions = replace(other._loaded_sessions(), alone=self.sessions)
        other.plan = replace(other.plan, alone=self.plan.threads)

    def unload(self) -> None:
        """Release the sessions. Runs in progress keep them until they end."""
        self._sessions = None

    def _load(self) -> _Sessions:
        graphs = self.manifest.graphs
        self._direction_vectors = load_directions(self.folder, self.manifest)
        for name, sha256 in self.manifest.token_files:
            _verify(self.folder / name, sha256)
        usual = {
            role: _load_graph(self.folder, graph, self.provider, self.plan)
            for role, graph in graphs.items()
        }
        alone: Mapping[str, Session] = usual
        if self.plan.alone:
            more = replace(self.plan, threads=self.plan.alone)
            alone = {
                role: Session(self.folder / graph.file, self.provider, more)
                for role, graph in graphs.items()
            }
        self._unverified = _Sessions(usual, alone)
        try:
            self._warm()
            self._verify(self)
            self._sessions = self._unverified
        finally:
            self._unverified = None
        return self._sessions

    def _load_again(self) -> _Sessions:
        if self.problem is None:
            try:
                with nullcontext() if self._budget is None else self._budget.loading(self):
                    sessions = self._load()
                    # The memory of a full batch stays allocated: include it in the measurement.
                    for rows in self.plan.buckets or (self.plan.max_rows,):
                        self.generate(range(rows))
                return sessions
            except OutOfMemory:
                # Not the fault of this model: the next attempt may succeed.
                raise
            except Exception as error:  # noqa: BLE001 - one invalid model must not affect others
                self.problem = problem_of(error)
                self._sessions = None
        raise ModelFailed(f"{self.manifest.name} cannot be served: {self.problem}")

    def _warm(self) -> None:
        """Run one row: allocates memory, and checks output shapes before the first request."""
        if self.manifest.image is None or self.manifest.text_input is not None:
            role = self.manifest.main_role
            outputs = self.run(role, self.feeds([0]))
            spec = self.manifest.output
            _expect(role, outputs[spec.tensor], spec.dtype.type, (1, *spec.row))
            if (text := self.manifest.text) is not None:
                _expect(role, outputs["new_state"], np.float32, (1, text.state))
            return
        image = self.manifest.image_spec
        if (space := self.manifest.styles) is not None:
            w = self.run(MAPPING, self.feeds([0]))["w"]
            _expect(MAPPING, w, np.float32, (1, len(space.layers), space.dimension))
            role, pixels = SYNTHESIS, self.synthesize(w)
        else:
            role, pixels = GENERATOR, self.generate([0])
        for direction in self.directions[1:]:
            output = self.run(direction, self.feeds([0]))["pixels"]
            _expect(direction, output, np.uint8, (1, image.height, image.width, image.channels))
        _expect(role, pixels, np.uint8, (1, image.height, image.width, image.channels))
        self._warm_additions(pixels)

    def _warm_additions(self, pixels: Array) -> None:
        """Run the encoder and the discriminator with one image ``[1, H, W, C] uint8``."""
        manifest = self.manifest
        feeds = self.feeds([0]) | {"image": pixels, "reconstruction": pixels}
        space = manifest.latent_space_name
        shape: tuple[int, ...] = (1, manifest.latent_dimension) if manifest.added_roles else ()
        if manifest.styles is not None:
            shape = (1, len(manifest.styles.layers), manifest.styles.dimension)
            feeds["w"] = np.zeros(shape, np.float32)
        for role, name, output_shape in (
            (ENCODER, encoder_output(space), shape),
            (DISCRIMINATOR, "score", (1,)),
        ):
            if role in manifest.added_roles:
                inputs = manifest.graphs[role].inputs
                output = self.run(role, {each: feeds[each] for each in inputs})[name]
                _expect(role, output, np.float32, output_shape)

    @property
    def directions(self) -> tuple[str, ...]:
        """The directions of an image-to-image model; empty if it has only one."""
        return self.manifest.input.directions if self.manifest.input else ()

    def classes_of(self, seeds: Sequence[int]) -> list[int] | None:
        """Return the default classes of `seeds`, or None if the model has no classes.

        Seed s has class s modulo the number of classes, so that consecutive seeds show all classes.
        """
        count = len(self.manifest.classes)
        return [seed % count for seed in seeds] if count else None

    def truncations_of(self, seeds: Sequence[int]) -> list[float] | None:
        """Return the default truncations of `seeds`, or None if the model has no truncation."""
        truncation = self.manifest.latent and self.manifest.latent.truncation
        return [truncation.default] * len(seeds) if truncation else None

    def feeds(
        self,
        seeds: Sequence[int],
        classes: Sequence[int] | None = None,
        truncations: Sequence[float] | None = None,
    ) -> dict[str, Array]:
        """Return the inputs of the main role (and `mapping`), one row per seed.

        `classes` are indices; `classes_of` and `truncations_of` are the defaults. Models that take
        images or text get synthetic ones. Raises ValueError if a seed is out of range.
        """
        if (spec := self.manifest.input) is not None:
            inputs = {"image": probe_images(seeds, spec.size, spec.channels)}
            return inputs | ({"mask": probe_masks(seeds, spec.size)} if spec.masked else {})
        if (text := self.manifest.text) is not None:
            state = np.zeros((len(seeds), text.state), np.float32)
            token = np.array([seed % text.size for seed in seeds], np.int64)
            return {"token": token, "state": state}
        if self.manifest.text_encoder is not None:
            return probe_tokens(seeds)
        return feeds(self._sources(seeds, classes, truncations), self.manifest)

    def _sources(
        self,
        seeds: Sequence[int],
        classes: Sequence[int] | None,
        truncations: Sequence[float] | None,
    ) -> list[LatentSource]:
        indices = classes or self.classes_of(seeds)
        text = self.manifest.text_input
        texts = probe_texts(seeds, text.dimension) if text else None
        return [
            LatentSource(
                seed,
                classes=None if indices is None else {indices[i]: 1.0},
                truncation=truncations[i] if truncations else None,
                text=texts[i] if texts is not None else None,
            )
            for i, seed in enumerate(seeds)
        ]

    def digest_of(self, role: str) -> str:
        """Return a digest of everything that determines the outputs of a role.

        Models with the same digest can have different encoders and discriminators.
        """
        if role in self.manifest.added_roles:
            return f"{self.digest}+{self.manifest.graphs[role].sha256}"
        return self.digest

    def pixels_per_row(self, role: str, feeds: Mapping[str, Array]) -> int:
        """Return the cost of a row, the unit in which the queue is bounded: output pixels.

        For other outputs than images, it is the number of samples or other values.
        """
        if role == MAPPING:
            # Styles are not images, but counting a pixel per row bounds their number, too.
            return 1
        if (spec := self.manifest.input) is not None:
            height, width = feeds["image"].shape[1:3]
            return int(height * width * spec.factor**2)
        return self.manifest.output.cost

    def max_rows(self, pixels_per_row: int) -> int:
        """Return the maximum batch size for rows of this many pixels.

        Neither the rows nor the pixels of a batch exceed those measured for the plan.
        """
        if self.manifest.text_encoder is not None:
            # The vector of a text must not depend on others: see `prompt_plan`.
            return 1
        measured_pixels = self.manifest.output.cost * self.plan.max_rows
        return max(min(self.plan.max_rows, measured_pixels // pixels_per_row), 1)

    def run(
        self, role: str, feeds: Mapping[str, Array], *, alone: bool = False
    ) -> dict[str, Array]:
        """Run one batch in the calling thread.

        The role ``mapping`` returns ``w``, ``encoder`` returns ``new_w`` or ``new_z``,
        ``discriminator`` returns ``score``, and all others return the output of the manifest, such
        as ``pixels``; ``step`` also returns ``new_state``. A missing
        ``transform`` is the identity. With `alone`, the run uses more threads if the plan allows
        it; the outputs are the same. Raises KeyError if the model does not have the role.
        """
        if role == GENERATOR and self.manifest.styles is not None:
            mapping_feeds = {name: array for name, array in feeds.items() if name != TRANSFORM}
            transform = {name: array for name, array in feeds.items() if name == TRANSFORM}
            w = self.run(MAPPING, mapping_feeds, alone=alone)["w"]
            return self.run(SYNTHESIS, {"w": w, **transform}, alone=alone)
        if role == SYNTHESIS and self.manifest.takes_transform and TRANSFORM not in feeds:
            feeds = {**feeds, TRANSFORM: identity_transforms(len(feeds["w"]))}
        if role == GENERATOR and self.directions:
            role = self.directions[0]
        return (self.alone if alone else self.sessions)[role].run(feeds)

    def generate(
        self,
        seeds: Sequence[int],
        classes: Sequence[int] | None = None,
        truncations: Sequence[float] | None = None,
    ) -> Array:
        """Return the outputs of `seeds`, in this thread, in one batch.

        They are images ``[N, H, W, C] uint8``, or the rows of another output: samples
        ``[N, T] int16``, the logits of a step, or vectors of texts.
        """
        manifest = self.manifest
        if manifest.latent is None:
            return self.run(manifest.main_role, self.feeds(seeds))[manifest.output.tensor]
        plan = image_plan(self.manifest, self._sources(seeds, classes, truncations))
        return execute(plan, self.run)

    def styles(
        self,
        seeds: Sequence[int],
        classes: Sequence[int] | None = None,
        truncations: Sequence[float] | None = None,
    ) -> Array:
        """Return the styles ``w [N, layers, w_dim] float32`` of `seeds`, with truncation applied.

        Raises ValueError if the model has no styles.
        """
        self._style_space()
        plan = style_plan(self.manifest, self._sources(seeds, classes, truncations))
        return execute(plan, self.run)

    def synthesize(self, w: Array, transform: Array | None = None) -> Array:
        """Return the images ``[N, H, W, C] uint8`` of the styles ``w [N, layers, w_dim] float32``.

        `transform` is ``[N, 3, 3] float32``; default: the identity. Raises ValueError if the model
        has no styles, or if `w` has the wrong shape.
        """
        space = self._style_space()
        expected = (len(space.layers), space.dimension)
        if w.shape[1:] != expected:
            raise ValueError(f"expected styles [N, {expected[0]}, {expected[1]}], got {w.shape}")
        inputs = {"w": w} if transform is None else {"w": w, TRANSFORM: transform}
        return self.run(SYNTHESIS, inputs)["pixels"]

    def _style_space(self) -> StyleSpace:
        if self.manifest.styles is None:
            raise ValueError(f"{self.manifest.name} has no styles")
        return self.manifest.styles


def problem_of(error: Exception) -> str:
    """Return the reason why a model cannot be served."""
    known = isinstance(error, (ManifestError, GraphError, ProviderUnavailable))
    return str(error) if known else f"{type(error).__name__}: {error}"


def _size(path: Path) -> int:
    """Return the size of a file in bytes, or 0 if it is missing; loading reports that."""
    return path.stat().st_size if path.exists() else 0


def _expect(role: str, output: Array, dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    if output.shape != shape or output.dtype != dtype:
        raise GraphError(
            f"{role} returned {output.dtype} {list(output.shape)}; "
            f"the manifest expects {np.dtype(dtype)} {list(shape)}"
        )


def _verify(path: Path, sha256: str) -> None:
    try:
        actual = file_sha256(path)
    except OSError as error:
        raise GraphError(f"{path.name} cannot be read: {error.strerror}") from error
    if actual != sha256:
        raise GraphError(
            f"{path.name} has sha256 {actual[:12]}…; the manifest expects {sha256[:12]}…"
        )


def _load_graph(folder: Path, graph: Graph, provider: Provider, plan: ExecutionPlan) -> Session:
    for file, sha256 in graph.files:
        _verify(folder / file, sha256)
    path = folder / graph.file
    session = Session(path, provider, plan)
    if set(session.inputs) != set(graph.inputs) or set(session.outputs) != set(graph.outputs):
        raise GraphError(
            f"{graph.file} has inputs {list(session.inputs)} and outputs {list(session.outputs)}; "
            f"the manifest expects {list(graph.inputs)} and {list(graph.outputs)}"
        )
    return session
