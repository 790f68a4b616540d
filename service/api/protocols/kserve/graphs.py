"""The graphs that the Open Inference Protocol serves, and the one way in which they run.

Every graph of a model has a name. The model's own name runs all graphs, from latents to pixels;
``name:role`` runs a single graph. Model names cannot contain a colon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request

from service.api.execution import request_execution
from service.api.problems import invalid
from service.api.protocols.kserve.inference import InferenceRequest
from service.api.state import state_of
from service.runtime.generation import Feeds, GraphRun
from service.runtime.models.catalog import ModelNotFound, State
from service.runtime.models.model import Model
from service.runtime.models.parts.graphs import GENERATOR
from service.runtime.models.signatures import Signature, signatures, with_defaults
from service.runtime.scheduling.engine import Engine, NotReady
from service.runtime.scheduling.errors import JobTooLarge

T = TypeVar("T")

# The server's extensions and the graphs' platform, by the names that Triton uses.
EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository"]
PLATFORM = "onnxruntime_onnx"
BACKEND = "onnxruntime"


@dataclass(frozen=True)
class ServedGraph:
    """One role of one version of a model."""

    model: Model
    role: str
    signature: Signature

    @property
    def name(self) -> str:
        """The graph's name in the protocol."""
        manifest = self.model.manifest
        return _graph_name(manifest.name, self.role, manifest.main_role)

    def versions(self, engine: Engine) -> list[str]:
        """Return the versions of the model that are ready."""
        name = self.model.manifest.name
        versions = engine.catalog.versions(name) if engine.catalog else []
        return [entry.version for entry in versions if entry.state is State.READY]


def find_graph(request: Request, name: str, version: str | None) -> ServedGraph:
    """Return the graph with this name and version. Raises NotReady and ModelNotFound."""
    model_name, colon, role = name.partition(":")
    reference = model_name if version is None else f"{model_name}@{version}"
    model = state_of(request).find_any_model(reference)
    by_role = signatures(model.manifest)
    role = role if colon else model.manifest.main_role
    if not by_role:
        raise ModelNotFound(f"{model.manifest.name} encodes the prompts of other models")
    if role not in by_role:
        main = model.manifest.main_role
        known = ", ".join(_graph_name(model.manifest.name, each, main) for each in by_role)
        raise ModelNotFound(f"no graph {name[:100]!r}; known graphs: {known}")
    return ServedGraph(model, role, by_role[role])


async def run_graph(
    request: Request, graph: ServedGraph, inference: InferenceRequest, write: Callable[[Feeds], T]
) -> T:
    """Run a graph within the deadline, and return ``write(outputs)``, computed off the event loop.

    Raises the errors of `RequestExecution.run`, and Problem (422) for more than the queue holds.
    """
    state = state_of(request)
    deadline_s = state.settings.deadline_s
    seconds = min(deadline_s, inference.timeout_s or deadline_s)
    feeds = with_defaults(graph.model.manifest, graph.signature, inference.feeds)
    async with request_execution(state.engine, request, seconds, inference.priority) as execution:
        try:
            return await execution.run(graph.model, GraphRun(graph.role, feeds), write)
        except JobTooLarge as error:
            message = f"the request is larger than the queue: {error}"
            raise invalid("inputs", message) from error


def index(engine: Engine, *, ready_only: bool) -> Iterator[dict[str, str]]:
    """Describe all graphs of all versions of all models. Raises NotReady."""
    if engine.catalog is None:
        raise NotReady(engine.reason or engine.state)
    for entry in engine.catalog.entries:
        ready = entry.state is State.READY
        if ready_only and not ready:
            continue
        # The roles of a model are known once it is loaded; nearly every model has a generator.
        main = entry.model.manifest.main_role if entry.model else GENERATOR
        for role in signatures(entry.model.manifest) if entry.model else (GENERATOR,):
            yield {
                "name": _graph_name(entry.name, role, main),
                "version": entry.version,
                "state": "READY" if ready else "UNAVAILABLE",
                "reason": entry.reason or "",
            }


def _graph_name(model: str, role: str, main: str) -> str:
    return model if role == main else f"{model}:{role}"
