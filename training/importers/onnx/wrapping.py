"""A graph made elsewhere with the first and last steps of serving around it.

What the contract names goes in as it says, and becomes what the graph takes: bytes of pictures get
the graph's range, layout and type. What comes out becomes ``pixels`` [N, H, W, C] uint8.
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

from service.runtime.models.manifest import CLASS_INDEX, CLASS_WEIGHTS
from training.importers.onnx.ports import PIXELS, Port, Range
from training.importers.reading.onnx_files import opset_of

# In front of the graph's own names, among which may be those of the contract.
_THEIRS = "imported/"
# From here on, these take their axes as an input.
_AXES_ARE_INPUTS = 13


@dataclass(frozen=True)
class Plan:
    """How a graph's ports become the contract's."""

    ports: Mapping[str, Port]
    # One row of each input of the contract, and of the pixels; None where a side may vary.
    rows: Mapping[str, tuple[int | None, ...]]
    goes_in: Range
    comes_out: Range
    in_first: bool
    out_first: bool
    # The pictures ``[C, H, W]`` or ``[H, W, C]`` of a graph that gives them as one row of numbers.
    unflattened: tuple[int, ...] | None = None
    # Whether the service's z, from -1 to 1, is brought to 0 to 1.
    unit: bool = False
    # The rows that the graph says it takes; None for any.
    batch: int | None = None

    @property
    def inputs(self) -> list[str]:
        """The names that go in."""
        return [name for name in self.ports if name != PIXELS]

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return self.rows[CLASS_WEIGHTS][0] or 0

    @property
    def has_batch(self) -> bool:
        """Whether every input has an axis for the rows."""
        return all(self.ports[name].shape for name in self.inputs)


class _Steps:
    """Nodes in their order, and the constants that they take."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []

    def node(self, operator: str, *given: str, gives: str = "", **attributes: Any) -> str:
        gives = gives or f"step/{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(given), [gives], **attributes))
        return gives

    def constant(self, value: Any, dtype: type[np.generic] = np.float32) -> str:
        name = f"constant/{len(self.weights)}"
        self.weights.append(from_array(np.asarray(value, dtype), name))
        return name

    def cast(self, value: str, kind: int) -> str:
        return self.node("Cast", value, to=kind)

    def shaped(self, value: str, shape: Sequence[int]) -> str:
        return self.node("Reshape", value, self.constant(list(shape), np.int64))

    def axis(self, operator: str, value: str, axis: int, gives: str = "") -> str:
        """Squeeze or unsqueeze."""
        if self.opset < _AXES_ARE_INPUTS:
            return self.node(operator, value, gives=gives, axes=[axis])
        return self.node(operator, value, self.constant([axis], np.int64), gives=gives)


def wrap(model: ModelProto, plan: Plan, *, freed: int | None, looped: bool) -> ModelProto:
    """Return a model of the contract's inputs and outputs.

    Sizes within the graph that begin with `freed`, the batch that it was made for, are made to say
    any. Where it is `looped`, the graph is run for one row after another within a `Scan`.
    """
    theirs = add_prefix(model, _THEIRS)
    graph = theirs.graph
    # What it says of sizes inside holds for its own batch only.
    del graph.value_info[:]
    if freed is not None:
        _free_batch(graph, freed)
    steps = _Steps(opset_of(model))
    given = {name: f"one/{name}" if looped else name for name in plan.inputs}
    for name in plan.inputs:
        value = steps.axis("Unsqueeze", given[name], 0) if looped else given[name]
        _before(steps, plan, name, value, looped=looped)
    after = _Steps(opset_of(model))
    _after(after, plan, "one/made" if looped else PIXELS, looped=looped)
    _rename(after, "last/")

    nodes = [*steps.nodes, *graph.node, *after.nodes]
    weights = [*graph.initializer, *steps.weights, *after.weights]
    if looped:
        body = helper.make_graph(
            nodes,
            "one_row",
            [_value(given[name], name, plan, ()) for name in plan.inputs],
            [_value("one/made", PIXELS, plan, ())],
            weights,
            sparse_initializer=graph.sparse_initializer,
        )
        scan = helper.make_node(
            "Scan", plan.inputs, [PIXELS], num_scan_inputs=len(plan.inputs), body=body
        )
        nodes, weights = [scan], []
    whole = helper.make_graph(
        nodes,
        "generator",
        [_value(name, name, plan, ("N",)) for name in plan.inputs],
        [_value(PIXELS, PIXELS, plan, ("N",))],
        weights,
        sparse_initializer=() if looped else graph.sparse_initializer,
    )
    made = helper.make_model(whole, opset_imports=model.opset_import)
    made.ir_version = max(model.ir_version, 4)
    made.producer_name = "ganymede"
    return made


def _value(as_name: str, name: str, plan: Plan, before: tuple[str, ...]) -> onnx.ValueInfoProto:
    kind = {"image": TensorProto.UINT8, "mask": TensorProto.UINT8, PIXELS: TensorProto.UINT8}
    kind |= {CLASS_INDEX: TensorProto.INT64}
    axes = "HWC"
    row = [
        f"{'out_' if name == PIXELS else ''}{axes[i]}" if side is None else side
        for i, side in enumerate(plan.rows[name])
    ]
    return helper.make_tensor_value_info(
        as_name, kind.get(name, TensorProto.FLOAT), [*before, *row]
    )


