"""Writes ONNX files. Weights that are too large for one file are stored in a second one."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx.external_data_helper import convert_model_to_external_data

from service.runtime.models.manifest import file_sha256
from service.runtime.models.parts.graphs import DataFile, Graph
from service.runtime.onnx.sessions import Session

# A protobuf message is limited to 2 GiB. The rest is reserved for nodes and names.
MAX_WEIGHT_BYTES = 2**31 - 2**26
# Smaller tensors stay in the graph, because tools read shapes and constants from it.
_MIN_EXTERNAL_BYTES = 1024


def weight_bytes(model: onnx.ModelProto) -> int:
    """Return the size in bytes of the weights that are stored in a graph."""
    return sum(len(weight.raw_data) for weight in model.graph.initializer)


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph to `path`, and its weights to ``<path>.data`` if they are too large.

    In the latter case, `model` is modified: it refers to the written weights and no longer contains
    them.
    """
    if weight_bytes(model) > MAX_WEIGHT_BYTES:
        data = data_file(path)
        # onnx appends to an existing file.
        data.unlink(missing_ok=True)
        convert_model_to_external_data(
            model, location=data.name, size_threshold=_MIN_EXTERNAL_BYTES
        )
    onnx.save(model, path)


def data_file(path: Path) -> Path:
    """Return the path for external weights of the graph at `path`. The file may not exist."""
    return path.with_name(f"{path.name}.data")


def graph_entry(path: Path, session: Session) -> Graph:
    """Return the manifest's entry for the graph at `path`, which `session` has loaded."""
    data = data_file(path)
    return Graph(
        file=path.name,
        sha256=file_sha256(path),
        inputs=session.inputs,
        outputs=session.outputs,
        data=(DataFile(file=data.name, sha256=file_sha256(data)),) if data.exists() else None,
    )
