"""The registry of operators: one function per ONNX operator, in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

# Domains whose operators are registered by their name alone.
_DOMAINS = ("", "ai.onnx", "com.microsoft")


@dataclass(frozen=True)
class Node:
    """A node of an ONNX graph, without its inputs.

    Attributes are numbers, strings, lists, tensors, or subgraphs.
    """

    operator: str
    name: str
    attributes: Mapping[str, Any]
    # The number of outputs that are named, up to the last one.
    outputs: int
    # The version of the operator set that the graph was written for.
    opset: int

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of an attribute, or `default` if the node does not have it."""
        return self.attributes.get(name, default)


# Computes the outputs of a node. A missing optional input is None, or left out at the end.
Operator = Callable[..., Tensor | tuple[Tensor, ...]]

_OPERATORS: dict[str, Operator] = {}


def operator(*names: str) -> Callable[[Operator], Operator]:
    """Register a function under the names of ONNX operators that it computes."""

    def register(function: Operator) -> Operator:
        for name in names:
            if name in _OPERATORS:
                raise ValueError(f"the operator {name} is registered twice")
            _OPERATORS[name] = function
        return function

    return register


def find_operator(domain: str, name: str) -> Operator | None:
    """Return the function of an operator, or None if it is not registered."""
    return _OPERATORS.get(name) if domain in _DOMAINS else None


def operator_names() -> tuple[str, ...]:
    """Return the names of all registered operators, sorted."""
    return tuple(sorted(_OPERATORS))


def integers(value: Tensor | None) -> list[int] | None:
    """Return the values of a one-dimensional integer input, such as a shape or axes."""
    return None if value is None else [int(each) for each in value.reshape(-1).tolist()]


def axes_of(node: Node, axes: Tensor | None) -> list[int] | None:
    """Return the axes of a node: an attribute in early operator sets, an input in later ones."""
    if axes is not None:
        return integers(axes)
    given = node.get("axes")
    return None if given is None else list(given)
