"""Runs an ONNX graph in PyTorch, with gradients with respect to its inputs.

The weights are constants. Whatever depends on no input is computed once, when the graph is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto
from onnx.inliner import inline_local_functions
from onnx.numpy_helper import to_array
from torch import Tensor, nn

from service.runtime.errors import UserError, first_line
from training.latent.differentiable import (  # noqa: F401 - imported to register the operators
    convolutions,
    elementwise,
    reductions,
    resizing,
    shapes,
)
from training.latent.differentiable.elementwise import torch_dtype
from training.latent.differentiable.registry import Node, Operator, find_operator
from training.latent.differentiable.rounding import without_rounding

# Operators with subgraphs, and those whose result differs between runs.
_CONTROL = ("If", "Scan")
_RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform")


class GraphNotDifferentiable(UserError):
    """An ONNX graph cannot be run in PyTorch. The message names the file and the operator."""


def differentiable_graph(path: Path, *, rounded: bool = False) -> DifferentiableGraph:
    """Return the graph in an ONNX file as a module.

    The module takes tensors by the names of the graph's inputs and returns a dictionary of its
    outputs. By default, an output ``pixels`` is the image before it is rounded and clipped to
    uint8: float32 ``[N, H, W, C]`` in levels of 255, which has gradients and may exceed the range.
    With `rounded`, it is uint8 as in ONNX Runtime.

    Raises GraphNotDifferentiable for a file that is not an ONNX graph, and for an operator that is
    not supported.
    """
    try:
        model = onnx.load(path)
    except Exception as error:
        raise GraphNotDifferentiable(
            f"{path} cannot be read as an ONNX graph: {first_line(error)}"
        ) from error
    if model.functions:
        model = inline_local_functions(model)
    if not rounded:
        model = without_rounding(model)
    return DifferentiableGraph(model, str(path))


class DifferentiableGraph(nn.Module):
    """An ONNX graph as a module. Its weights are buffers without gradients."""

    def __init__(self, model: ModelProto, title: str) -> None:
        """Prepare the nodes and compute the constants; `title` names the graph in errors.

        Raises GraphNotDifferentiable.
        """
        super().__init__()
        opset = max(
            (each.version for each in model.opset_import if each.domain in ("", "ai.onnx")),
            default=1,
        )
        self._program = _Program(model.graph, opset, title)
        weights = {each.name for each in model.graph.initializer}
        self.inputs = tuple(each.name for each in model.graph.input if each.name not in weights)
        self.outputs = tuple(each.name for each in model.graph.output)
        # Buffers move to another device with the module.
        self._names = list(self._program.constants)
        for i, name in enumerate(self._names):
            self.register_buffer(f"constant_{i}", self._program.constants[name])

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Return the outputs by name. Raises ValueError unless all inputs are given."""
        if set(inputs) != set(self.inputs):
            raise ValueError(
                f"expected the inputs {', '.join(self.inputs)}, got {', '.join(inputs)}"
            )
        constants = {name: getattr(self, f"constant_{i}") for i, name in enumerate(self._names)}
        values = self._program.run(constants, inputs)
        return {name: values[name] for name in self.outputs}


@dataclass(frozen=True)
class _Step:
    """One node: the function that computes it, and the names of its inputs and outputs."""

    node: Node
    function: Operator | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    # Values that no later step uses.
    released: tuple[str, ...] = ()


