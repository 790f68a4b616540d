"""The Open Inference Protocol's inference request and response, with Triton's binary tensor data.

A body is JSON; with the header ``Inference-Header-Content-Length`` the first so many bytes are, and
the tensors that say ``binary_data_size`` follow them as they lie in memory, little-endian, in their
order. Nothing here knows of models: a `Signature` says what may come and what goes.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi.responses import Response

from service.api.problems import Problem, invalid
from service.runtime.models.signatures import Signature, Tensor
from service.runtime.onnx.sessions import Array
from service.runtime.scheduling.batches import Rows

HEADER_LENGTH = "inference-header-content-length"
# Bytes of JSON in one request, and numbers in the JSON of an answer. As Python objects they take
# many times the room; more of them travel as binary data, which costs their bytes and no more.
MOST_JSON = 4 * 2**20
MOST_JSON_NUMBERS = 4 * 2**20
# Lists and objects in one request. A million empty ones are few bytes, and seconds to parse.
MOST_JSON_PARTS = 2**16

_DATATYPES = {"uint8": "UINT8", "int64": "INT64", "float32": "FP32"}
# zlib's window: 15 bits, and 16 more for gzip's header in place of zlib's.
_ENCODINGS = {"deflate": 15, "gzip": 15 + 16}
# What asks for something else than tensors in and tensors out, and is not to be ignored.
_UNSUPPORTED = {
    "shared_memory_region": "shared memory is not supported",
    "classification": "classification is not supported",
    "sequence_id": "sequences are not supported",
}


@dataclass(frozen=True)
class InferenceRequest:
    """Checked inputs by name; the outputs to give, and whether each goes as binary data."""

    feeds: dict[str, Array]
    outputs: Mapping[str, bool]
    id: str | None
    seconds: float | None


def datatype(tensor: Tensor) -> str:
    """Return the protocol's name of a tensor's type."""
    return _DATATYPES[tensor.dtype.name]


def most_bytes(signature: Signature, most_rows: int) -> int:
    """Return how long a body can be that asks for something."""
    return MOST_JSON + most_rows * sum(tensor.row_bytes for tensor in signature.inputs)


def too_large(most: int) -> Problem:
    """Return the problem of a body longer than `most` bytes."""
    detail = f"the body has more than {most:,} bytes, and no request here needs as many"
    return Problem(413, "body-too-large", "The body is too large", detail)


def decompress(body: bytes, encoding: str, most: int) -> bytes:
    """Undo a Content-Encoding. Raises Problem (415, 400), or 413 beyond `most` bytes."""
    if encoding in ("", "identity"):
        return body
    if encoding not in _ENCODINGS:
        known = ", ".join(_ENCODINGS)
        detail = f"Content-Encoding is {encoding[:50]!r}; there are: {known}"
        raise Problem(415, "encoding-not-supported", "The encoding is not known", detail)
    inflater = zlib.decompressobj(_ENCODINGS[encoding])
    try:
        plain = inflater.decompress(body, most + 1)
    except zlib.error as error:
        raise invalid("body", f"is not {encoding}: {error}") from error
    if len(plain) > most:
        raise too_large(most)
    if not inflater.eof or inflater.unused_data:
        raise invalid("body", f"is not {encoding}: it is cut off, or goes on after its end")
    return plain


def read_json(text: bytes) -> Any:
    """Parse JSON of any depth. Raises Problem (400)."""
    # Brackets in strings count too, which costs nobody anything: names are short.
    if text.count(b"[") + text.count(b"{") > MOST_JSON_PARTS:
        raise invalid(
            "body",
            f"has more than {MOST_JSON_PARTS:,} lists and objects; send data that is not nested, "
            "or as binary data",
        )
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        detail = f"the body is not JSON: {error}"
        raise Problem(400, "invalid-json", "The body is not JSON", detail) from error


def read_request(
    body: bytes, header_length: str | None, signature: Signature, most_rows: int
) -> InferenceRequest:
    """Read an inference request for a graph of `signature`. Raises Problem (400, 413, 422)."""
    end = _header_end(body, header_length)
    if end > MOST_JSON:
        raise Problem(
            413,
            "body-too-large",
            "The body is too large",
            f"its JSON has {end:,} bytes, and at most {MOST_JSON:,} are taken; "
            "send the tensors as binary data",
        )
    document = _mapping(read_json(body[:end]), "the body")
    parameters = _parameters(document, "parameters")
    request_id = document.get("id")
    if not isinstance(request_id, str | None):
        raise invalid("id", "expected a string")
    return InferenceRequest(
        _inputs(document.get("inputs"), memoryview(body)[end:], signature, most_rows),
        _outputs(document.get("outputs"), parameters, signature),
        request_id,
        _seconds(parameters.get("timeout")),
    )


def write_response(
    name: str, version: str, request: InferenceRequest, signature: Signature, rows: Rows
) -> Response:
    """Write the outputs that were asked for. Raises Problem (422) for what JSON cannot hold."""
    described: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    by_name = {tensor.name: tensor for tensor in signature.outputs}
    for output, binary in request.outputs.items():
        array = rows[output]
        one: dict[str, Any] = {
            "name": output,
            "datatype": datatype(by_name[output]),
            "shape": list(array.shape),
        }
        if binary:
            blobs.append(array.tobytes())
            one["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            one["data"] = _numbers(output, array)
        described.append(one)
    document: dict[str, Any] = {"model_name": name, "model_version": version}
    if request.id is not None:
        document["id"] = request.id
    header = json.dumps(document | {"outputs": described}, allow_nan=False).encode()
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
    # int() takes more than digits, and is slow with very many of them.
    if not (header_length.isascii() and header_length.isdigit() and len(header_length) < 16):
        raise invalid("Inference-Header-Content-Length", "expected a number of bytes")
    if (end := int(header_length)) > len(body):
        raise invalid("Inference-Header-Content-Length", f"is {end}, and the body has {len(body)}")
    return end


def _inputs(
    wanted: Any, blobs: memoryview, signature: Signature, most_rows: int
) -> dict[str, Array]:
    by_name = {tensor.name: tensor for tensor in signature.inputs}
    feeds: dict[str, Array] = {}
    offset = 0
    for where, one in _each(wanted, "inputs"):
        tensor = by_name.get(_name(one, where))
        if tensor is None or tensor.name in feeds:
            raise invalid(f"{where}.name", f"expected each of {_listed(by_name)} once")
        if one.get("datatype") != datatype(tensor):
            raise invalid(
                f"{where}.datatype",
                f"{tensor.name} is {datatype(tensor)}, got {_shown(one.get('datatype'))}",
            )
        shape = _shape(one.get("shape"), tensor, most_rows, where)
        size = _parameters(one, f"{where}.parameters").get("binary_data_size")
        if size is None:
            array = _from_json(one.get("data"), tensor, shape, where)
        else:
            array = _from_binary(blobs[offset:], size, tensor, shape, where)
            offset += array.nbytes
        if (fault := tensor.fault(array)) is not None:
            raise invalid(tensor.name, fault)
        feeds[tensor.name] = array
    if missing := [n for n, tensor in by_name.items() if n not in feeds and not tensor.optional]:
        raise invalid("inputs", f"{_listed(missing)} missing; expected {_listed(by_name)}")
    if offset != len(blobs):
        raise invalid(
            "inputs", f"{len(blobs)} bytes follow the JSON, and the inputs say {offset} of them"
        )
    if len({len(array) for array in feeds.values()}) > 1:
        rows = ", ".join(f"{name} has {len(array)}" for name, array in feeds.items())
        raise invalid("inputs", f"expected equally many rows: {rows}")
    return feeds


def _outputs(
    wanted: Any, parameters: Mapping[str, Any], signature: Signature
) -> Mapping[str, bool]:
    binary = _flag(parameters, "binary_data_output", "parameters", default=False)
    names = [tensor.name for tensor in signature.outputs]
    if wanted is None:
        return dict.fromkeys(names, binary)
    outputs: dict[str, bool] = {}
    for where, one in _each(wanted, "outputs"):
        name = _name(one, where)
        if name not in names or name in outputs:
            raise invalid(f"{where}.name", f"expected some of {_listed(names)}, each once")
        own = _parameters(one, f"{where}.parameters")
        outputs[name] = _flag(own, "binary_data", f"{where}.parameters", default=binary)
    return outputs or dict.fromkeys(names, binary)


def _each(wanted: Any, field: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the objects of a list, each with its place for messages."""
    if not isinstance(wanted, list):
        raise invalid(field, "expected a list")
    for i, one in enumerate(wanted):
        yield f"{field}[{i}]", _mapping(one, f"{field}[{i}]")


