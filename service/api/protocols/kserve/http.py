"""`/v2`: KServe's Open Inference Protocol, with the parts of Triton's API that its client uses."""

from __future__ import annotations

import json
import math
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from service import __version__
from service.api.middleware.json_bodies import process
from service.api.problems import INVALID_REQUEST, Problem, client_disconnected, invalid
from service.api.protocols.kserve import http_codec as codec
from service.api.protocols.kserve.graphs import (
    BACKEND,
    EXTENSIONS,
    PLATFORM,
    find_graph,
    run_graph,
)
from service.api.protocols.kserve.graphs import index as index_graphs
from service.api.protocols.kserve.inference import body_too_large, datatype
from service.api.routes import head_requests
from service.api.state import state_of
from service.runtime.models.signatures import Tensor
from service.runtime.scheduling.engine import EngineState, NotReady

_CONFIG_TYPES = {"FP32": "TYPE_FP32", "INT64": "TYPE_INT64", "UINT8": "TYPE_UINT8"}
# Bytes of the body of a repository index request.
_MAX_INDEX_BODY = 4096


class InferenceError(BaseModel):
    """An error message of one line."""

    error: str


_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": InferenceError, "description": text}
    for status, text in {
        400: INVALID_REQUEST,
        404: "No such model or graph",
        429: "The queue is full: see Retry-After",
        503: "Not ready: see Retry-After",
        504: "The deadline has passed",
    }.items()
}
_INFER_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"type": "object", "required": ["inputs"]}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}

router = APIRouter(tags=["open inference protocol"], responses=_ERRORS)


@head_requests.get(router, "/v2", summary="Server and extensions")
async def server() -> dict[str, Any]:
    """Describe the server."""
    return {"name": "ganymede", "version": __version__, "extensions": EXTENSIONS}


@head_requests.get(router, "/v2/health/live", summary="Liveness")
async def live() -> dict[str, bool]:
    """Report that the process responds."""
    return {"live": True}


@head_requests.get(router, "/v2/health/ready", summary="Readiness")
async def ready(request: Request) -> dict[str, bool]:
    """Report that the service accepts work. Raises NotReady."""
    engine = state_of(request).engine
    if engine.state is not EngineState.READY:
        raise NotReady(engine.reason or engine.state)
    return {"ready": True}


@router.post("/v2/repository/index", summary="List the graphs of all versions of all models")
async def index(request: Request) -> Response:
    """List all graphs, or only those that are ready if the body has `ready: true`."""
    body = await _read_body(request, _MAX_INDEX_BODY)
    document = codec.read_json(body) if body.strip() else {}
    ready_only = document.get("ready", False) if isinstance(document, dict) else None
    if not isinstance(ready_only, bool):
        raise invalid("ready", "expected an object in which ready is true or false")
    listed = list(index_graphs(state_of(request).engine, ready_only=ready_only))
    return Response(json.dumps(listed), media_type="application/json")


# Must precede `/v2/models/{name}`, which would match `stats` as a model name.
@head_requests.get(router, "/v2/models/stats", include_in_schema=False)
@head_requests.get(router, "/v2/models/{name}/stats", include_in_schema=False)
@head_requests.get(router, "/v2/models/{name}/versions/{version}/stats", include_in_schema=False)
async def statistics() -> None:
    """Raise Problem (404), which refers to the Prometheus metrics."""
    raise Problem(
        404,
        "no-statistics",
        "Statistics are not available here",
        "statistics are exported as Prometheus metrics: see /metrics",
    )


@head_requests.get(router, "/v2/models/{name}", summary="Inputs and outputs of a graph")
@head_requests.get(
    router,
    "/v2/models/{name}/versions/{version}",
    summary="Inputs and outputs of a graph of one version",
)
async def metadata(request: Request, name: str, version: str | None = None) -> dict[str, Any]:
    """Describe a graph."""
    graph = find_graph(request, name, version)
    return {
        "name": graph.name,
        "versions": [version] if version else graph.versions(state_of(request).engine),
        "platform": PLATFORM,
        "inputs": [_tensor_metadata(tensor) for tensor in graph.signature.inputs],
        "outputs": [_tensor_metadata(tensor) for tensor in graph.signature.outputs],
    }


