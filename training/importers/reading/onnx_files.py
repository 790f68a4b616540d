"""Reads an ONNX file as data.

An ONNX graph contains no code besides its operators. It refers to other files only for external
weights. These are read only from the folder of the graph, and are loaded into the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto
from onnx.inliner import inline_local_functions

from service.runtime.errors import first_line
from training.importers.errors import ModelImportError, UnsafeFileError

# The limit of a protobuf message.
_MAX_BYTES = 2**31 - 1
_MAX_NODES = 500_000
# The domains of operators that ONNX Runtime supports without a custom library.
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc")
_RANDOM = (
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
)


def is_onnx_file(path: Path) -> bool:
    """True if a file has the suffix of ONNX. The format has no magic number."""
    return path.suffix.lower() == ".onnx"


def read_onnx(path: Path) -> ModelProto:
    """Return a checked model with its external weights loaded and its functions inlined.

    Raises ModelImportError if the graph is invalid. Raises UnsafeFileError if it needs a library of
    custom operators, reads files outside its folder, has random operators, or normalizes with the
    statistics of the batch.
    """
    model = ModelProto()
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ModelImportError(
                f"{path} is larger than 2 GiB; save its weights as external data"
            )
        model.ParseFromString(path.read_bytes())
    except OSError as error:
        raise ModelImportError(f"{path} cannot be read: {error.strerror}") from error
    except (DecodeError, RecursionError) as error:
        raise ModelImportError(f"{path} cannot be read as ONNX: {error}") from error
    if not model.graph.node or not model.graph.output:
        raise ModelImportError(f"{path} cannot be read as ONNX: it has no graph")
    _load_external_weights(model, path)
    newest = onnx.defs.onnx_opset_version()
    if opset_of(model) > newest or model.ir_version > onnx.IR_VERSION:
        raise ModelImportError(
            f"{path} has opset {opset_of(model)} and IR version {model.ir_version}; the installed "
            f"ONNX {onnx.__version__} knows them up to {newest} and {onnx.IR_VERSION}: update it, "
            "or export the graph with an older opset"
        )
    _check_sizes(model, path)
    known = {*_DOMAINS, *(function.domain for function in model.functions)}
    custom = sorted({node.domain for node in _nodes(model) if node.domain not in known})
    if custom:
        raise UnsafeFileError(
            f"{path} uses custom operators of {', '.join(custom)}, which need a library; only "
            "operators of ONNX and ONNX Runtime are supported"
        )
    try:
        if model.functions:
            model = inline_local_functions(model)
        onnx.checker.check_model(model)
    except Exception as error:
        # The checker is written in C++ and raises many types of errors for corrupt files.
        raise ModelImportError(f"{path} is not valid ONNX: {first_line(error)}") from error
    for node in _nodes(model):
        if node.op_type in _RANDOM:
            raise UnsafeFileError(
                f"{path} is random (operator {node.op_type}); images must depend on inputs only: "
                "turn the noise into an input or a constant"
            )
        if _in_training_mode(node):
            raise UnsafeFileError(
                f"{path} normalizes with the statistics of the batch (operator {node.op_type}); "
                "export the network in eval mode"
            )
    return model


def disable_dropout(model: ModelProto) -> bool:
    """Replace every dropout of a model by an identity. Returns True if one may have been active.

    ONNX Runtime removes some of them and randomizes with others.
    """
    active = [node for node in _nodes(model) if node.op_type == "Dropout" and len(node.input) > 2]
    for node in active:
        del node.input[2:]
    return bool(active)


def opset_of(model: ModelProto) -> int:
    """Return the version of ONNX's operators that a model uses."""
    versions = [each.version for each in model.opset_import if each.domain in ("", "ai.onnx")]
    return max(versions, default=0)


def _in_training_mode(node: NodeProto) -> bool:
    """True for a batch normalization that uses the statistics of the batch."""
    return node.op_type == "BatchNormalization" and any(
        each.name == "training_mode" and each.i for each in node.attribute
    )


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """Yield a graph and the subgraphs of its nodes."""
    yield graph
    for node in graph.node:
        yield from _subgraphs(node)