def _mapping(value: Any, field: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise invalid(field, "expected an object")
    return value


def _parameters(owner: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """Return the parameters of the request or of a tensor; what they are not for is refused."""
    if (value := owner.get("parameters")) is None:
        return {}
    parameters = _mapping(value, field)
    for name, reason in _UNSUPPORTED.items():
        if name in parameters:
            raise invalid(f"{field}.{name}", reason)
    return parameters


def _name(one: Mapping[str, Any], where: str) -> str:
    name = one.get("name")
    if not isinstance(name, str):
        raise invalid(f"{where}.name", "expected a string")
    return name


def _flag(parameters: Mapping[str, Any], name: str, where: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise invalid(f"{where}.{name}", "expected true or false")
    return value


def _seconds(timeout: Any) -> float | None:
    """Read Triton's `timeout`, which is in microseconds, and where 0 is the server's own."""
    if timeout is None:
        return None
    if type(timeout) is not int or not 0 <= timeout < 2**63:
        raise invalid("parameters.timeout", "expected a number of microseconds")
    return timeout / 1e6 or None


def _shape(value: Any, tensor: Tensor, most_rows: int, where: str) -> tuple[int, ...]:
    numbers = isinstance(value, list) and all(type(each) is int for each in value)
    if not numbers or tuple(value[1:]) != tensor.row or not 1 <= (value or [0])[0] <= most_rows:
        expected = ", ".join(["N", *map(str, tensor.row)])
        raise invalid(
            f"{where}.shape",
            f"expected [{expected}] with N from 1 to {most_rows}, got {_shown(value)}",
        )
    return tuple(value)


def _from_binary(
    blob: memoryview, size: Any, tensor: Tensor, shape: tuple[int, ...], where: str
) -> Array:
    expected = shape[0] * tensor.row_bytes
    if type(size) is not int or size != expected or size > len(blob):
        raise invalid(
            f"{where}.parameters.binary_data_size",
            f"{tensor.name} {list(shape)} has {expected} bytes, got {_shown(size)}, "
            f"with {len(blob)} left in the body",
        )
    array = np.frombuffer(blob[:size], tensor.dtype.newbyteorder("<")).reshape(shape)
    # A copy, since in the body it need not lie where the type wants it.
    return array.astype(tensor.dtype)


def _from_json(data: Any, tensor: Tensor, shape: tuple[int, ...], where: str) -> Array:
    """Read numbers in row-major order, nested as the shape is or not at all."""
    field = f"{where}.data"
    kinds = "if" if tensor.dtype.kind == "f" else "i"
    if not isinstance(data, list):
        raise invalid(field, "expected a list of numbers, or binary_data_size in parameters")
    try:
        array = np.asarray(data)
    except (ValueError, OverflowError, RecursionError):
        array = np.empty(0, object)
    if array.dtype.kind not in kinds:
        expected = "whole numbers" if kinds == "i" else "numbers"
        raise invalid(field, f"expected {expected}, nested as {list(shape)} or not at all")
    if array.shape not in (shape, (shape[0] * tensor.row_numbers,)):
        raise invalid(field, f"expected {list(shape)}, got {list(array.shape)}")
    with np.errstate(over="ignore"):  # It becomes infinite, and is refused for that.
        return array.reshape(shape).astype(tensor.dtype)


def _numbers(name: str, array: Array) -> list[Any]:
    if array.size > MOST_JSON_NUMBERS:
        raise invalid(
            "outputs",
            f"{name} has {array.size:,} numbers, and JSON is given for {MOST_JSON_NUMBERS:,} at "
            "most; ask for binary data",
        )
    if not np.isfinite(array).all():
        raise invalid("outputs", f"{name} is not finite here, which JSON cannot say")
    numbers: list[Any] = array.ravel().tolist()
    return numbers


def _listed(names: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(names)


def _shown(value: Any) -> str:
    """Show what came, and not all of it: it may be long, and nested deeper than can be shown."""
    if isinstance(value, list):
        return f"[{', '.join('…' if isinstance(v, list) else _shown(v) for v in value[:8])}]"
    if isinstance(value, str):
        return repr(value[:50])
    return str(value)[:50] if isinstance(value, bool | int | float | None) else "something else"
