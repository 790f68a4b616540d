"""The gRPC service of the Open Inference Protocol, with Triton's extensions for its client.

Its methods are routes: see `service.api.grpc.calls`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from service import __version__
from service.api.grpc import messages
from service.api.grpc.calls import CONTENT_TYPE, is_call, seconds_left
from service.api.middleware.json_bodies import process
from service.api.problems import Problem
from service.api.protocols.kserve import grpc_codec as codec
from service.api.protocols.kserve.graphs import (
    BACKEND,
    EXTENSIONS,
    PLATFORM,
    ServedGraph,
    find_graph,
    index,
    run_graph,
)
from service.api.protocols.kserve.inference import InferenceRequest, body_too_large, datatype
from service.api.state import state_of
from service.runtime.models.catalog import ModelNotFound
from service.runtime.models.signatures import Tensor
from service.runtime.scheduling.engine import EngineState, NotReady

_DATA_TYPES = {"UINT8": "TYPE_UINT8", "INT64": "TYPE_INT64", "FP32": "TYPE_FP32"}
_methods = messages.service(codec.SERVICE).methods_by_name


def _assert_call(request: Request) -> None:
    """Raise Problem (404) for a request that did not arrive over gRPC."""
    if not is_call(request.scope):
        raise Problem(404, "route-not-found", "Not found", "this path is served over gRPC only")


router = APIRouter(
    prefix=f"/{codec.SERVICE}",
    include_in_schema=False,
    dependencies=[Depends(_assert_call)],
    default_response_class=Response,
)


async def _read(request: Request, method: str) -> Any:
    message_type = messages.message_class(_methods[method].input_type.full_name)
    return messages.parse(message_type, await request.body())


def _respond(method: str, **fields: Any) -> Response:
    message = messages.message_class(_methods[method].output_type.full_name)(**fields)
    return Response(message.SerializeToString(), media_type=CONTENT_TYPE)


@router.post("/ServerLive")
async def server_live() -> Response:
    """Report that the process responds."""
    return _respond("ServerLive", live=True)


@router.post("/ServerReady")
async def server_ready(request: Request) -> Response:
    """Report whether the service accepts work."""
    return _respond("ServerReady", ready=state_of(request).engine.state is EngineState.READY)


@router.post("/ModelReady")
async def model_ready(request: Request) -> Response:
    """Report whether a graph accepts work; false for an unknown one, as Triton does."""
    message = await _read(request, "ModelReady")
    try:
        find_graph(request, message.name, message.version or None)
    except (NotReady, ModelNotFound):
        return _respond("ModelReady", ready=False)
    return _respond("ModelReady", ready=True)


@router.post("/ServerMetadata")
async def server_metadata() -> Response:
    """Describe the server."""
    return _respond("ServerMetadata", name="ganymede", version=__version__, extensions=EXTENSIONS)


@router.post("/ModelMetadata")
async def model_metadata(request: Request) -> Response:
    """Describe a graph."""
    message = await _read(request, "ModelMetadata")
    graph = find_graph(request, message.name, message.version or None)
    versions = [message.version] if message.version else None
    return _respond(
        "ModelMetadata",
        name=graph.name,
        versions=versions or graph.versions(state_of(request).engine),
        platform=PLATFORM,
        inputs=[_tensor_metadata(tensor) for tensor in graph.signature.inputs],
        outputs=[_tensor_metadata(tensor) for tensor in graph.signature.outputs],
    )


@router.post("/ModelConfig")
async def model_config(request: Request) -> Response:
    """Describe a graph in the form of Triton's model configuration."""
    message = await _read(request, "ModelConfig")
    graph = find_graph(request, message.name, message.version or None)
    inputs = [
        _tensor_config(tensor) | ({"optional": True} if tensor.optional else {})
        for tensor in graph.signature.inputs
    ]
    config = {
        "name": graph.name,
        "platform": PLATFORM,
        "backend": BACKEND,
        "max_batch_size": state_of(request).settings.max_images,
        "input": inputs,
        "output": [_tensor_config(tensor) for tensor in graph.signature.outputs],
    }
    return _respond("ModelConfig", config=config)


@router.post("/RepositoryIndex")
async def repository_index(request: Request) -> Response:
    """List all graphs, or only those that are ready."""
    message = await _read(request, "RepositoryIndex")
    graphs = index(state_of(request).engine, ready_only=message.ready)
    return _respond("RepositoryIndex", models=list(graphs))


@router.post("/ModelInfer")
async def model_infer(request: Request) -> Response:
    """Run a graph on the tensors of the message."""
    return Response(await _infer(request), media_type=CONTENT_TYPE)


@router.post("/ModelStreamInfer")
async def model_stream_infer(request: Request) -> Response:
    """Run a graph on the tensors of one message of a stream."""
    response = codec.InferResponse.FromString(await _infer(request))
    return _respond("ModelStreamInfer", infer_response=response)


async def _infer(request: Request) -> bytes:
    body = await request.body()
    message = await process(len(body), lambda: messages.parse(codec.InferRequest, body))
    graph = find_graph(request, message.model_name, message.model_version or None)
    max_rows = state_of(request).settings.max_images
    if len(body) > (max_bytes := codec.max_message_bytes(graph.signature, max_rows)):
        raise body_too_large(max_bytes)
    inference = await process(
        len(body), lambda: codec.read_message(message, graph.signature, max_rows)
    )
    if (left := seconds_left(request.scope)) is not None:
        # Positive, because 0 stands for no deadline.
        left = max(left, 0.001)
        inference = replace(inference, timeout_s=min(left, inference.timeout_s or left))
    return await _run(request, graph, inference)


async def _run(request: Request, graph: ServedGraph, inference: InferenceRequest) -> bytes:
    version = graph.model.manifest.version
    return await run_graph(
        request,
        graph,
        inference,
        lambda rows: codec.write_message(graph.name, version, inference, graph.signature, rows),
    )


def _tensor_metadata(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": datatype(tensor), "shape": [-1, *tensor.row]}


def _tensor_config(tensor: Tensor) -> dict[str, Any]:
    # Triton's configuration omits the batch axis.
    return {
        "name": tensor.name,
        "data_type": _DATA_TYPES[datatype(tensor)],
        "dims": list(tensor.row),
    }
