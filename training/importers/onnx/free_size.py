"""Makes height and width of a graph dynamic that was exported with a fixed size.

Convolutions work on any size; only constants that contain the exported size prevent it: the shapes
of `Reshape` and the sizes of `Resize`. They are replaced by computations from the shapes at run
time. Whether the result is the same network is not proven here: compare its outputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from onnx import ModelProto, NodeProto, ValueInfoProto, helper
from onnx.numpy_helper import from_array

from training.importers.onnx.reference import Feeds, QuietSession

_PREFIX = "any_size"
# In this opset and later, Resize has the inputs X, roi, scales and sizes.
_RESIZE_HAS_SIZES = 11
_Shape = tuple[int, ...]
# The longest axis, or the first one: windows of attention are split into (number, side).
SplitRule = Literal["longest", "first"]


def with_free_size(
    model: ModelProto,
    feeds: Feeds,
    inputs: Mapping[str, tuple[int, int]],
    opset: int,
    rule: SplitRule,
) -> ModelProto:
    """Return a copy of `model` with dynamic height and width.

    `feeds` are values of the inputs in the exported size. `inputs` are the axes of height and width
    of each image input, by its name. `rule` selects the axis that follows the size of the image
    where a `Reshape` splits an axis. Raises ModelImportError if the graph cannot be run.
    """
    freed = ModelProto()
    freed.CopyFrom(model)
    graph = freed.graph
    constants = _constants(model)
    shapes = _shapes(model, feeds, constants)
    nodes: list[NodeProto] = []
    for i, node in enumerate(graph.node):
        name = f"{_PREFIX}/{i}"
        if node.op_type == "Reshape" and node.input[0] not in constants:
            before, after = shapes.get(node.input[0]), shapes.get(node.output[0])
            if before and after:
                nodes += _add_run_time_shape(node, before, after, name, rule)
                # The computed shape has no zeros with a special meaning.
                _remove_attribute(node, "allowzero")
        elif node.op_type == "Resize" and opset >= _RESIZE_HAS_SIZES and len(node.input) > 3:
            before, after = shapes.get(node.input[0]), shapes.get(node.output[0])
            if before and after:
                scales = np.array([b / a for a, b in zip(before, after, strict=True)], np.float32)
                graph.initializer.append(from_array(scales, f"{name}/scales"))
                node.input[2:] = [f"{name}/scales"]
        nodes.append(node)
    copies = [_copy(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    # Inferred shapes contain the exported size.
    del graph.value_info[:]
    for value in graph.input:
        for axis in inputs.get(value.name, ()):
            value.type.tensor_type.shape.dim[axis].ClearField("value")
    for value in graph.output:
        for dimension in value.type.tensor_type.shape.dim:
            dimension.ClearField("value")
    return freed


def _copy(node: NodeProto) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(node)
    return copy


def _remove_attribute(node: NodeProto, name: str) -> None:
    kept = [each for each in node.attribute if each.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)


def _constants(model: ModelProto) -> set[str]:
    names = {weight.name for weight in model.graph.initializer}
    return names | {node.output[0] for node in model.graph.node if node.op_type == "Constant"}


def _shapes(model: ModelProto, feeds: Feeds, constants: set[str]) -> dict[str, _Shape]:
    """Run the graph and return the shapes of the inputs and outputs of `Reshape` and `Resize`."""
    names = dict.fromkeys(
        name
        for node in model.graph.node
        if node.op_type in ("Reshape", "Resize")
        for name in (node.input[0], node.output[0])
    )
    own = {value.name for value in (*model.graph.input, *model.graph.output)}
    observed = ModelProto()
    observed.CopyFrom(model)
    observed.graph.output.extend(
        ValueInfoProto(name=name) for name in names if name not in own | constants
    )
    values = QuietSession(observed).run(feeds) | dict(feeds)
    return {name: tuple(values[name].shape) for name in names if name in values}


def _add_run_time_shape(
    node: NodeProto, before: _Shape, after: _Shape, name: str, rule: SplitRule
) -> list[NodeProto]:
    """Replace the shape of a `Reshape` node; return the nodes that compute the new one."""
    groups = matching_axes(before, after)
    if groups is None:
        return []
    shape = f"{name}/shape"
    nodes = [helper.make_node("Shape", [node.input[0]], [shape])]
    axes: list[str] = []

    def constant(values: Sequence[int]) -> str:
        output = f"{name}/constant/{len(nodes)}"
        tensor = from_array(np.array(values, np.int64), output)
        nodes.append(helper.make_node("Constant", [], [output], value=tensor))
        return output

    for sources, targets in groups:
        # One axis follows the size; the others are constants such as an upscaling factor.
        following = _following_axis(after, targets, rule)
        for target in targets:
            if target != following:
                axes.append(constant([after[target]]))
                continue
            length = ""
            for source in sources:
                side = f"{name}/side/{source}"
                nodes.append(helper.make_node("Gather", [shape, constant([source])], [side]))
                if length:
                    product = f"{name}/product/{source}"
                    nodes.append(helper.make_node("Mul", [length, side], [product]))
                    side = product
                length = side
            others = math.prod(after[axis] for axis in targets if axis != following)
            if others > 1:
                quotient = f"{name}/quotient/{target}"
                nodes.append(helper.make_node("Div", [length, constant([others])], [quotient]))
                length = quotient
            axes.append(length or constant([1]))
    result = f"{name}/result"
    nodes.append(helper.make_node("Concat", axes, [result], axis=0))
    node.input[1] = result
    return nodes


def _following_axis(after: _Shape, targets: Sequence[int], rule: SplitRule) -> int:
    """Return which axis of a group follows the size of the image; -1 for an empty group."""
    if rule == "first":
        return next((axis for axis in targets if after[axis] > 1), targets[0] if targets else -1)
    return max(targets, key=lambda axis: after[axis]) if targets else -1


def matching_axes(
    before: _Shape, after: _Shape
) -> list[tuple[tuple[int, ...], tuple[int, ...]]] | None:
    """Return the smallest groups of axes that a reshape maps to each other, in order.

    Each group is (axes of `before`, axes of `after`) with equal products. Returns None if the
    number of values differs, or if there are none.
    """
    if math.prod(before) != math.prod(after) or not math.prod(before):
        return None
    groups = []
    i = j = 0
    while i < len(before) and j < len(after):
        start, first = i, j
        left, right = before[i], after[j]
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                left *= before[i]
                i += 1
            else:
                right *= after[j]
                j += 1
        groups.append((tuple(range(start, i)), tuple(range(first, j))))
    # Only axes of length 1 remain.
    rest = tuple(range(i, len(before))), tuple(range(j, len(after)))
    return [*groups, rest] if any(rest) else groups