def _before(steps: _Steps, plan: Plan, name: str, value: str, *, looped: bool) -> None:
    """Add the steps from an input of the contract to the graph's own."""
    port = plan.ports[name]
    rows = 1 if looped else -1
    if name == "image":
        value = _picture(steps, plan, port, value)
    elif name == "mask":
        value = _mask(steps, plan, port, value)
    else:
        if name == "z" and plan.unit:
            value = steps.node("Add", value, steps.constant(1.0))
            value = steps.node("Mul", value, steps.constant(0.5))
        shape = [side if side is not None else -1 for side in port.shape[1:]]
        if shape.count(-1) == 1 and len(shape) == 1:
            shape = [plan.rows[name][0] or 1] if plan.rows[name] else [1]
        if not port.shape:
            shape = []
        elif name in (CLASS_INDEX, "truncation"):
            shape = [1] * (len(port.shape) - 1)
        value = steps.cast(steps.shaped(value, [rows, *shape] if port.shape else []), port.type)
    steps.node("Identity", value, gives=_THEIRS + port.name)


def _picture(steps: _Steps, plan: Plan, port: Port, value: str) -> str:
    if port.type != TensorProto.UINT8:
        low, high = plan.goes_in
        value = steps.cast(value, TensorProto.FLOAT)
        value = steps.node("Mul", value, steps.constant((high - low) / 255))
        value = steps.node("Add", value, steps.constant(low))
        value = steps.cast(value, port.type)
    if len(port.shape) == 3:
        return steps.axis("Squeeze", value, 3)
    return steps.node("Transpose", value, perm=[0, 3, 1, 2]) if plan.in_first else value


def _mask(steps: _Steps, plan: Plan, port: Port, value: str) -> str:
    """1 where it is to be filled."""
    level = steps.cast(value, TensorProto.FLOAT)
    value = steps.cast(steps.node("Greater", level, steps.constant(127.0)), port.type)
    if len(port.shape) == 3:
        return value
    return steps.axis("Unsqueeze", value, 1 if plan.in_first else 3)


def _after(steps: _Steps, plan: Plan, gives: str, *, looped: bool) -> None:
    """Add the steps from the graph's pictures to ``pixels``."""
    port = plan.ports[PIXELS]
    value = _THEIRS + port.name
    if plan.unflattened is not None:
        value = steps.shaped(value, [-1, *plan.unflattened])
    if port.type != TensorProto.UINT8:
        low, high = plan.comes_out
        value = steps.cast(value, TensorProto.FLOAT)
        value = steps.node("Sub", value, steps.constant(low))
        value = steps.node("Mul", value, steps.constant(255 / (high - low)))
        # Cut before it is rounded, since what rounds halves to even is younger than some graphs.
        value = steps.node("Max", value, steps.constant(0.0))
        value = steps.node("Min", value, steps.constant(255.0))
        value = steps.node("Floor", steps.node("Add", value, steps.constant(0.5)))
        value = steps.cast(value, TensorProto.UINT8)
    if len(port.shape) == 3:
        value = steps.axis("Unsqueeze", value, 3)
    elif plan.out_first:
        value = steps.node("Transpose", value, perm=[0, 2, 3, 1])
    if looped:
        steps.axis("Squeeze", value, 0, gives=gives)
    else:
        steps.node("Identity", value, gives=gives)


def _rename(steps: _Steps, prefix: str) -> None:
    """Keep the names of two series of steps apart."""
    own = {weight.name for weight in steps.weights}
    own |= {name for node in steps.nodes for name in node.output if name.startswith("step/")}
    for weight in steps.weights:
        weight.name = prefix + weight.name
    for node in steps.nodes:
        node.input[:] = [prefix + name if name in own else name for name in node.input]
        node.output[:] = [prefix + name if name in own else name for name in node.output]


def _free_batch(graph: GraphProto, batch: int) -> None:
    """Let sizes that begin with a fixed batch be those of any batch.

    A constant size of `Reshape` says 0 for what is as it was, and -1 for what is left over.
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
        # Else 0 would be a side without pixels.
        kept = [each for each in node.attribute if each.name != "allowzero"]
        del node.attribute[:]
        node.attribute.extend(kept)
        name = f"{node.input[1]}/any_batch/{node.output[0]}"
        graph.initializer.append(from_array(shape, name))
        node.input[1] = name


def _constant(
    name: str, weights: Mapping[str, TensorProto], constants: Mapping[str, NodeProto]
) -> np.ndarray[Any, np.dtype[np.int64]] | None:
    held = weights.get(name)
    if held is None and name in constants:
        for attribute in constants[name].attribute:
            if attribute.type == AttributeProto.TENSOR:
                held = attribute.t
            elif attribute.type == AttributeProto.INTS:
                return np.asarray(attribute.ints, np.int64)
    return None if held is None else to_array(held).astype(np.int64).copy()
