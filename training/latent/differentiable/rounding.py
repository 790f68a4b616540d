"""Removes the conversion to uint8 at the end of a graph, which has no gradient."""

from __future__ import annotations

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto
from onnx.numpy_helper import to_array

PIXELS = "pixels"
# Operators that move or convert values; rounding may come before or after them.
_LAYOUT = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_INTEGERS = (TensorProto.UINT8, TensorProto.INT32, TensorProto.INT64)


def without_rounding(model: ModelProto) -> ModelProto:
    """Return a copy of a graph whose output ``pixels`` is neither rounded nor clipped.

    It becomes a float, in levels of 255. Only what follows the last computation is removed: a clip
    within the network remains. Graphs without this output are returned as they are.
    """
    if not any(value.name == PIXELS for value in model.graph.output):
        return model
    changed = ModelProto()
    changed.CopyFrom(model)
    _remove_rounding(changed.graph, PIXELS)
    return changed


def _remove_rounding(graph: GraphProto, name: str) -> None:
    """Replace the rounding and clipping that lead to the value `name` by the identity, in place."""
    producers = {output: node for node in graph.node for output in node.output}
    uses: dict[str, int] = {}
    for node in graph.node:
        for each in node.input:
            uses[each] = uses.get(each, 0) + 1
    constants = _constants(graph)
    for value in graph.output:
        if value.name == name and value.type.tensor_type.elem_type == TensorProto.UINT8:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    del graph.value_info[:]
    while (node := producers.get(name)) is not None and uses.get(name, 0) <= 1:
        if node.op_type == "Scan":
            body = next(each.g for each in node.attribute if each.name == "body")
            _remove_rounding(body, body.output[list(node.output).index(name)].name)
            return
        source = _source(node, producers, constants)
        if source is None:
            return
        if node.op_type not in _LAYOUT and not _casts_to_float(node):
            node.op_type = "Identity"
            del node.attribute[:]
            node.input[:] = [source]
        name = source


def _source(
    node: NodeProto, producers: dict[str, NodeProto], constants: dict[str, float]
) -> str | None:
    """Return the value that a node rounds, clips, moves or converts; None for other nodes."""
    if node.op_type in (*_LAYOUT, "Round", "Clip") or _casts_to_float(node):
        return str(node.input[0])
    if node.op_type == "Cast" and node.attribute[0].i in _INTEGERS:
        return str(node.input[0])
    if node.op_type == "Floor":
        # Rounding is written as floor(x + 0.5) where the operator set has no Round.
        before = producers.get(node.input[0])
        if before is not None and before.op_type == "Add":
            moved = [each for each in before.input if constants.get(each) != 0.5]
            if len(moved) == 1:
                return str(moved[0])
        return str(node.input[0])
    if node.op_type in ("Max", "Min") and len(node.input) == 2:
        clipped = [each for each in node.input if each not in constants]
        return str(clipped[0]) if len(clipped) == 1 else None
    return None


def _casts_to_float(node: NodeProto) -> bool:
    floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
    return node.op_type == "Cast" and node.attribute[0].i in floats


def _constants(graph: GraphProto) -> dict[str, float]:
    """Return the constants with a single value."""
    tensors = {each.name: each for each in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].type == onnx.AttributeProto.TENSOR:
            tensors[node.output[0]] = node.attribute[0].t
    single = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
    arrays = {name: to_array(each) for name, each in tensors.items() if each.data_type in single}
    return {name: float(array.reshape(-1)[0]) for name, array in arrays.items() if array.size == 1}
