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
from service.runtime.latent.sources import LatentSource, feeds
from service.runtime.latent.transforms import identity_transforms
from service.runtime.models.manifest import (
    GENERATOR,
    MAPPING,
    SYNTHESIS,
    TRANSFORM,
    Graph,
    ManifestError,
    StyleSpace,
    file_sha256,
    read_manifest,
)
from service.runtime.models.memory_budget import MemoryBudget
from service.runtime.models.probe_inputs import probe_images, probe_masks
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
    """The model is there and cannot be served; the message says why."""


@dataclass(frozen=True)
class _Sessions:
    """A session for each graph, by role: those of the plan, and the same graphs with more threads
    a run, for a batch that has the machine to itself.
    """

    usual: Mapping[str, Session]
    alone: Mapping[str, Session]


class Model:
    """A model, verified, loaded and run once.

    Rows go from `feeds` to pictures by the role `generator`, whichever graphs that takes. A model
    with styles can also be run half the way at a time: `mapping`, then `synthesis`; one with
    directions by each of them, the first of which is what `generator` stands for.

    With a budget of memory the sessions may be given back at any time, and are loaded again, in
    the thread that wants to run them. What was verified is verified again then, so that a model
    never is another one than its manifest says.
    """

    def __init__(
        self,
        folder: Path,
        provider: Provider,
        plan: ExecutionPlan,
        budget: MemoryBudget | None = None,
        verify: Callable[[Model], None] = lambda _: None,
    ) -> None:
        """Load the model in `folder`; with a `budget`, not before it is run.

        `verify` looks at the loaded model, and raises where it may not be served. Raises
        ManifestError, GraphError (a digest that differs, a file that ONNX Runtime refuses, inputs,
        outputs or shapes other than the manifest's) or ProviderUnavailable.
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
        # What it took when it was last loaded, where that is counted.
        self.memory_bytes = 0
        # How the golden pictures came out, once they were looked at.
        self.golden: GoldenMatch | None = None
        # Why it can no longer be loaded.
        self.problem: str | None = None
        self._budget = budget
        self._verify = verify
        self._lock = threading.RLock()
        self._sessions: _Sessions | None = None
        # Loaded, and not yet looked at: for the thread that does.
        self._unproven: _Sessions | None = None
        if budget is None:
            self._load()

    @property
    def loaded(self) -> bool:
        """Whether its sessions are there."""
        return self._sessions is not None

    @property
    def sessions(self) -> Mapping[str, Session]:
        """The sessions of its graphs, by role; loaded where they are not. Raises ModelFailed."""
        return self._there().usual

    @property
    def alone(self) -> Mapping[str, Session]:
        """The sessions for a batch that has the machine to itself; the usual ones where the plan
        has no others. Raises ModelFailed.
        """
        return self._there().alone

    def _there(self) -> _Sessions:
        """Return the sessions, loaded where they are not. Raises ModelFailed."""
        sessions = self._sessions
        if sessions is None:
            with self._lock:
                sessions = self._sessions or self._unproven or self._load_again()
        if self._budget is not None:
            self._budget.touch(self)
        return sessions

    def take_over(self, other: Model) -> None:
        """Take the plan and the sessions of a model of the same folder that is loaded."""
        self.plan, self.golden, self._sessions = other.plan, other.golden, other._there()

    def lend(self, other: Model) -> None:
        """Let `other`, the same model with fewer threads a run, use the sessions of this one for
        batches that have the machine to themselves.
        """
        other._sessions = replace(other._there(), alone=self.sessions)
        other.plan = replace(other.plan, alone=self.plan.threads)

    def unload(self) -> None:
        """Let go of the sessions. Runs that have begun end on them."""
        self._sessions = None

    def _load(self) -> _Sessions:
        graphs = self.manifest.graphs
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
        self._unproven = _Sessions(usual, alone)
        try:
            self._warm()
            self._verify(self)
            self._sessions = self._unproven
        finally:
            self._unproven = None
        return self._sessions

    def _load_again(self) -> _Sessions:
        if self.problem is None:
            try:
                with nullcontext() if self._budget is None else self._budget.loading(self):
                    sessions = self._load()
                    # What a whole batch takes stays taken.
                    for rows in self.plan.buckets or (self.plan.max_rows,):
                        self.generate(range(rows))
                return sessions
            except OutOfMemory:
                # Not of this model's making: there may be more the next time.
                raise
            except Exception as error:  # noqa: BLE001 - a model folder is input, and harms no other
                self.problem = problem_of(error)
                self._sessions = None
        raise ModelFailed(f"{self.manifest.name} cannot be served: {self.problem}")

    def _warm(self) -> None:
        """Run one picture: the first run allocates, and a wrong shape shows here, not in public."""
        image = self.manifest.image
        if (space := self.manifest.styles) is not None:
            w = self.run(MAPPING, self.feeds([0]))["w"]
            _expect("mapping", w, np.float32, (1, len(space.layers), space.dimension))
            maker, pixels = SYNTHESIS, self.synthesize(w)
        else:
            maker, pixels = GENERATOR, self.generate([0])
        for direction in self.directions[1:]:
            made = self.run(direction, self.feeds([0]))["pixels"]
            _expect(direction, made, np.uint8, (1, image.height, image.width, image.channels))
        _expect(maker, pixels, np.uint8, (1, image.height, image.width, image.channels))

    @property
    def directions(self) -> tuple[str, ...]:
        """The ways from pictures to pictures, where there are several."""
        return self.manifest.input.directions if self.manifest.input else ()

    def classes_of(self, seeds: Sequence[int]) -> list[int] | None:
        """Return the classes of `seeds` where none are asked for; None without classes.

        Seed s has class s modulo their number, so that seeds in a row show every class in turn.
        """
        count = len(self.manifest.classes)
        return [seed % count for seed in seeds] if count else None

    def truncations_of(self, seeds: Sequence[int]) -> list[float] | None:
        """Return the truncations of `seeds` where none are asked for; None where none is known."""
        truncation = self.manifest.latent and self.manifest.latent.truncation
        return [truncation.default] * len(seeds) if truncation else None

    def feeds(
        self,
        seeds: Sequence[int],
        classes: Sequence[int] | None = None,
        truncations: Sequence[float] | None = None,
    ) -> dict[str, Array]:
        """Return the inputs for `seeds`, a row each, of the roles `generator` and `mapping`.

        `classes` are indices. What is None, or not known to the model, is as `classes_of` and
        `truncations_of` say. A model that makes pictures of pictures is given drawn ones. Raises
        ValueError for a seed out of range.
        """
        if (given := self.manifest.input) is not None:
            drawn = {"image": probe_images(seeds, given.side, given.channels)}
            return drawn | ({"mask": probe_masks(seeds, given.side)} if given.masked else {})
        return feeds(self._sources(seeds, classes, truncations), self.manifest)

    def _sources(
        self,
        seeds: Sequence[int],
        classes: Sequence[int] | None,
        truncations: Sequence[float] | None,
    ) -> list[LatentSource]:
        indices = classes or self.classes_of(seeds)
        return [
            LatentSource(
                seed,
                classes=None if indices is None else {indices[i]: 1.0},
                truncation=truncations[i] if truncations else None,
            )
            for i, seed in enumerate(seeds)
        ]

    def pixels_per_row(self, role: str, feeds: Mapping[str, Array]) -> int:
        """Return what each row of a run counts for, in pixels that are made."""
        if role == MAPPING:
            # Styles are no pictures yet. One pixel a row keeps those that wait bounded too.
            return 1
        if (given := self.manifest.input) is not None:
            height, width = feeds["image"].shape[1:3]
            return int(height * width * given.factor**2)
        return self.manifest.image.pixels

    def max_rows(self, pixels_per_row: int) -> int:
        """Return the rows of a batch: as many pixels as in one of the size that was measured."""
        usual = self.manifest.image.pixels
        return max(min(self.plan.max_rows, self.plan.max_rows * usual // pixels_per_row), 1)

    def run(
        self, role: str, feeds: Mapping[str, Array], *, alone: bool = False
    ) -> dict[str, Array]:
        """Run one batch, in this thread: ``generator`` and ``synthesis`` give ``pixels``, and
        ``mapping`` gives ``w``. Without a ``transform`` pictures lie as they do by themselves.

        One that is `alone` takes more threads where the plan has them for it; the outputs are the
        same. Raises KeyError for a role that the model does not have.
        """
        if role == GENERATOR and self.manifest.styles is not None:
            mapped = {name: array for name, array in feeds.items() if name != TRANSFORM}
            moved = {name: array for name, array in feeds.items() if name == TRANSFORM}
            w = self.run(MAPPING, mapped, alone=alone)["w"]
            return self.run(SYNTHESIS, {"w": w, **moved}, alone=alone)
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
        """Return the images ``[N, H, W, C] uint8`` of `seeds`, in this thread, in one batch."""
        if self.manifest.input is not None:
            return self.run(GENERATOR, self.feeds(seeds))["pixels"]
        plan = image_plan(self.manifest, self._sources(seeds, classes, truncations))
        return execute(plan, self.run)

    def styles(
        self,
        seeds: Sequence[int],
        classes: Sequence[int] | None = None,
        truncations: Sequence[float] | None = None,
    ) -> Array:
        """Return the styles ``w [N, layers, w_dim] float32`` of `seeds`, truncated already.

        Raises ValueError for a model without styles.
        """
        self._style_space()
        plan = style_plan(self.manifest, self._sources(seeds, classes, truncations))
        return execute(plan, self.run)

    def synthesize(self, w: Array, transform: Array | None = None) -> Array:
        """Make the pictures ``[N, H, W, C] uint8`` of the styles ``w [N, layers, w_dim] float32``,
        moved and turned by a `transform` ``[N, 3, 3] float32`` where there is one.

        Raises ValueError for a model without styles, and for styles of another shape.
        """
        space = self._style_space()
        expected = (len(space.layers), space.dimension)
        if w.shape[1:] != expected:
            raise ValueError(f"expected styles [N, {expected[0]}, {expected[1]}], got {w.shape}")
        given = {"w": w} if transform is None else {"w": w, TRANSFORM: transform}
        return self.run(SYNTHESIS, given)["pixels"]

    def _style_space(self) -> StyleSpace:
        if self.manifest.styles is None:
            raise ValueError(f"{self.manifest.name} has no styles")
        return self.manifest.styles


def problem_of(error: Exception) -> str:
    """Return why a model cannot be served, for people."""
    known = isinstance(error, (ManifestError, GraphError, ProviderUnavailable))
    return str(error) if known else f"{type(error).__name__}: {error}"


def _size(path: Path) -> int:
    """Return a file's bytes; 0 for one that is not there, which loading it will tell."""
    return path.stat().st_size if path.exists() else 0


def _expect(maker: str, made: Array, dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    if made.shape != shape or made.dtype != dtype:
        raise GraphError(
            f"the {maker} makes {made.dtype} {list(made.shape)}, "
            f"and the manifest says {np.dtype(dtype)} {list(shape)}"
        )


def _verify(path: Path, sha256: str) -> None:
    try:
        found = file_sha256(path)
    except OSError as error:
        raise GraphError(f"{path.name} cannot be read: {error.strerror}") from error
    if found != sha256:
        raise GraphError(
            f"{path.name} has sha256 {found[:12]}…, and the manifest says {sha256[:12]}…"
        )


def _load_graph(folder: Path, graph: Graph, provider: Provider, plan: ExecutionPlan) -> Session:
    for file, sha256 in graph.files:
        _verify(folder / file, sha256)
    path = folder / graph.file
    session = Session(path, provider, plan)
    if set(session.inputs) != set(graph.inputs) or set(session.outputs) != set(graph.outputs):
        raise GraphError(
            f"{graph.file} takes {list(session.inputs)} and gives {list(session.outputs)}, "
            f"and the manifest says {list(graph.inputs)} and {list(graph.outputs)}"
        )
    return session
