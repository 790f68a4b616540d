"""The first linear layers that a latent reaches in an ONNX graph, and their matrices.

The graph is analyzed instead of the weights of a known network, so that it does not matter where a
model comes from: every value of the graph is independent of the latent, linear in it, or neither.
Matrices are measured by running the part of the graph before the first layers. That evaluates
scaled, folded or converted weights in whatever form the graph has them.

"Linear" stands for affine here: differences between two latents are mapped linearly.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from service.runtime.latent.transforms import identity_transforms
from service.runtime.models.model import Model
from service.runtime.models.parts.graphs import GENERATOR, SYNTHESIS, TRANSFORM
from service.runtime.onnx.sessions import ExecutionPlan, Provider, Session
from training.latent.directions.errors import DirectionsError

Floats = NDArray[np.float32]
Matrix = NDArray[np.float64]

# Matrix products: the first ones that a latent reaches are the first layers.
_MATRICES = {"Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul"}
# Linear in the first input if the other inputs do not depend on the latent.
_LINEAR_IN_FIRST = {
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "DepthToSpace",
    "Div",
    "Dropout",
    "Expand",
    "Flatten",
    "Gather",
    "GatherElements",
    "GatherND",
    "GlobalAveragePool",
    "Identity",
    "Neg",
    "Pad",
    "ReduceMean",
    "ReduceSum",
    "Reshape",
    "Resize",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
    "Upsample",
}
# Linear in all inputs together.
_LINEAR_IN_ALL = {"Add", "Concat", "Mean", "Sub", "Sum"}
# Linear in one input if the others do not depend on the latent.
_LINEAR_IN_EACH = {"Mul", *_MATRICES}
# The output depends on the shape of the input only.
_SHAPE_ONLY = {"ConstantOfShape", "Shape", "Size"}
_NORMS = {"ReduceL2", "ReduceSumSquare"}
_REDUCTIONS = {"ReduceMean", "ReduceSum", *_NORMS}

# The largest number of values of a layer that is used for its matrix or its activations.
_MAX_VALUES = 2**16
# Latents per run of a graph.
_ROWS = 64


class _Kind(IntEnum):
    """How a value depends on the latent."""

    INDEPENDENT = 0
    # Linear in the latent, before any matrix product.
    LINEAR = 1
    # Linear in the latent, after a matrix product.
    LAYER = 2
    # A statistic over the features of a linear value, such as the norm of a latent. Dividing by it
    # changes the length of a latent and not its direction.
    STATISTIC = 3
    NONLINEAR = 4


@dataclass(frozen=True)
class FirstLayers:
    """The part of a graph that a latent reaches first.

    `outputs` are the outputs of the first layers. `activation` is the first value that is computed
    from a layer and not linear in the latent, or None.
    """

    graph: onnx.ModelProto = field(repr=False)
    latent: str
    outputs: tuple[str, ...]
    activation: str | None


def first_layers(model: Model) -> FirstLayers:
    """Find the first layers of a model that `w` reaches, or `z` if it has no styles.

    Raises DirectionsError if no linear layer is found.
    """
    role, latent = (SYNTHESIS, "w") if model.manifest.styles else (GENERATOR, "z")
    path = model.folder / model.manifest.graphs[role].file
    graph = onnx.load(path)
    kinds: dict[str, _Kind] = {latent: _Kind.LINEAR}
    outputs: list[str] = []
    activation: str | None = None
    for node in graph.graph.node:
        inputs = [kinds.get(name, _Kind.INDEPENDENT) for name in _names_used(node)]
        kind = _output_kind(node, inputs)
        kinds |= dict.fromkeys(filter(None, node.output), kind)
        if node.op_type in _MATRICES and kind is _Kind.LAYER and _Kind.LAYER not in inputs:
            outputs.append(node.output[0])
        from_layer = _Kind.LAYER in inputs and max(inputs) is _Kind.LAYER
        if activation is None and kind is _Kind.NONLINEAR and from_layer:
            activation = node.output[0]
    if not outputs:
        raise DirectionsError(
            f"{path.name}: no linear layer takes {latent}: the first operations on it are not known"
        )
    return FirstLayers(graph, latent, tuple(outputs), activation)


def _output_kind(node: onnx.NodeProto, inputs: Sequence[_Kind]) -> _Kind:
    """Return how the outputs of a node depend on the latent."""
    operator, highest = node.op_type, max(inputs, default=_Kind.INDEPENDENT)
    if highest is _Kind.INDEPENDENT or operator in _SHAPE_ONLY:
        return _Kind.INDEPENDENT
    dependent = [kind for kind in inputs if kind is not _Kind.INDEPENDENT]
    if operator in ("Mul", "Div") and sorted(inputs) == [_Kind.LINEAR, _Kind.STATISTIC]:
        return _Kind.LINEAR
    if highest is _Kind.STATISTIC:
        return _Kind.STATISTIC if dependent == [_Kind.STATISTIC] else _Kind.NONLINEAR
    if operator in (_REDUCTIONS if highest is _Kind.NONLINEAR else _NORMS):
        return _Kind.STATISTIC
    if highest is _Kind.NONLINEAR:
        return _Kind.NONLINEAR
    if operator in _LINEAR_IN_ALL:
        return highest
    first_only = inputs[0] is highest and len(dependent) == 1
    if operator in _LINEAR_IN_FIRST and first_only:
        return highest
    if operator in _LINEAR_IN_EACH and len(dependent) == 1:
        return _Kind.LAYER if operator in _MATRICES else highest
    if operator == "LpNormalization" and highest is _Kind.LINEAR:
        return _Kind.LINEAR
    return _Kind.NONLINEAR


def matrices(layers: FirstLayers, model: Model, style_layers: Collection[int] = ()) -> list[Matrix]:
    """Return the matrices ``[values, dimension]`` of the first layers.

    With styles, each matrix is that of one layer for one of `style_layers`, of those that reach it.
    Raises DirectionsError if the layers are not linear, or too large.
    """
    with tempfile.TemporaryDirectory() as folder:
        session = _session(layers, layers.outputs, Path(folder))
        dimension = model.manifest.latent_dimension
        found: list[Matrix] = []
        places: list[int | None] = [*sorted(style_layers)] or [None]
        for at in places:
            bases = np.zeros((dimension + 1, dimension), np.float32)
            np.fill_diagonal(bases, 1)
            values = _run(layers, session, model, _in_space(bases, model, at))
            for value in values:
                # The last row is the value for zeros.
                matrix = (value[:-1] - value[-1]).T.astype(np.float64)
                if np.abs(matrix).max() > 0:
                    found.append(matrix)
    if not found or not all(np.isfinite(matrix).all() for matrix in found):
        raise DirectionsError(f"the first layers of {layers.latent} have no finite weights")
    return found


def activations(layers: FirstLayers, model: Model, latents: Floats) -> Floats:
    """Return the first activations ``[N, values]`` for `latents` ``[N, z_dim]``.

    Raises DirectionsError if the graph has no activation after the first layer.
    """
    if layers.activation is None:
        raise DirectionsError(
            f"no activation follows the first layer of {layers.latent}; use --method sefa"
        )
    with tempfile.TemporaryDirectory() as folder:
        session = _session(layers, (layers.activation,), Path(folder))
        (values,) = _run(layers, session, model, latents)
    return values


def _in_space(latents: Floats, model: Model, style_layer: int | None) -> Floats:
    """Return latents ``[N, dimension]`` as the input of the graph: w with zeros in other layers."""
    styles = model.manifest.styles
    if styles is None or style_layer is None:
        return latents
    w = np.zeros((len(latents), len(styles.layers), styles.dimension), np.float32)
    w[:, style_layer] = latents
    return w


def _run(layers: FirstLayers, session: Session, model: Model, latents: Floats) -> list[Floats]:
    """Return the outputs of a partial graph ``[N, values]``, one for each output."""
    parts: list[dict[str, NDArray[np.generic]]] = []
    for start in range(0, len(latents), _ROWS):
        rows = latents[start : start + _ROWS]
        feeds = {layers.latent: rows, TRANSFORM: identity_transforms(len(rows))}
        if layers.latent == "z":
            feeds = model.feeds([0] * len(rows)) | feeds
        parts.append(session.run({name: feeds[name] for name in session.inputs}))
    outputs = []
    for name in session.outputs:
        values = np.concatenate([np.asarray(part[name], np.float32) for part in parts])
        values = values.reshape(len(values), -1)
        if len(values) != len(latents) or values.shape[1] > _MAX_VALUES:
            raise DirectionsError(
                f"the first layer of {layers.latent} has an output of {list(values.shape)} values; "
                f"expected one row for each latent, with at most {_MAX_VALUES:,} values"
            )
        outputs.append(values)
    return outputs


def _session(layers: FirstLayers, outputs: Iterable[str], folder: Path) -> Session:
    """Load the part of the graph that computes `outputs`."""
    names = tuple(outputs)
    path = folder / "first-layers.onnx"
    onnx.save(_part(layers.graph, names), path)
    return Session(path, Provider.CPU, ExecutionPlan(workers=1, threads=1, max_rows=_ROWS))


def _part(model: onnx.ModelProto, outputs: Collection[str]) -> onnx.ModelProto:
    """Return the part of a graph that computes the values `outputs`."""
    producers: Mapping[str, onnx.NodeProto] = {
        name: node for node in model.graph.node for name in node.output
    }
    needed: set[str] = set()
    pending = list(outputs)
    while pending:
        name = pending.pop()
        if name not in needed:
            needed.add(name)
            if name in producers:
                pending += _names_used(producers[name])
    source = model.graph
    part = onnx.ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions
    )
    part.graph.name = source.name
    part.graph.node.extend(n for n in source.node if any(name in needed for name in n.output))
    part.graph.initializer.extend(each for each in source.initializer if each.name in needed)
    part.graph.input.extend(each for each in source.input if each.name in needed)
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    return part


def _names_used(node: onnx.NodeProto) -> list[str]:
    """Return the inputs of a node, with those of its subgraphs."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        graphs = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
        for graph in graphs:
            names += [name for each in graph.node for name in _names_used(each)]
            names += [each.name for each in graph.output]
    return names
