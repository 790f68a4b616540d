"""The Open Inference Protocol's inference request and response, with Triton's binary tensor data.

A body is JSON. With the header ``Inference-Header-Content-Length``, only that many bytes are JSON,
and the data of the tensors with a ``binary_data_size`` parameter follows, in order, row-major and
little-endian. This module reads and writes the data; `inference` validates the rest.
"""

from __future__ import annotations

import json
import zlib
from typing import Any

import numpy as np
from fastapi.responses import Response

from service.api.middleware.json_bodies import JsonLimits, assert_bounded, parse
from service.api.problems import Problem, invalid, not_json
from service.api.protocols.kserve.inference import (
    MAX_NUMBERS,
    InferenceRequest,
    InputTensor,
    as_array,
    body_too_large,
    datatype,
    shown,
)
from service.api.protocols.kserve.inference import read_request as inference_request
from service.runtime.models.signatures import Signature
from service.runtime.onnx.sessions import Array
from service.runtime.scheduling.batches import Rows

HEADER_LENGTH = "inference-header-content-length"
# Maximum bytes of JSON in a request. Python objects take many times that memory. Larger tensors
# must be sent as binary data, which needs no such objects.
MAX_JSON_BYTES = 4 * 2**20
# Maximum lists and objects in a request. A million empty ones are small, but take seconds to parse.
MAX_JSON_CONTAINERS = 2**16
# Python's parser itself refuses JSON that is nested too deeply for it.
_LIMITS = JsonLimits(depth=MAX_JSON_CONTAINERS, values=MAX_NUMBERS)
# zlib's window bits; adding 16 selects the gzip format.
_WINDOW_BITS = {"deflate": 15, "gzip": 15 + 16}


def max_body_bytes(signature: Signature, max_rows: int) -> int:
    """Return the maximum size of a body in bytes: JSON and `max_rows` rows of binary data."""
    return MAX_JSON_BYTES + max_rows * sum(tensor.row_bytes for tensor in signature.inputs)


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
    blobs = _Blobs(memoryview(body)[end:])
    inference = inference_request(
        read_json(body[:end]), signature, max_rows, blobs.read, binary=False
    )
    blobs.assert_read()
    return inference


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


class _Blobs:
    """The binary data after the JSON: that of each tensor, one after the other."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._offset = 0

    def read(self, given: InputTensor) -> Array:
        """Return the data of a tensor, from the JSON or the next binary data."""
        size = given.parameters.get("binary_data_size")
        if size is None:
            return _from_json(given)
        left = len(self._data) - self._offset
        if type(size) is not int or size != given.byte_size or size > left:
            raise invalid(
                f"{given.path}.parameters.binary_data_size",
                f"expected {given.byte_size} for {given.tensor.name} {list(given.shape)}, got "
                f"{shown(size)}; {left} bytes are left in the body",
            )
        start, self._offset = self._offset, self._offset + size
        return given.from_bytes(self._data[start : self._offset])

    def assert_read(self) -> None:
        """Raise Problem (422) if there are data that belong to no tensor."""
        if self._offset != len(self._data):
            raise invalid(
                "inputs",
                f"expected {self._offset} bytes of binary data after the JSON, "
                f"got {len(self._data)}",
            )


def _from_json(given: InputTensor) -> Array:
    """Read numbers in row-major order, either nested like the shape or flat."""
    field, data, tensor, shape = (
        f"{given.path}.data",
        given.entry.get("data"),
        given.tensor,
        given.shape,
    )
    kinds = "if" if tensor.dtype.kind == "f" else "i"
    if not isinstance(data, list):
        raise invalid(field, "expected a list of numbers, or binary_data_size in parameters")
    try:
        array = as_array(data)
    except (ValueError, OverflowError, RecursionError):
        array = np.empty(0, object)
    if array.dtype.kind not in kinds:
        expected = "integers" if kinds == "i" else "numbers"
        raise invalid(field, f"expected {expected}, nested as {list(shape)} or flat")
    if array.shape not in (shape, (given.size,)):
        raise invalid(field, f"expected {list(shape)}, got {list(array.shape)}")
    with np.errstate(over="ignore"):  # Overflow gives infinity, which is rejected later.
        return array.reshape(shape).astype(tensor.dtype)


def _numbers(name: str, array: Array) -> list[Any]:
    if array.size > MAX_NUMBERS:
        raise invalid(
            "outputs",
            f"{name} has {array.size:,} numbers; JSON is limited to {MAX_NUMBERS:,}, so "
            "request binary data",
        )
    if not np.isfinite(array).all():
        raise invalid(
            "outputs", f"{name} has values that are not finite, which JSON cannot represent"
        )
    numbers: list[Any] = array.ravel().tolist()
    return numbers