class _Program:
    """The steps of a graph or subgraph, in order, and its constants."""

    def __init__(self, graph: GraphProto, opset: int, title: str) -> None:
        self.title = title
        self.inputs = tuple(each.name for each in graph.input)
        self.outputs = tuple(each.name for each in graph.output)
        self.constants = {each.name: _tensor(each) for each in graph.initializer}
        if graph.sparse_initializer:
            raise GraphNotDifferentiable(f"{title}: sparse weights are not supported")
        steps = [self._step(node, opset) for node in graph.node]
        used_outside = _captured(steps, set(self.inputs) | set(self.constants))
        self.captured = used_outside
        self._steps = self._folded(steps)

    def run(self, constants: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> _Values:
        """Run all steps. `constants` are those of this program, and values of outer graphs."""
        values: _Values = {**constants, **inputs}
        for step in self._steps:
            self._run(step, values)
            for name in step.released:
                values.pop(name, None)
        return values

    def _run(self, step: _Step, values: _Values) -> None:
        operands = [values[name] if name else None for name in step.inputs]
        try:
            if step.function is None:
                results = _control(step.node, operands, values)
            else:
                output = step.function(step.node, *operands)
                results = output if isinstance(output, tuple) else (output,)
        except GraphNotDifferentiable:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise GraphNotDifferentiable(
                f"{self.title}: {_title(step.node)} cannot be computed: {first_line(error)}"
            ) from error
        if len(results) < step.node.outputs:
            raise GraphNotDifferentiable(
                f"{self.title}: only the first {len(results)} outputs of {_title(step.node)} are "
                "supported"
            )
        for name, result in zip(step.outputs, results, strict=False):
            if name:
                values[name] = result

    def _step(self, proto: NodeProto, opset: int) -> _Step:
        function = find_operator(proto.domain, proto.op_type)
        if function is None and (proto.op_type not in _CONTROL or proto.domain):
            domain = f"{proto.domain}." if proto.domain else ""
            reason = (
                "its result differs between runs"
                if proto.op_type in _RANDOM
                else "it is not implemented with gradients"
            )
            raise GraphNotDifferentiable(
                f"{self.title}: the operator {domain}{proto.op_type} is not supported: {reason}"
            )
        attributes = {each.name: _attribute(each, opset, self.title) for each in proto.attribute}
        outputs = tuple(proto.output)
        named = max((i + 1 for i, name in enumerate(outputs) if name), default=0)
        node = Node(proto.op_type, proto.name, attributes, named, opset)
        return _Step(node, function, tuple(proto.input), outputs)

    def _folded(self, steps: Sequence[_Step]) -> list[_Step]:
        """Compute the steps that depend on constants only; return the others."""
        kept = []
        with torch.no_grad():
            for step in steps:
                needed = _needs(step)
                if all(name in self.constants for name in needed):
                    self._run(step, self.constants)
                else:
                    kept.append(step)
        used = {name for step in kept for name in _needs(step)} | set(self.outputs)
        self.constants = {name: value for name, value in self.constants.items() if name in used}
        return self._with_releases(kept)

    def _with_releases(self, steps: Sequence[_Step]) -> list[_Step]:
        """Note after which step each value can be released."""
        seen = set(self.outputs) | set(self.constants)
        result = []
        for step in reversed(steps):
            last = tuple({name for name in _needs(step) if name not in seen})
            seen.update(last)
            result.append(_Step(step.node, step.function, step.inputs, step.outputs, last))
        return result[::-1]


_Values = dict[str, Tensor]


def _needs(step: _Step) -> set[str]:
    """Return the values that a step uses, including those that its subgraphs capture."""
    names = {name for name in step.inputs if name}
    for value in step.node.attributes.values():
        if isinstance(value, _Program):
            names |= value.captured
    return names


def _captured(steps: Sequence[_Step], own: set[str]) -> set[str]:
    """Return the values of outer graphs that the steps use."""
    defined, outer = set(own), set()
    for step in steps:
        outer |= _needs(step) - defined
        defined.update(step.outputs)
    return outer


def _control(node: Node, operands: Sequence[Tensor | None], values: _Values) -> tuple[Tensor, ...]:
    """Run the subgraphs of an `If` or a `Scan`."""
    if node.operator == "If":
        (condition,) = operands
        assert condition is not None  # noqa: S101 - the condition is required
        branch: _Program = node.get("then_branch" if bool(condition.item()) else "else_branch")
        results = branch.run({**values, **branch.constants}, {})
        return tuple(results[name] for name in branch.outputs)
    return _scan(node, [each for each in operands if each is not None], values)


def _scan(node: Node, operands: Sequence[Tensor], values: _Values) -> tuple[Tensor, ...]:
    """Run the body once for each entry of the scanned inputs, forward and along the first axis."""
    directions = (*node.get("scan_input_directions", ()), *node.get("scan_output_directions", ()))
    axes = (*node.get("scan_input_axes", ()), *node.get("scan_output_axes", ()))
    if any(directions) or any(axes):
        raise ValueError("only scans along the first axis in the forward direction are supported")
    body: _Program = node.get("body")
    states = list(operands[: len(operands) - node.get("num_scan_inputs")])
    scanned = operands[len(states) :]
    collected: list[list[Tensor]] = [[] for _ in body.outputs[len(states) :]]
    outer = {**values, **body.constants}
    for rows in zip(*scanned, strict=True):
        results = body.run(outer, dict(zip(body.inputs, [*states, *rows], strict=True)))
        outputs = [results[name] for name in body.outputs]
        states = outputs[: len(states)]
        for part, output in zip(collected, outputs[len(states) :], strict=True):
            part.append(output)
    return (*states, *(torch.stack(part) for part in collected))


def _attribute(attribute: AttributeProto, opset: int, title: str) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, TensorProto):
        return _tensor(value)
    if isinstance(value, GraphProto):
        return _Program(value, opset, title)
    return list(value) if attribute.type in _LISTS else value


_LISTS = (AttributeProto.INTS, AttributeProto.FLOATS)


def _tensor(proto: TensorProto) -> Tensor:
    if proto.data_type == TensorProto.STRING:
        raise GraphNotDifferentiable(f"the weight {proto.name} contains text")
    # The array may be a view of the file, which must not be written to.
    array = to_array(proto).copy()
    if proto.data_type == TensorProto.BFLOAT16:
        return torch.from_numpy(array.astype("float32")).to(torch.bfloat16)
    return torch.from_numpy(array).to(torch_dtype(proto.data_type))


def _title(node: Node) -> str:
    return f"the operator {node.operator}" + (f" ({node.name})" if node.name else "")
