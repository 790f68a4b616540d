"""Reading an ONNX file as data.

A graph computes and does nothing else: it opens no files but those of its own weights, and those
are read here, from beside it and nowhere else, so that what is written holds them itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto
from onnx.inliner import inline_local_functions

from training.importers.errors import ModelImportError, UnsafeFileError, first_line

# What one protobuf message may hold.
_MOST_BYTES = 2**31 - 1
_MOST_NODES = 500_000
# Those of ONNX, and of ONNX Runtime itself; others would be libraries to be loaded.
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
_RANDOM = (
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
)
# `Reshape` and its like take their sizes as inputs from here on, and pictures are cast to bytes.
_LEAST_OPSET = 9


def is_graph(path: Path) -> bool:
    """Tell whether a file is to be read as ONNX, which has no mark of its own at its head."""
    return path.suffix.lower() == ".onnx"


def read_graph(path: Path) -> ModelProto:
    """Return the model with its weights in it and its functions written out.

    Raises ModelImportError if the graph is invalid, and UnsafeFileError if it needs a library of
    custom operators, reads files elsewhere, or is random.
    """
    model = ModelProto()
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ModelImportError(f"{path} is above 2 GiB; save its weights as external data")
        model.ParseFromString(path.read_bytes())
    except OSError as error:
        raise ModelImportError(f"{path} cannot be read: {error.strerror}") from error
    except (DecodeError, RecursionError) as error:
        raise ModelImportError(f"{path} cannot be read as ONNX: {error}") from error
    if not model.graph.node or not model.graph.output:
        raise ModelImportError(f"{path} cannot be read as ONNX: there is no graph in it")
    _take_in(model, path)
    opset = opset_of(model)
    if opset < _LEAST_OPSET:
        raise ModelImportError(
            f"{path} is of opset {opset}; export it with {_LEAST_OPSET} or above"
        )
    _check_size(model, path)
    foreign = sorted({node.domain for node in _nodes(model) if node.domain not in _known(model)})
    if foreign:
        raise UnsafeFileError(
            f"{path} has operators of {', '.join(foreign)}, which a library would have to bring"
        )
    try:
        if model.functions:
            model = inline_local_functions(model)
        onnx.checker.check_model(model)
    except Exception as error:
        # The checker is C++ and raises what it likes; a mutated file leads to any of it.
        raise ModelImportError(f"{path} is no valid ONNX: {first_line(error)}") from error
    for node in _nodes(model):
        if node.op_type in _RANDOM or _in_training(node):
            raise UnsafeFileError(
                f"{path} draws lots or takes the statistics of the batch (the operator "
                f"{node.op_type}); a picture has to depend on what goes in alone"
            )
    return model


def without_dropout(model: ModelProto) -> bool:
    """Make every dropout of a model one that lets all through; tell whether one may have done else.

    ONNX Runtime takes some away and draws lots in others, by where they stand.
    """
    found = [node for node in _nodes(model) if node.op_type == "Dropout" and len(node.input) > 2]
    for node in found:
        del node.input[2:]
    return bool(found)


def opset_of(model: ModelProto) -> int:
    """Return the version of ONNX's own operators that a model is written in."""
    own = [each.version for each in model.opset_import if each.domain in ("", "ai.onnx")]
    return max(own, default=0)


def _known(model: ModelProto) -> set[str]:
    return {*_DOMAINS, *(function.domain for function in model.functions)}


def _in_training(node: NodeProto) -> bool:
    """Tell whether a node normalises by the statistics of the batch."""
    return node.op_type == "BatchNormalization" and any(
        each.name == "training_mode" and each.i for each in node.attribute
    )


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """Yield a graph and those that are in its nodes."""
    yield graph
    for node in graph.node:
        yield from _inner(node)


def _inner(node: NodeProto) -> Iterator[GraphProto]:
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
            for graph in _inner(node):
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


def _take_in(model: ModelProto, path: Path) -> None:
    """Put weights that lie in files beside the model into it. Raises ModelImportError."""
    left = _MOST_BYTES - model.ByteSize()
    for tensor in _tensors(model):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        said = {entry.key: entry.value for entry in tensor.external_data}
        file = _beside(path, said.get("location", ""))
        start, length = _number(path, said, "offset"), _number(path, said, "length")
        size = file.stat().st_size
        length = length if "length" in said else size - start
        if start > size or not 0 <= length <= size - start:
            raise ModelImportError(
                f"{path}: {file.name} ends before the weights {tensor.name!r} do"
            )
        left -= length
        if left < 0:
            raise ModelImportError(
                f"{path} has more than 2 GiB of weights, which one graph cannot hold"
            )
        with file.open("rb") as weights:
            weights.seek(start)
            tensor.raw_data = weights.read(length)
        tensor.ClearField("data_location")
        del tensor.external_data[:]


def _beside(path: Path, location: str) -> Path:
    """Return a file of external weights, which must be in the folder of `path`."""
    folder = path.resolve().parent
    named = Path(location)
    if not location or "\0" in location or named.is_absolute() or ".." in named.parts:
        raise UnsafeFileError(f"{path} has weights in {location!r}, which is not beside it")
    file = (folder / named).resolve()
    if not file.is_relative_to(folder):
        raise UnsafeFileError(
            f"{path} has weights in {location!r}, which leads away from its folder"
        )
    if not file.is_file():
        raise ModelImportError(f"{path} has weights in {location!r}, and that file is not there")
    return file


def _number(path: Path, said: dict[str, str], key: str) -> int:
    value = said.get(key, "0")
    if not value.isdecimal() or len(value) > 18:
        raise ModelImportError(f"{path} has weights whose {key} is {value[:20]!r}")
    return int(value)


def _check_size(model: ModelProto, path: Path) -> None:
    """Raise ModelImportError for tensors of another size than declared, and for endless functions.

    Functions that call each other twice, forty deep, are few bytes and more nodes than memory.
    """
    for tensor in _tensors(model):
        if any(side < 0 for side in tensor.dims) or (
            tensor.HasField("raw_data")
            and tensor.data_type == TensorProto.FLOAT
            and math.prod(tensor.dims) * 4 != len(tensor.raw_data)
        ):
            raise ModelImportError(
                f"{path}: the weights {tensor.name!r} are not of the size they say"
            )
    functions = {(each.domain, each.name, each.overload): each for each in model.functions}
    sizes: dict[tuple[str, ...], int] = {}

    def size_of(function: FunctionProto, above: tuple[tuple[str, ...], ...]) -> int:
        key = (function.domain, function.name, function.overload)
        if key in above:
            raise ModelImportError(f"{path}: its function {function.name!r} calls itself")
        if key not in sizes:
            inner = [n for node in function.node for g in _inner(node) for n in g.node]
            sizes[key] = sum(written_out(node, (*above, key)) for node in [*function.node, *inner])
        return sizes[key]

    def written_out(node: NodeProto, above: tuple[tuple[str, ...], ...]) -> int:
        called = functions.get((node.domain, node.op_type, node.overload))
        return 1 if called is None else size_of(called, above)

    try:
        whole = sum(written_out(node, ()) for g in _graphs(model.graph) for node in g.node)
    except RecursionError as error:
        raise ModelImportError(f"{path}: its functions call each other without end") from error
    if whole > _MOST_NODES:
        raise ModelImportError(f"{path} has {whole:,} operators, more than a generator has")
