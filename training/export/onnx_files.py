"""ONNX files, with their weights in a file beside them where one cannot hold them."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx.external_data_helper import convert_model_to_external_data

from service.runtime.models.manifest import DataFile, Graph, file_sha256
from service.runtime.onnx.sessions import Session

# A protobuf message ends at 2 GiB; the nodes and names beside the weights have room to spare.
MOST_BYTES = 2**31 - 2**26
# Smaller weights stay in the graph, where a shape or a constant is looked for.
_STAYS = 1024


def weight_bytes(model: onnx.ModelProto) -> int:
    """Return what the weights of a graph take, in bytes; not those in files beside it."""
    return sum(len(weight.raw_data) for weight in model.graph.initializer)


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph to `path`, and to ``<path>.data`` its weights where they are too many.

    Then `model` refers to them there and holds them no longer.
    """
    if weight_bytes(model) > MOST_BYTES:
        data = data_file(path)
        # What is there would be added to.
        data.unlink(missing_ok=True)
        convert_model_to_external_data(model, location=data.name, size_threshold=_STAYS)
    onnx.save(model, path)


def data_file(path: Path) -> Path:
    """Return where the weights of the graph at `path` are, if they are not in it."""
    return path.with_name(f"{path.name}.data")


def described(path: Path, session: Session) -> Graph:
    """Return what the manifest says of the graph at `path`, which `session` has loaded."""
    data = data_file(path)
    return Graph(
        file=path.name,
        sha256=file_sha256(path),
        inputs=session.inputs,
        outputs=session.outputs,
        data=(DataFile(file=data.name, sha256=file_sha256(data)),) if data.exists() else None,
    )
