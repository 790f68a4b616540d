"""A loaded model: its manifest, and a session for each of its graphs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from service.runtime import latents
from service.runtime.manifest import GENERATOR, Graph, file_sha256, read_manifest
from service.runtime.sessions import Array, ExecutionPlan, GraphError, Provider, Session


class Model:
    """A model, verified, loaded and run once."""

    def __init__(self, folder: Path, provider: Provider, plan: ExecutionPlan) -> None:
        """Load the model in `folder`.

        Raises ManifestError, GraphError (a digest that differs, a file that ONNX Runtime refuses,
        inputs or outputs other than the manifest's) or ProviderUnavailable.
        """
        self.folder = folder
        self.provider = provider
        self.plan = plan
        self.manifest = read_manifest(folder)
        self.digest = self.manifest.digest
        self.sessions = {
            role: _load_graph(folder, graph, provider, plan)
            for role, graph in self.manifest.graphs.items()
        }
        self._warm()

    def _warm(self) -> None:
        """Run one picture: the first run allocates, and a wrong shape shows here, not in public."""
        image = self.manifest.image
        pixels = self.generate([0])
        expected = (1, image.height, image.width, image.channels)
        if pixels.shape != expected or pixels.dtype != np.uint8:
            raise GraphError(
                f"the generator makes {pixels.dtype} {list(pixels.shape)}, "
                f"and the manifest says uint8 {list(expected)}"
            )

    def classes_of(self, seeds: Sequence[int]) -> list[int] | None:
        """Return the classes of `seeds` where none are asked for; None without classes.

        Seed s has class s modulo their number, so that seeds in a row show every class in turn.
        """
        count = len(self.manifest.classes)
        return [seed % count for seed in seeds] if count else None

    def feeds(self, seeds: Sequence[int], classes: Sequence[int] | None = None) -> dict[str, Array]:
        """Return the generator's inputs for `seeds`, a row each. Raises ValueError."""
        assert self.manifest.latent is not None  # noqa: S101 - the manifest sees to it
        feeds: dict[str, Array] = {"z": latents.draw(seeds, self.manifest.latent.dimension)}
        classes = classes or self.classes_of(seeds)
        if classes is not None:
            feeds["class_index"] = np.asarray(classes, np.int64)
        return feeds

    def generate(self, seeds: Sequence[int], classes: Sequence[int] | None = None) -> Array:
        """Make the pictures ``[N, H, W, C] uint8`` of `seeds`, in this thread, in one batch."""
        return self.sessions[GENERATOR].run(self.feeds(seeds, classes))["pixels"]


def _load_graph(folder: Path, graph: Graph, provider: Provider, plan: ExecutionPlan) -> Session:
    path = folder / graph.file
    try:
        found = file_sha256(path)
    except OSError as error:
        raise GraphError(f"{graph.file} cannot be read: {error.strerror}") from error
    if found != graph.sha256:
        raise GraphError(
            f"{graph.file} has sha256 {found[:12]}…, and the manifest says {graph.sha256[:12]}…"
        )
    session = Session(path, provider, plan)
    if set(session.inputs) != set(graph.inputs) or set(session.outputs) != set(graph.outputs):
        raise GraphError(
            f"{graph.file} takes {list(session.inputs)} and gives {list(session.outputs)}, "
            f"and the manifest says {list(graph.inputs)} and {list(graph.outputs)}"
        )
    return session
