"""The Open Inference Protocol's inference request and response, with Triton's binary tensor data.

A body is JSON. With the header ``Inference-Header-Content-Length``, only that many bytes are JSON,
and the data of the tensors with a ``binary_data_size`` parameter follows, in order, row-major and
little-endian. This module is independent of models: a `Signature` declares the inputs and
outputs.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi.responses import Response

from service.api.middleware.json_bodies import JsonLimits, assert_bounded, parse
from service.api.problems import Problem, invalid, not_json
from service.runtime.models.signatures import Signature, Tensor
from service.runtime.onnx.sessions import Array
from service.runtime.scheduling.batches import Rows

HEADER_LENGTH = "inference-header-content-length"
# Maximum bytes of JSON in a request, and numbers in the JSON of a response. Python objects take
# many times that memory. Larger tensors must be sent as binary data, which needs no such objects.
MAX_JSON_BYTES = 4 * 2**20
MAX_JSON_NUMBERS = 4 * 2**20
# Maximum lists and objects in a request. A million empty ones are small, but take seconds to parse.
MAX_JSON_CONTAINERS = 2**16
# Python's parser itself refuses JSON that is nested too deeply for it.
_LIMITS = JsonLimits(depth=MAX_JSON_CONTAINERS, values=MAX_JSON_NUMBERS)
# Numbers of a flat list, or rows of a nested one, that are converted at a time.
_STEP = 2**16

_DATATYPES = {"uint8": "UINT8", "int64": "INT64", "float32": "FP32"}
# zlib's window bits; adding 16 selects the gzip format.
_WINDOW_BITS = {"deflate": 15, "gzip": 15 + 16}
# Parameters that change the result, so they must not be ignored.
_UNSUPPORTED_PARAMETERS = {
    "shared_memory_region": "shared memory is not supported",
    "classification": "classification is not supported",
    "sequence_id": "sequences are not supported",
}


@dataclass(frozen=True)
class InferenceRequest:
    """A validated request.

    Attributes:
        feeds: input arrays by name.
        outputs: requested outputs by name; the value is true for binary data, false for JSON.
        timeout_s: the client's deadline in seconds, if it set one.
    """

    feeds: dict[str, Array]
    outputs: Mapping[str, bool]
    id: str | None
    timeout_s: float | None


def datatype(tensor: Tensor) -> str:
    """Return the protocol's name for a tensor's data type."""
    return _DATATYPES[tensor.dtype.name]


def max_body_bytes(signature: Signature, max_rows: int) -> int:
    """Return the maximum size of a body in bytes: JSON and `max_rows` rows of binary data."""
    return MAX_JSON_BYTES + max_rows * sum(tensor.row_bytes for tensor in signature.inputs)


def body_too_large(max_bytes: int) -> Problem:
    """Return the problem for a body of more than `max_bytes`."""
    detail = f"the body exceeds {max_bytes:,} bytes, the maximum for this request"
    return Problem(413, "body-too-large", "The body is too large", detail)


def decompress(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Undo a Content-Encoding. Raises Problem (415, 400), or 413 beyond `max_bytes`."""
    if encoding in ("", "identity"):
        return body
    if encoding not in _WINDOW_BITS:
        known = ", ".join(_WINDOW_BITS)
        detail = f"expected one of {known} as Content-Encoding, got {encoding[:50]!r}"
        raise Problem(415, "encoding-not-supported", "The encoding is not supported", detail)
    inflater = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        plain = inflater.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise invalid("body", f"not valid {encoding} data: {error}") from error
    if len(plain) > max_bytes:
        raise body_too_large(max_bytes)
    if not inflater.eof or inflater.unused_data:
        raise invalid("body", f"not valid {encoding} data: truncated, or followed by other data")
    return plain


def read_json(text: bytes) -> Any:
    """Parse JSON of any depth and bounded parts. Raises Problem (400)."""
    # This counts brackets in strings too, but no valid request holds that many.
    if text.count(b"[") + text.count(b"{") > MAX_JSON_CONTAINERS:
        raise invalid(
            "body",
            f"more than {MAX_JSON_CONTAINERS:,} lists and objects; send flat lists or binary data",
        )
    assert_bounded(text, _LIMITS)
    try:
        return parse(text)
    except (ValueError, RecursionError) as error:
        raise not_json(error) from error


