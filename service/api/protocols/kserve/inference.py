"""The Open Inference Protocol's inference request, as HTTP and gRPC share it.

Both describe a request by the same members: tensors with name, datatype and shape, and parameters.
They differ in how they carry the data, which `read_request` leaves to its caller. This module is
independent of models: a `Signature` declares the inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.api.problems import Problem, invalid
from service.runtime.models.signatures import Signature, Tensor
from service.runtime.onnx.sessions import Array
from service.runtime.scheduling.batches import Priority

# Maximum numbers of a tensor that is not sent as binary data. Python objects take many times the
# memory of the numbers.
MAX_NUMBERS = 4 * 2**20

# Numbers of a flat list, or rows of a nested one, that are converted at a time.
_STEP = 2**16

_DATATYPES = {"uint8": "UINT8", "int64": "INT64", "float32": "FP32", "int16": "INT16"}
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
        outputs: requested outputs by name; the value is true for binary data, false for numbers.
        timeout_s: the client's deadline in seconds, if it set one.
        priority: the client's priority, if it set one.
    """

    feeds: dict[str, Array]
    outputs: Mapping[str, bool]
    id: str | None
    timeout_s: float | None
    priority: Priority | None


@dataclass(frozen=True)
class InputTensor:
    """A tensor of a request whose type and shape fit `tensor`, and whose data is to be read.

    Attributes:
        entry: its members in the request.
        parameters: those of the tensor.
        path: the name of the field, for error messages.
        number: its index among the inputs.
    """

    tensor: Tensor
    shape: tuple[int, ...]
    entry: Mapping[str, Any]
    parameters: Mapping[str, Any]
    path: str
    number: int

    def from_bytes(self, data: bytes | memoryview) -> Array:
        """Return the array of little-endian numbers, in row-major order, that `data` holds.

        `data` must have `byte_size` bytes.
        """
        array = np.frombuffer(data, self.tensor.dtype.newbyteorder("<")).reshape(self.shape)
        # Copies, because the data may not be aligned.
        return array.astype(self.tensor.dtype)

    @property
    def byte_size(self) -> int:
        """The size of its binary data."""
        return self.shape[0] * self.tensor.row_bytes

    @property
    def size(self) -> int:
        """The number of its numbers."""
        return self.shape[0] * self.tensor.row_numbers


# Returns the array of a tensor, with the tensor's type and shape. Raises Problem (422).
ReadData = Callable[[InputTensor], Array]


def datatype(tensor: Tensor) -> str:
    """Return the protocol's name for a tensor's data type."""
    return _DATATYPES[tensor.dtype.name]


def body_too_large(max_bytes: int) -> Problem:
    """Return the problem for a body of more than `max_bytes`."""
    detail = f"the body exceeds {max_bytes:,} bytes, the maximum for this request"
    return Problem(413, "body-too-large", "The body is too large", detail)


def as_array(data: Sequence[Any]) -> Array:
    """Return ``np.asarray(data)``, converted in steps between which other threads run."""
    if len(data) <= _STEP:
        return np.asarray(data)
    steps = [np.asarray(data[start : start + _STEP]) for start in range(0, len(data), _STEP)]
    return np.concatenate(steps)


def read_request(
    document: Any, signature: Signature, max_rows: int, read_data: ReadData, *, binary: bool
) -> InferenceRequest:
    """Validate a request for a graph of `signature`. Raises Problem (422).

    `binary` tells how outputs are returned for which the request says nothing.
    """
    document = _mapping(document, "the body")
    parameters = read_parameters(document, "parameters")
    request_id = document.get("id")
    if not isinstance(request_id, str | None):
        raise invalid("id", "expected a string")
    return InferenceRequest(
        _inputs(document.get("inputs"), signature, max_rows, read_data),
        _outputs(document.get("outputs"), parameters, signature, binary=binary),
        request_id,
        _timeout_s(parameters.get("timeout")),
        _priority(parameters.get("priority")),
    )


def _inputs(
    inputs: Any, signature: Signature, max_rows: int, read_data: ReadData
) -> dict[str, Array]:
    by_name = {tensor.name: tensor for tensor in signature.inputs}
    feeds: dict[str, Array] = {}
    for path, entry in _each(inputs, "inputs"):
        tensor = by_name.get(_name(entry, path))
        if tensor is None or tensor.name in feeds:
            raise invalid(f"{path}.name", f"expected {_listed(by_name)}, each once")
        if entry.get("datatype") != datatype(tensor):
            raise invalid(
                f"{path}.datatype",
                f"expected {datatype(tensor)} for {tensor.name}, "
                f"got {shown(entry.get('datatype'))}",
            )
        shape = _shape(entry.get("shape"), tensor, max_rows, path)
        parameters = read_parameters(entry, f"{path}.parameters")
        array = read_data(InputTensor(tensor, shape, entry, parameters, path, len(feeds)))
        if (fault := tensor.value_error(array)) is not None:
            raise invalid(tensor.name, fault)
        feeds[tensor.name] = array
    if missing := [n for n, tensor in by_name.items() if n not in feeds and not tensor.optional]:
        raise invalid("inputs", f"{_listed(missing)} missing; expected {_listed(by_name)}")
    if len({len(array) for array in feeds.values()}) > 1:
        rows = ", ".join(f"{name} has {len(array)}" for name, array in feeds.items())
        raise invalid("inputs", f"expected the same number of rows: {rows}")
    return feeds


def _outputs(
    requested: Any, parameters: Mapping[str, Any], signature: Signature, *, binary: bool
) -> Mapping[str, bool]:
    binary = _flag(parameters, "binary_data_output", "parameters", default=binary)
    names = [tensor.name for tensor in signature.outputs]
    if requested is None:
        return dict.fromkeys(names, binary)
    outputs: dict[str, bool] = {}
    for path, entry in _each(requested, "outputs"):
        name = _name(entry, path)
        if name not in names or name in outputs:
            raise invalid(f"{path}.name", f"expected one of {_listed(names)}, each at most once")
        output_parameters = read_parameters(entry, f"{path}.parameters")
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


def read_parameters(owner: Mapping[str, Any], field: str) -> Mapping[str, Any]:
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


def _priority(value: Any) -> Priority | None:
    """Convert Triton's `priority`; None if it is missing or 0."""
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= max(Priority):
        raise invalid(
            "parameters.priority",
            "expected 0 (the default), 1 (high), 2 (normal) or 3 (low), got " + shown(value),
        )
    return Priority(value) if value else None


def _shape(value: Any, tensor: Tensor, max_rows: int, path: str) -> tuple[int, ...]:
    numbers = isinstance(value, list) and all(type(each) is int for each in value)
    if not numbers or tuple(value[1:]) != tensor.row or not 1 <= (value or [0])[0] <= max_rows:
        expected = ", ".join(["N", *map(str, tensor.row)])
        raise invalid(
            f"{path}.shape",
            f"expected [{expected}] with N from 1 to {max_rows}, got {shown(value)}",
        )
    return tuple(value)


def _listed(names: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(names)


def shown(value: Any) -> str:
    """Format a value for a message, shortened: it may be long or deeply nested."""
    if isinstance(value, list):
        return f"[{', '.join('…' if isinstance(v, list) else shown(v) for v in value[:8])}]"
    if isinstance(value, str):
        return repr(value[:50])
    return str(value)[:50] if isinstance(value, bool | int | float | None) else "another type"
