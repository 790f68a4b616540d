"""The Open Inference Protocol's messages: an inference request and its response as protobuf.

Tensors hold their numbers either in `contents` or, all of them, in `raw_input_contents`. Outputs
are returned in the way of the inputs, unless the request's parameters say otherwise. `inference`
validates the rest, as for HTTP.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from service.api.grpc import messages
from service.api.problems import invalid
from service.api.protocols.kserve.inference import (
    MAX_NUMBERS,
    InferenceRequest,
    InputTensor,
    as_array,
    datatype,
    read_request,
)
from service.runtime.models.signatures import Signature
from service.runtime.onnx.sessions import Array
from service.runtime.scheduling.batches import Rows

SERVICE = "inference.GRPCInferenceService"
# Names, shapes and parameters of a request, in addition to the numbers.
_MAX_OVERHEAD = 2**16
# The field of `contents`, and the bytes that a number takes in a message at most.
_CONTENTS = {"UINT8": "uint_contents", "INT64": "int64_contents", "FP32": "fp32_contents"}
_MAX_NUMBER_BYTES = 10

InferRequest = messages.message_class("inference.ModelInferRequest")
InferResponse = messages.message_class("inference.ModelInferResponse")
StreamInferResponse = messages.message_class("inference.ModelStreamInferResponse")


def max_message_bytes(signature: Signature, max_rows: int) -> int:
    """Return the maximum size of a request for `max_rows` rows in bytes."""
    numbers = sum(tensor.row_numbers for tensor in signature.inputs)
    return _MAX_OVERHEAD + max_rows * numbers * _MAX_NUMBER_BYTES


def read_message(message: Any, signature: Signature, max_rows: int) -> InferenceRequest:
    """Read an inference request for a graph of `signature`. Raises Problem (422)."""
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise invalid(
            "raw_input_contents",
            f"expected one for each of {len(message.inputs)} inputs, got {len(raw)}",
        )

    def read_data(given: InputTensor) -> Array:
        contents = message.inputs[given.number]
        if not raw:
            return _from_contents(given, contents.contents)
        if contents.HasField("contents"):
            raise invalid(f"{given.path}.contents", "must not be set beside raw_input_contents")
        data = raw[given.number]
        if len(data) != given.byte_size:
            raise invalid(
                f"raw_input_contents[{given.number}]",
                f"expected {given.byte_size} bytes for {given.tensor.name} {list(given.shape)}, "
                f"got {len(data)}",
            )
        return given.from_bytes(data)

    inference = read_request(_document(message), signature, max_rows, read_data, binary=bool(raw))
    if len(set(inference.outputs.values())) > 1:
        raise invalid("outputs", "expected the same binary_data for all outputs")
    return inference


def write_message(
    model_name: str, version: str, request: InferenceRequest, signature: Signature, rows: Rows
) -> bytes:
    """Write the requested outputs. Raises Problem (422) for numbers that are too many."""
    response = InferResponse(model_name=model_name, model_version=version, id=request.id or "")
    by_name = {tensor.name: tensor for tensor in signature.outputs}
    for name, binary in request.outputs.items():
        array = rows[name]
        kind = datatype(by_name[name])
        output = response.outputs.add(name=name, datatype=kind, shape=array.shape)
        if binary:
            response.raw_output_contents.append(
                array.astype(array.dtype.newbyteorder("<")).tobytes()
            )
        elif array.size > MAX_NUMBERS:
            raise invalid(
                "outputs",
                f"{name} has {array.size:,} numbers; contents are limited to {MAX_NUMBERS:,}, so "
                "request binary data",
            )
        else:
            getattr(output.contents, _CONTENTS[kind]).extend(array.ravel().tolist())
    encoded: bytes = response.SerializeToString()
    return encoded


def encode_stream_error(request: bytes, detail: str) -> bytes:
    """Return the message of a stream for a request that failed."""
    try:
        request_id = InferRequest.FromString(request).id
    except DecodeError:
        request_id = ""
    response = StreamInferResponse(error_message=detail, infer_response={"id": request_id})
    encoded: bytes = response.SerializeToString()
    return encoded


def _document(message: Any) -> dict[str, Any]:
    """Return the members of a request, by the names that JSON has."""
    return {
        "id": message.id or None,
        "parameters": _parameters(message.parameters),
        "inputs": [
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": list(tensor.shape),
                "parameters": _parameters(tensor.parameters),
            }
            for tensor in message.inputs
        ],
        "outputs": [
            {"name": output.name, "parameters": _parameters(output.parameters)}
            for output in message.outputs
        ],
    }


def _parameters(parameters: Any) -> dict[str, Any]:
    chosen = {name: value.WhichOneof("parameter_choice") for name, value in parameters.items()}
    return {name: getattr(parameters[name], kind) for name, kind in chosen.items() if kind}


def _from_contents(given: InputTensor, contents: Any) -> Array:
    field = _CONTENTS[datatype(given.tensor)]
    unexpected = [each.name for each, _ in contents.ListFields() if each.name != field]
    numbers = getattr(contents, field)
    if given.size > MAX_NUMBERS:
        raise invalid(
            f"{given.path}.contents",
            f"{given.size:,} numbers; contents are limited to {MAX_NUMBERS:,}, so send "
            "raw_input_contents",
        )
    if unexpected or len(numbers) != given.size:
        raise invalid(
            f"{given.path}.contents",
            f"expected {given.size} numbers in {field}, or all tensors in raw_input_contents; got "
            f"{len(numbers)}" + (f", and {', '.join(unexpected)}" if unexpected else ""),
        )
    array = as_array(numbers)
    if given.tensor.dtype.kind == "u" and array.max(initial=0) > np.iinfo(given.tensor.dtype).max:
        raise invalid(f"{given.path}.contents", f"expected numbers of {datatype(given.tensor)}")
    return array.astype(given.tensor.dtype).reshape(given.shape)