def read_request(
    body: bytes, header_length: str | None, signature: Signature, max_rows: int
) -> InferenceRequest:
    """Read an inference request for a graph of `signature`. Raises Problem (400, 413, 422)."""
    end = _header_end(body, header_length)
    if end > MAX_JSON_BYTES:
        raise Problem(
            413,
            "body-too-large",
            "The body is too large",
            f"expected at most {MAX_JSON_BYTES:,} bytes of JSON, got {end:,}; send the tensors as "
            "binary data",
        )
    document = _mapping(read_json(body[:end]), "the body")
    parameters = _parameters(document, "parameters")
    request_id = document.get("id")
    if not isinstance(request_id, str | None):
        raise invalid("id", "expected a string")
    return InferenceRequest(
        _inputs(document.get("inputs"), memoryview(body)[end:], signature, max_rows),
        _outputs(document.get("outputs"), parameters, signature),
        request_id,
        _timeout_s(parameters.get("timeout")),
    )


def write_response(
    model_name: str, version: str, request: InferenceRequest, signature: Signature, rows: Rows
) -> Response:
    """Write the requested outputs. Raises Problem (422) for one that JSON cannot represent."""
    outputs: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    by_name = {tensor.name: tensor for tensor in signature.outputs}
    for name, binary in request.outputs.items():
        array = rows[name]
        output: dict[str, Any] = {
            "name": name,
            "datatype": datatype(by_name[name]),
            "shape": list(array.shape),
        }
        if binary:
            blobs.append(array.tobytes())
            output["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            output["data"] = _numbers(name, array)
        outputs.append(output)
    document: dict[str, Any] = {"model_name": model_name, "model_version": version}
    if request.id is not None:
        document["id"] = request.id
    header = json.dumps(document | {"outputs": outputs}, allow_nan=False).encode()
    if not blobs:
        return Response(header, media_type="application/json")
    return Response(
        b"".join([header, *blobs]),
        headers={HEADER_LENGTH: str(len(header))},
        media_type="application/octet-stream",
    )


def _header_end(body: bytes, header_length: str | None) -> int:
    if header_length is None:
        return len(body)
    # int() accepts more than digits, and is slow for long numbers.
    if not (header_length.isascii() and header_length.isdigit() and len(header_length) < 16):
        raise invalid("Inference-Header-Content-Length", "expected a number of bytes")
    if (end := int(header_length)) > len(body):
        raise invalid(
            "Inference-Header-Content-Length", f"is {end}, but the body has {len(body)} bytes"
        )
    return end


def _inputs(
    inputs: Any, blobs: memoryview, signature: Signature, max_rows: int
) -> dict[str, Array]:
    by_name = {tensor.name: tensor for tensor in signature.inputs}
    feeds: dict[str, Array] = {}
    offset = 0
    for path, entry in _each(inputs, "inputs"):
        tensor = by_name.get(_name(entry, path))
        if tensor is None or tensor.name in feeds:
            raise invalid(f"{path}.name", f"expected {_listed(by_name)}, each once")
        if entry.get("datatype") != datatype(tensor):
            raise invalid(
                f"{path}.datatype",
                f"expected {datatype(tensor)} for {tensor.name}, "
                f"got {_shown(entry.get('datatype'))}",
            )
        shape = _shape(entry.get("shape"), tensor, max_rows, path)
        size = _parameters(entry, f"{path}.parameters").get("binary_data_size")
        if size is None:
            array = _from_json(entry.get("data"), tensor, shape, path)
        else:
            array = _from_binary(blobs[offset:], size, tensor, shape, path)
            offset += array.nbytes
        if (fault := tensor.value_error(array)) is not None:
            raise invalid(tensor.name, fault)
        feeds[tensor.name] = array
    if missing := [n for n, tensor in by_name.items() if n not in feeds and not tensor.optional]:
        raise invalid("inputs", f"{_listed(missing)} missing; expected {_listed(by_name)}")
    if offset != len(blobs):
        raise invalid(
            "inputs", f"expected {offset} bytes of binary data after the JSON, got {len(blobs)}"
        )
    if len({len(array) for array in feeds.values()}) > 1:
        rows = ", ".join(f"{name} has {len(array)}" for name, array in feeds.items())
        raise invalid("inputs", f"expected the same number of rows: {rows}")
    return feeds


def _outputs(
    requested: Any, parameters: Mapping[str, Any], signature: Signature
) -> Mapping[str, bool]:
    binary = _flag(parameters, "binary_data_output", "parameters", default=False)
    names = [tensor.name for tensor in signature.outputs]
    if requested is None:
        return dict.fromkeys(names, binary)
    outputs: dict[str, bool] = {}
    for path, entry in _each(requested, "outputs"):
        name = _name(entry, path)
        if name not in names or name in outputs:
            raise invalid(f"{path}.name", f"expected one of {_listed(names)}, each at most once")
        output_parameters = _parameters(entry, f"{path}.parameters")
        outputs[name] = _flag(
            output_parameters, "binary_data", f"{path}.parameters", default=binary
        )
    return outputs or dict.fromkeys(names, binary)


def _each(entries: Any, field: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the path and the object of each entry of a list."""
    if not isinstance(entries, list):
        raise invalid(field, "expected a list")
    for i, entry in enumerate(entries):
        yield f"{field}[{i}]", _mapping(entry, f"{field}[{i}]")


def _mapping(value: Any, field: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise invalid(field, "expected an object")
    return value


def _parameters(owner: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """Return the parameters of the request or a tensor. Raises Problem for unsupported ones."""
    if (value := owner.get("parameters")) is None:
        return {}
    parameters = _mapping(value, field)
    for name, reason in _UNSUPPORTED_PARAMETERS.items():
        if name in parameters:
            raise invalid(f"{field}.{name}", reason)
    return parameters


def _name(entry: Mapping[str, Any], path: str) -> str:
    name = entry.get("name")
    if not isinstance(name, str):
        raise invalid(f"{path}.name", "expected a string")
    return name


def _flag(parameters: Mapping[str, Any], name: str, path: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise invalid(f"{path}.{name}", "expected true or false")
    return value


def _timeout_s(timeout: Any) -> float | None:
    """Convert Triton's `timeout` from microseconds; None if it is missing or 0."""
    if timeout is None:
        return None
    if type(timeout) is not int or not 0 <= timeout < 2**63:
        raise invalid("parameters.timeout", "expected a number of microseconds")
    return timeout / 1e6 or None


def _shape(value: Any, tensor: Tensor, max_rows: int, path: str) -> tuple[int, ...]:
    numbers = isinstance(value, list) and all(type(each) is int for each in value)
    if not numbers or tuple(value[1:]) != tensor.row or not 1 <= (value or [0])[0] <= max_rows:
        expected = ", ".join(["N", *map(str, tensor.row)])
        raise invalid(
            f"{path}.shape",
            f"expected [{expected}] with N from 1 to {max_rows}, got {_shown(value)}",
        )
    return tuple(value)


def _from_binary(
    blob: memoryview, size: Any, tensor: Tensor, shape: tuple[int, ...], path: str
) -> Array:
    expected = shape[0] * tensor.row_bytes
    if type(size) is not int or size != expected or size > len(blob):
        raise invalid(
            f"{path}.parameters.binary_data_size",
            f"expected {expected} for {tensor.name} {list(shape)}, got {_shown(size)}; "
            f"{len(blob)} bytes are left in the body",
        )
    array = np.frombuffer(blob[:size], tensor.dtype.newbyteorder("<")).reshape(shape)
    # Copies, because the data in the body may not be aligned.
    return array.astype(tensor.dtype)


def _from_json(data: Any, tensor: Tensor, shape: tuple[int, ...], path: str) -> Array:
    """Read numbers in row-major order, either nested like the shape or flat."""
    field = f"{path}.data"
    kinds = "if" if tensor.dtype.kind == "f" else "i"
    if not isinstance(data, list):
        raise invalid(field, "expected a list of numbers, or binary_data_size in parameters")
    try:
        array = _as_array(data)
    except (ValueError, OverflowError, RecursionError):
        array = np.empty(0, object)
    if array.dtype.kind not in kinds:
        expected = "integers" if kinds == "i" else "numbers"
        raise invalid(field, f"expected {expected}, nested as {list(shape)} or flat")
    if array.shape not in (shape, (shape[0] * tensor.row_numbers,)):
        raise invalid(field, f"expected {list(shape)}, got {list(array.shape)}")
    with np.errstate(over="ignore"):  # Overflow gives infinity, which is rejected later.
        return array.reshape(shape).astype(tensor.dtype)


def _as_array(data: list[Any]) -> Array:
    """Return ``np.asarray(data)``, converted in steps between which other threads run."""
    if len(data) <= _STEP:
        return np.asarray(data)
    steps = [np.asarray(data[start : start + _STEP]) for start in range(0, len(data), _STEP)]
    return np.concatenate(steps)


def _numbers(name: str, array: Array) -> list[Any]:
    if array.size > MAX_JSON_NUMBERS:
        raise invalid(
            "outputs",
            f"{name} has {array.size:,} numbers; JSON is limited to {MAX_JSON_NUMBERS:,}, so "
            "request binary data",
        )
    if not np.isfinite(array).all():
        raise invalid(
            "outputs", f"{name} has values that are not finite, which JSON cannot represent"
        )
    numbers: list[Any] = array.ravel().tolist()
    return numbers


def _listed(names: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(names)


def _shown(value: Any) -> str:
    """Format a value for a message, shortened: it may be long or deeply nested."""
    if isinstance(value, list):
        return f"[{', '.join('…' if isinstance(v, list) else _shown(v) for v in value[:8])}]"
    if isinstance(value, str):
        return repr(value[:50])
    return str(value)[:50] if isinstance(value, bool | int | float | None) else "another type"