@head_requests.get(router, "/v2/models/{name}/ready", summary="Readiness of a model")
@head_requests.get(
    router, "/v2/models/{name}/versions/{version}/ready", summary="Readiness of one version"
)
async def model_ready(request: Request, name: str, version: str | None = None) -> dict[str, Any]:
    """Report that a model accepts work."""
    return {"name": find_graph(request, name, version).name, "ready": True}


@head_requests.get(router, "/v2/models/{name}/config", summary="Triton configuration of a graph")
@head_requests.get(
    router,
    "/v2/models/{name}/versions/{version}/config",
    summary="Triton configuration of a graph of one version",
)
async def config(request: Request, name: str, version: str | None = None) -> dict[str, Any]:
    """Describe a graph in the form of Triton's model configuration."""
    graph = find_graph(request, name, version)
    return {
        "name": graph.name,
        "platform": PLATFORM,
        "backend": BACKEND,
        "max_batch_size": state_of(request).settings.max_images,
        "input": [_tensor_config(tensor) for tensor in graph.signature.inputs],
        "output": [_tensor_config(tensor) for tensor in graph.signature.outputs],
    }


@router.post("/v2/models/{name}/infer", summary="Run a graph", openapi_extra=_INFER_BODY)
@router.post(
    "/v2/models/{name}/versions/{version}/infer",
    summary="Run a graph of one version",
    openapi_extra=_INFER_BODY,
)
async def infer(request: Request, name: str, version: str | None = None) -> Response:
    """Run a graph on the tensors of the body."""
    max_rows = state_of(request).settings.max_images
    graph = find_graph(request, name, version)
    max_bytes = codec.max_body_bytes(graph.signature, max_rows)
    body = await _read_body(request, max_bytes)
    if encoding := request.headers.get("content-encoding", "").strip().lower():
        body = await run_in_threadpool(codec.decompress, body, encoding, max_bytes)
    header_length = request.headers.get(codec.HEADER_LENGTH)
    inference = await process(
        len(body), lambda: codec.read_request(body, header_length, graph.signature, max_rows)
    )
    version = graph.model.manifest.version
    return await run_graph(
        request,
        graph,
        inference,
        lambda rows: codec.write_response(graph.name, version, inference, graph.signature, rows),
    )


async def _read_body(request: Request, max_bytes: int) -> bytes:
    """Read the body. Raises Problem (413) as soon as it exceeds `max_bytes`."""
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            chunks.append(chunk)
            if (size := size + len(chunk)) > max_bytes:
                raise body_too_large(max_bytes)
    except ClientDisconnect as error:
        raise client_disconnected() from error
    return b"".join(chunks)


def _tensor_metadata(tensor: Tensor) -> dict[str, Any]:
    """Describe a tensor. `parameters` extend the protocol by what its fields cannot express."""
    parameters: dict[str, Any] = {}
    if tensor.optional:
        parameters["optional"] = True
    for name in ("minimum", "maximum", "default"):
        value = getattr(tensor, name)
        if value is not None and math.isfinite(value):
            parameters[name] = value
    fields = {
        "name": tensor.name,
        "datatype": datatype(tensor),
        "shape": [-1, *tensor.row],
    }
    return fields | ({"parameters": parameters} if parameters else {})


def _tensor_config(tensor: Tensor) -> dict[str, Any]:
    # Triton's configuration omits the batch axis.
    fields = {
        "name": tensor.name,
        "data_type": _CONFIG_TYPES[datatype(tensor)],
        "dims": list(tensor.row),
    }
    return fields | ({"optional": True} if tensor.optional else {})
