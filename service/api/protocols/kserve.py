"""`/v2`: the Open Inference Protocol of KServe, with the parts of Triton that its client asks for.

Every graph of a model has a name: the model's own runs latents to pixels, whichever graphs that
takes, and ``name:role`` runs one of several. A colon stands in no model's name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from service import __version__
from service.api.execution import request_execution
from service.api.problems import Problem, client_disconnected, invalid
from service.api.protocols import kserve_codec as protocol
from service.api.routes import head_requests
from service.runtime.models.catalog import ModelNotFound, State
from service.runtime.models.manifest import GENERATOR
from service.runtime.models.model import Model
from service.runtime.models.signatures import Signature, Tensor, signatures
from service.runtime.scheduling.engine import Engine, EngineState, NotReady
from service.runtime.scheduling.scheduler import JobTooLarge
from service.settings import Settings

# As Triton names them.
_EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository"]
_PLATFORM = "onnxruntime_onnx"
_BACKEND = "onnxruntime"
# Bytes of a body that says one thing at most.
_SMALL_BODY = 4096
_CONFIG_TYPES = {"FP32": "TYPE_FP32", "INT64": "TYPE_INT64", "UINT8": "TYPE_UINT8"}


class InferenceError(BaseModel):
    """What went wrong, in one line."""

    error: str


_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": InferenceError, "description": text}
    for status, text in {
        400: "The request cannot be used",
        404: "No such model or graph",
        429: "The queue is full: see Retry-After",
        503: "Not ready: see Retry-After",
        504: "The deadline passed",
    }.items()
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"type": "object", "required": ["inputs"]}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


@dataclass(frozen=True)
class _Graph:
    """What a name stands for: one role of one version of a model."""

    model: Model
    role: str
    signature: Signature

    @property
    def name(self) -> str:
        return _graph_name(self.model.manifest.name, self.role)


def router(engine: Engine, settings: Settings, find: Callable[[str], Model]) -> APIRouter:
    """Return the routes; `find` gives the loaded model of a name."""
    routes = APIRouter(tags=["open inference protocol"], responses=_ERRORS)

    def graph_of(name: str, version: str | None) -> _Graph:
        """Raises what `find` raises, and ModelNotFound for a role that the model does not have."""
        model_name, colon, role = name.partition(":")
        model = find(model_name if version is None else f"{model_name}@{version}")
        by_role = signatures(model.manifest)
        role = role if colon else GENERATOR
        if role not in by_role:
            there = ", ".join(_graph_name(model.manifest.name, each) for each in by_role)
            raise ModelNotFound(f"no graph {name[:100]!r}; there are: {there}")
        return _Graph(model, role, by_role[role])

    @head_requests.get(routes, "/v2", summary="The server and the extensions that it knows")
    async def server() -> dict[str, Any]:
        return {"name": "ganymede", "version": __version__, "extensions": _EXTENSIONS}

    @head_requests.get(routes, "/v2/health/live", summary="Whether the process answers")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @head_requests.get(routes, "/v2/health/ready", summary="Whether the models are served")
    async def ready() -> dict[str, bool]:
        if engine.state is not EngineState.READY:
            raise NotReady(engine.reason or engine.state)
        return {"ready": True}

    @routes.post("/v2/repository/index", summary="Every graph of every version of the models")
    async def index(request: Request) -> Response:
        body = await _read(request, _SMALL_BODY)
        document = protocol.read_json(body) if body.strip() else {}
        ready_only = document.get("ready", False) if isinstance(document, dict) else None
        if not isinstance(ready_only, bool):
            raise invalid("ready", "expected an object, in which ready is true or false")
        listed = [one for one in _index(engine) if one["state"] == "READY" or not ready_only]
        return Response(json.dumps(listed), media_type="application/json")

    @head_requests.get(routes, "/v2/models/stats", include_in_schema=False)
    @head_requests.get(routes, "/v2/models/{name}/stats", include_in_schema=False)
    @head_requests.get(
        routes, "/v2/models/{name}/versions/{version}/stats", include_in_schema=False
    )
    async def statistics() -> None:
        raise Problem(
            404,
            "no-statistics",
            "There are no statistics here",
            "statistics are kept for Prometheus: see /metrics",
        )

    @head_requests.get(routes, "/v2/models/{name}", summary="What a graph takes and gives")
    @head_requests.get(
        routes, "/v2/models/{name}/versions/{version}", summary="The same of one version"
    )
    async def metadata(name: str, version: str | None = None) -> dict[str, Any]:
        graph = graph_of(name, version)
        return {
            "name": graph.name,
            "versions": [version] if version else _versions(engine, graph.model),
            "platform": _PLATFORM,
            "inputs": [_described(tensor) for tensor in graph.signature.inputs],
            "outputs": [_described(tensor) for tensor in graph.signature.outputs],
        }

    @head_requests.get(routes, "/v2/models/{name}/ready", summary="Whether a model is served")
    @head_requests.get(
        routes, "/v2/models/{name}/versions/{version}/ready", summary="The same of one version"
    )
    async def model_ready(name: str, version: str | None = None) -> dict[str, Any]:
        return {"name": graph_of(name, version).name, "ready": True}

    @head_requests.get(
        routes, "/v2/models/{name}/config", summary="A graph, as Triton's configuration says it"
    )
    @head_requests.get(
        routes, "/v2/models/{name}/versions/{version}/config", summary="The same of one version"
    )
    async def config(name: str, version: str | None = None) -> dict[str, Any]:
        graph = graph_of(name, version)
        return {
            "name": graph.name,
            "platform": _PLATFORM,
            "backend": _BACKEND,
            "max_batch_size": settings.max_images,
            "input": [_configured(tensor) for tensor in graph.signature.inputs],
            "output": [_configured(tensor) for tensor in graph.signature.outputs],
        }

    @routes.post("/v2/models/{name}/infer", summary="Run a graph", openapi_extra=_BODY)
    @routes.post(
        "/v2/models/{name}/versions/{version}/infer",
        summary="Run a graph of one version",
        openapi_extra=_BODY,
    )
    async def infer(request: Request, name: str, version: str | None = None) -> Response:
        graph = graph_of(name, version)
        most = protocol.most_bytes(graph.signature, settings.max_images)
        body = await _read(request, most)
        if encoding := request.headers.get("content-encoding", "").strip().lower():
            body = await run_in_threadpool(protocol.decompress, body, encoding, most)
        wanted = protocol.read_request(
            body,
            request.headers.get(protocol.HEADER_LENGTH),
            graph.signature,
            settings.max_images,
        )
        seconds = min(settings.deadline_s, wanted.seconds or settings.deadline_s)
        async with request_execution(engine, request, seconds) as run:
            try:
                return await run.through(
                    graph.model,
                    graph.role,
                    wanted.feeds,
                    lambda rows: protocol.write_response(
                        graph.name, graph.model.manifest.version, wanted, graph.signature, rows
                    ),
                )
            except JobTooLarge as error:
                message = f"the request is larger than the queue: {error}"
                raise invalid("inputs", message) from error

    return routes


async def _read(request: Request, most: int) -> bytes:
    """Return the body. Raises Problem (413) beyond `most` bytes, without reading on."""
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            chunks.append(chunk)
            if (size := size + len(chunk)) > most:
                raise protocol.too_large(most)
    except ClientDisconnect as error:
        raise client_disconnected() from error
    return b"".join(chunks)


def _graph_name(model: str, role: str) -> str:
    return model if role == GENERATOR else f"{model}:{role}"


def _index(engine: Engine) -> Iterator[dict[str, str]]:
    if engine.catalog is None:
        raise NotReady(engine.reason or engine.state)
    for entry in engine.catalog.entries:
        # Of what is not served, no graph but the one that every model has is known to be there.
        for role in signatures(entry.model.manifest) if entry.model else (GENERATOR,):
            yield {
                "name": _graph_name(entry.name, role),
                "version": entry.version,
                "state": "READY" if entry.state is State.READY else "UNAVAILABLE",
                "reason": entry.reason or "",
            }


def _versions(engine: Engine, model: Model) -> list[str]:
    versions = engine.catalog.versions(model.manifest.name) if engine.catalog else []
    return [entry.version for entry in versions if entry.state is State.READY]


def _described(tensor: Tensor) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "datatype": protocol.datatype(tensor),
        "shape": [-1, *tensor.row],
    }


def _configured(tensor: Tensor) -> dict[str, Any]:
    # Triton leaves the axis of the batch out here.
    described = {
        "name": tensor.name,
        "data_type": _CONFIG_TYPES[protocol.datatype(tensor)],
        "dims": list(tensor.row),
    }
    return described | ({"optional": True} if tensor.optional else {})
