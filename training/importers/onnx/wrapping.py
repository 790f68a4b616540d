"""Wraps an imported graph with the pre- and postprocessing of serving.

The wrapped graph has the inputs that the service uses, and converts them to the range, layout and
type of the imported graph. The output becomes ``pixels`` [N, H, W, C] uint8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper
from onnx.compose import add_prefix
from onnx.numpy_helper import from_array, to_array

from service.runtime.models.parts.graphs import CLASS_INDEX, CLASS_WEIGHTS
from training.importers.onnx.ports import PIXELS, Port, Range
from training.importers.reading.onnx_files import opset_of

# A prefix for the imported graph's names, so that they differ from the added names.
_PREFIX = "imported/"
# In this opset and later, Squeeze and Unsqueeze take their axes as an input.
_AXES_ARE_INPUTS = 13


@dataclass(frozen=True)
class GraphInterface:
    """How the inputs and outputs of an imported graph correspond to the service's."""

    # By the names that model folders use.
    ports: Mapping[str, Port]
    # The shape of one row of each input and of the pixels, with None for dynamic axes.
    rows: Mapping[str, tuple[int | None, ...]]
    input_range: Range
    output_range: Range
    input_channels_first: bool
    output_channels_first: bool
    # The image shape ``[C, H, W]`` or ``[H, W, C]``, if the graph returns each image as a vector.
    unflattened: tuple[int, ...] | None = None
    # The graph takes z in [0, 1]; the service draws it from [-1, 1].
    unit_latent: bool = False
    # The batch size that the graph declares; None if it is dynamic.
    batch: int | None = None

    @property
    def inputs(self) -> list[str]:
        """The names of the inputs."""
        return [name for name in self.ports if name != PIXELS]

    @property
    def classes(self) -> int:
        """The number of classes."""
        return self.rows[CLASS_WEIGHTS][0] or 0

    @property
    def has_batch_axis(self) -> bool:
        """True if every input has a batch axis."""
        return all(self.ports[name].shape for name in self.inputs)


class _NodeBuilder:
    """Builds a sequence of nodes and their constants."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []

    def node(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"step/{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def constant(self, value: Any, dtype: type[np.generic] = np.float32) -> str:
        name = f"constant/{len(self.weights)}"
        self.weights.append(from_array(np.asarray(value, dtype), name))
        return name

    def cast(self, value: str, dtype: int) -> str:
        return self.node("Cast", value, to=dtype)

    def reshape(self, value: str, shape: Sequence[int]) -> str:
        return self.node("Reshape", value, self.constant(list(shape), np.int64))

    def axis(self, operator: str, value: str, axis: int, output: str = "") -> str:
        """Add a Squeeze or Unsqueeze."""
        if self.opset < _AXES_ARE_INPUTS:
            return self.node(operator, value, output=output, axes=[axis])
        return self.node(operator, value, self.constant([axis], np.int64), output=output)


def wrap(
    model: ModelProto, interface: GraphInterface, *, fixed_batch: int | None, row_by_row: bool
) -> ModelProto:
    """Return a model with the inputs and outputs that the service uses.

    `fixed_batch` is the batch size of the exported graph; it is replaced by a dynamic size in
    constant shapes. With `row_by_row`, the graph runs in a `Scan`, one row at a time.
    """
    graph = add_prefix(model, _PREFIX).graph
    # The inferred shapes contain the original batch size.
    del graph.value_info[:]
    if fixed_batch is not None:
        _make_batch_dynamic(graph, fixed_batch)
    steps = _NodeBuilder(opset_of(model))
    input_names = {name: f"one/{name}" if row_by_row else name for name in interface.inputs}
    for name in interface.inputs:
        value = steps.axis("Unsqueeze", input_names[name], 0) if row_by_row else input_names[name]
        _add_preprocessing(steps, interface, name, value, row_by_row=row_by_row)
    after = _NodeBuilder(opset_of(model))
    _add_postprocessing(
        after, interface, "one/pixels" if row_by_row else PIXELS, row_by_row=row_by_row
    )
    _rename(after, "last/")

    nodes = [*steps.nodes, *graph.node, *after.nodes]
    weights = [*graph.initializer, *steps.weights, *after.weights]
    if row_by_row:
        body = helper.make_graph(
            nodes,
            "one_row",
            [_value(input_names[name], name, interface, ()) for name in interface.inputs],
            [_value("one/pixels", PIXELS, interface, ())],
            weights,
            sparse_initializer=graph.sparse_initializer,
        )
        scan = helper.make_node(
            "Scan", interface.inputs, [PIXELS], num_scan_inputs=len(interface.inputs), body=body
        )
        nodes, weights = [scan], []
    wrapped = helper.make_graph(
        nodes,
        "generator",
        [_value(name, name, interface, ("N",)) for name in interface.inputs],
        [_value(PIXELS, PIXELS, interface, ("N",))],
        weights,
        sparse_initializer=() if row_by_row else graph.sparse_initializer,
    )
    result = helper.make_model(wrapped, opset_imports=model.opset_import)
    result.ir_version = max(model.ir_version, 4)
    result.producer_name = "ganymede"
    return result


def _value(
    value_name: str, name: str, interface: GraphInterface, batch_axes: tuple[str, ...]
) -> onnx.ValueInfoProto:
    types = {"image": TensorProto.UINT8, "mask": TensorProto.UINT8, PIXELS: TensorProto.UINT8}
    types |= {CLASS_INDEX: TensorProto.INT64}
    axes = "HWC"
    row = [
        f"{'out_' if name == PIXELS else ''}{axes[i]}" if side is None else side
        for i, side in enumerate(interface.rows[name])
    ]
    return helper.make_tensor_value_info(
        value_name, types.get(name, TensorProto.FLOAT), [*batch_axes, *row]
    )


def _add_preprocessing(
    steps: _NodeBuilder, interface: GraphInterface, name: str, value: str, *, row_by_row: bool
) -> None:
    """Add the nodes that convert an input of the wrapped graph to the imported graph's input."""
    port = interface.ports[name]
    rows = 1 if row_by_row else -1
    if name == "image":
        value = _add_image(steps, interface, port, value)
    elif name == "mask":
        value = _add_mask(steps, interface, port, value)
    else:
        if name == "z" and interface.unit_latent:
            value = steps.node("Add", value, steps.constant(1.0))
            value = steps.node("Mul", value, steps.constant(0.5))
        shape = [side if side is not None else -1 for side in port.shape[1:]]
        if shape.count(-1) == 1 and len(shape) == 1:
            shape = [interface.rows[name][0] or 1] if interface.rows[name] else [1]
        if not port.shape:
            shape = []
        elif name in (CLASS_INDEX, "truncation"):
            shape = [1] * (len(port.shape) - 1)
        value = steps.cast(steps.reshape(value, [rows, *shape] if port.shape else []), port.type)
    steps.node("Identity", value, output=_PREFIX + port.name)


