"""The Open Inference Protocol: latents in, pixels out, for single graphs of a model too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ganymede_client.wire import parsing
from ganymede_client.wire.calls import Call, Reply, Request, json_request, route, segment
from ganymede_client.wire.values import to_json


@route("GET", "/v2")
def inference_server() -> Call[dict[str, Any]]:
    """Return the name, the version and the extensions of the server."""
    return Call(Request("GET", "/v2"), parsing.parsed(dict))


@route("GET", "/v2/health/live")
def inference_live() -> Call[bool]:
    """Return true if the server responds."""
    return Call(Request("GET", "/v2/health/live"), _is_success)


@route("GET", "/v2/health/ready")
def inference_ready() -> Call[bool]:
    """Return whether the server accepts work. `readiness` has the reason."""
    return Call(Request("GET", "/v2/health/ready"), _is_success, accepts=frozenset([503]))


@route("POST", "/v2/repository/index")
def graphs(*, ready: bool = False) -> Call[list[dict[str, str]]]:
    """List the graphs of all versions of all models; only those that are ready if `ready`."""
    request = json_request("POST", "/v2/repository/index", {"ready": ready})
    return Call(request, parsing.parsed(list))


@route("GET", "/v2/models/{name}", "/v2/models/{name}/versions/{version}")
def graph(name: str, *, version: str | None = None) -> Call[dict[str, Any]]:
    """Return the inputs and outputs of a graph: ``name``, or ``name:role`` such as ``mapping``."""
    return Call(Request("GET", _path(name, version)), parsing.parsed(dict))


@route("GET", "/v2/models/{name}/ready", "/v2/models/{name}/versions/{version}/ready")
def graph_ready(name: str, *, version: str | None = None) -> Call[bool]:
    """Return whether a graph accepts work. Raises ModelNotFound, or NotFound."""
    request = Request("GET", f"{_path(name, version)}/ready")
    return Call(request, _is_success, accepts=frozenset([503]))


@route("GET", "/v2/models/{name}/config", "/v2/models/{name}/versions/{version}/config")
def graph_config(name: str, *, version: str | None = None) -> Call[dict[str, Any]]:
    """Return the configuration of a graph in Triton's form."""
    return Call(Request("GET", f"{_path(name, version)}/config"), parsing.parsed(dict))


@route("POST", "/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer")
def infer(
    name: str, inputs: Mapping[str, ArrayLike], *, version: str | None = None
) -> Call[dict[str, NDArray[Any]]]:
    """Run a graph on tensors; return its outputs by name.

    Args:
        name: a model, or ``name:mapping`` and ``name:synthesis`` of a model with styles.
        inputs: arrays by name, all with the same number of rows: for example `z`
            ``[N, z_dim]``. Floats are sent as float32, integers as int64, and uint8 as it is.
        version: a version of the model.
    """
    entries, blobs = [], []
    for tensor, values in inputs.items():
        array, datatype = _tensor(tensor, np.asarray(values))
        blobs.append(array.tobytes())
        entries.append(
            {
                "name": tensor,
                "shape": list(array.shape),
                "datatype": datatype,
                "parameters": {"binary_data_size": len(blobs[-1])},
            }
        )
    header = to_json({"inputs": entries, "parameters": {"binary_data_output": True}})
    request = Request(
        "POST",
        f"{_path(name, version)}/infer",
        headers={
            "content-type": "application/octet-stream",
            "inference-header-content-length": str(len(header)),
        },
        content=b"".join([header, *blobs]),
    )
    return Call(request, parsing.tensors)


def _tensor(name: str, values: NDArray[Any]) -> tuple[NDArray[Any], str]:
    if values.dtype == np.uint8:
        return values, "UINT8"
    if values.dtype.kind in "iu":
        return values.astype("<i8"), "INT64"
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):  # The service rejects values that are not finite.
            return values.astype("<f4"), "FP32"
    raise ValueError(f"{name}: expected floats or integers, got {values.dtype}")


def _path(name: str, version: str | None) -> str:
    path = f"/v2/models/{segment(name)}"
    return path if version is None else f"{path}/versions/{segment(version)}"


def _is_success(reply: Reply) -> bool:
    return 200 <= reply.status < 300