def _subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield from _graphs(attribute.g)
        for graph in attribute.graphs:
            yield from _graphs(graph)


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    for graph in _graphs(model.graph):
        yield from graph.node
    for function in model.functions:
        for node in function.node:
            yield node
            for graph in _subgraphs(node):
                yield from graph.node


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    for graph in _graphs(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in _nodes(model):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in [attribute.sparse_tensor, *attribute.sparse_tensors]:
                yield from (sparse.values, sparse.indices)


def _load_external_weights(model: ModelProto, path: Path) -> None:
    """Load external weights into the model. Raises ModelImportError."""
    remaining = _MAX_BYTES - model.ByteSize()
    for tensor in _tensors(model):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        file = _external_file(path, entries.get("location", ""))
        start, length = _number(path, entries, "offset"), _number(path, entries, "length")
        size = file.stat().st_size
        length = length if "length" in entries else size - start
        if start > size or not 0 <= length <= size - start:
            raise ModelImportError(
                f"{path}: the file {file.name} is too short for the weights {tensor.name!r}"
            )
        remaining -= length
        if remaining < 0:
            raise ModelImportError(
                f"{path} has more than 2 GiB of weights, the limit of an ONNX graph"
            )
        with file.open("rb") as weights:
            weights.seek(start)
            tensor.raw_data = weights.read(length)
        tensor.ClearField("data_location")
        del tensor.external_data[:]


def _external_file(path: Path, location: str) -> Path:
    """Return a file of external weights.

    Raises UnsafeFileError if it is not in the folder of `path`, ModelImportError if it is missing.
    """
    folder = path.resolve().parent
    named = Path(location)
    outside = not location or "\0" in location or named.is_absolute() or ".." in named.parts
    if outside or not (folder / named).resolve().is_relative_to(folder):
        raise UnsafeFileError(f"{path} has weights in {location!r}, which is outside its folder")
    file = (folder / named).resolve()
    if not file.is_file():
        raise ModelImportError(f"{path} has weights in {location!r}, but the file does not exist")
    return file


def _number(path: Path, entries: dict[str, str], key: str) -> int:
    value = entries.get(key, "0")
    if not value.isdecimal() or len(value) > 18:
        raise ModelImportError(f"{path} has weights with the invalid {key} {value[:20]!r}")
    return int(value)


def _check_sizes(model: ModelProto, path: Path) -> None:
    """Raise ModelImportError for tensors without the declared size, and for too many nodes.

    The nodes are counted as if all functions were inlined. For example, forty functions that each
    call the next one twice are small in the file, but their nodes would not fit in memory.
    """
    for tensor in _tensors(model):
        if any(side < 0 for side in tensor.dims) or (
            tensor.HasField("raw_data")
            and tensor.data_type == TensorProto.FLOAT
            and math.prod(tensor.dims) * 4 != len(tensor.raw_data)
        ):
            raise ModelImportError(
                f"{path}: the data of the weights {tensor.name!r} do not have the declared size"
            )
    functions = {(each.domain, each.name, each.overload): each for each in model.functions}
    sizes: dict[tuple[str, ...], int] = {}

    def function_size(function: FunctionProto, callers: tuple[tuple[str, ...], ...]) -> int:
        key = (function.domain, function.name, function.overload)
        if key in callers:
            raise ModelImportError(f"{path}: its function {function.name!r} calls itself")
        if key not in sizes:
            inner = [n for node in function.node for g in _subgraphs(node) for n in g.node]
            nodes = [*function.node, *inner]
            sizes[key] = sum(inlined_size(node, (*callers, key)) for node in nodes)
        return sizes[key]

    def inlined_size(node: NodeProto, callers: tuple[tuple[str, ...], ...]) -> int:
        function = functions.get((node.domain, node.op_type, node.overload))
        return 1 if function is None else function_size(function, callers)

    try:
        total = sum(inlined_size(node, ()) for g in _graphs(model.graph) for node in g.node)
    except RecursionError as error:
        raise ModelImportError(f"{path}: its functions call each other recursively") from error
    if total > _MAX_NODES:
        raise ModelImportError(
            f"{path} has {total:,} operators; at most {_MAX_NODES:,} are supported"
        )