def _add_image(steps: _NodeBuilder, interface: GraphInterface, port: Port, value: str) -> str:
    if port.type != TensorProto.UINT8:
        low, high = interface.input_range
        value = steps.cast(value, TensorProto.FLOAT)
        value = steps.node("Mul", value, steps.constant((high - low) / 255))
        value = steps.node("Add", value, steps.constant(low))
        value = steps.cast(value, port.type)
    if len(port.shape) == 3:
        return steps.axis("Squeeze", value, 3)
    return (
        steps.node("Transpose", value, perm=[0, 3, 1, 2])
        if interface.input_channels_first
        else value
    )


def _add_mask(steps: _NodeBuilder, interface: GraphInterface, port: Port, value: str) -> str:
    """Add the nodes that convert a mask; 1 marks the pixels to fill."""
    level = steps.cast(value, TensorProto.FLOAT)
    value = steps.cast(steps.node("Greater", level, steps.constant(127.0)), port.type)
    if len(port.shape) == 3:
        return value
    return steps.axis("Unsqueeze", value, 1 if interface.input_channels_first else 3)


def _add_postprocessing(
    steps: _NodeBuilder, interface: GraphInterface, output: str, *, row_by_row: bool
) -> None:
    """Add the nodes that convert the imported graph's images to ``pixels``."""
    port = interface.ports[PIXELS]
    value = _PREFIX + port.name
    if interface.unflattened is not None:
        value = steps.reshape(value, [-1, *interface.unflattened])
    if port.type != TensorProto.UINT8:
        low, high = interface.output_range
        value = steps.cast(value, TensorProto.FLOAT)
        value = steps.node("Sub", value, steps.constant(low))
        value = steps.node("Mul", value, steps.constant(255 / (high - low)))
        # Max, Min and Floor, because Clip with inputs and Round are not in every supported opset.
        value = steps.node("Max", value, steps.constant(0.0))
        value = steps.node("Min", value, steps.constant(255.0))
        value = steps.node("Floor", steps.node("Add", value, steps.constant(0.5)))
        value = steps.cast(value, TensorProto.UINT8)
    if len(port.shape) == 3:
        value = steps.axis("Unsqueeze", value, 3)
    elif interface.output_channels_first:
        value = steps.node("Transpose", value, perm=[0, 2, 3, 1])
    if row_by_row:
        steps.axis("Squeeze", value, 0, output=output)
    else:
        steps.node("Identity", value, output=output)


def _rename(steps: _NodeBuilder, prefix: str) -> None:
    """Prefix the names of a builder's nodes and constants, to keep two builders apart."""
    names = {weight.name for weight in steps.weights}
    names |= {name for node in steps.nodes for name in node.output if name.startswith("step/")}
    for weight in steps.weights:
        weight.name = prefix + weight.name
    for node in steps.nodes:
        node.input[:] = [prefix + name if name in names else name for name in node.input]
        node.output[:] = [prefix + name if name in names else name for name in node.output]


def _make_batch_dynamic(graph: GraphProto, batch: int) -> None:
    """Make the batch axis of constant shapes dynamic.

    In a shape of `Reshape`, 0 keeps the size of an axis, and -1 infers it from the other axes.
    """
    weights = {weight.name: weight for weight in graph.initializer}
    constants = {node.output[0]: node for node in graph.node if node.op_type == "Constant"}
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[0] in weights:
            continue
        shape = _constant(node.input[1], weights, constants)
        if shape is None or len(shape) < 2 or shape[0] != batch or 0 in shape:
            continue
        shape[0] = 0 if -1 in shape[1:] else -1
        # With `allowzero`, 0 would be an empty axis.
        attributes = [each for each in node.attribute if each.name != "allowzero"]
        del node.attribute[:]
        node.attribute.extend(attributes)
        name = f"{node.input[1]}/any_batch/{node.output[0]}"
        graph.initializer.append(from_array(shape, name))
        node.input[1] = name


def _constant(
    name: str, weights: Mapping[str, TensorProto], constants: Mapping[str, NodeProto]
) -> np.ndarray[Any, np.dtype[np.int64]] | None:
    tensor = weights.get(name)
    if tensor is None and name in constants:
        for attribute in constants[name].attribute:
            if attribute.type == AttributeProto.TENSOR:
                tensor = attribute.t
            elif attribute.type == AttributeProto.INTS:
                return np.asarray(attribute.ints, np.int64)
    return None if tensor is None else to_array(tensor).astype(np.int64).copy()
