"""The layers of a network in the order in which they run, with the shapes of their outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Layer:
    """A layer: its name and class, the shape of its output without N, and its parameters."""

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int


@dataclass
class LayerTable:
    """The layers of one network that have run at least once."""

    parameters: int
    layers: list[Layer] = field(default_factory=list)

    @property
    def unlisted_parameters(self) -> int:
        """Parameters of modules that did not run as a module of their own, or not at all."""
        return self.parameters - sum(layer.parameters for layer in self.layers)


@contextmanager
def recorded_layers(networks: Mapping[str, nn.Module]) -> Iterator[dict[str, LayerTable]]:
    """Record the layers of `networks` that run in the block, each at its first call.

    Listed are modules with parameters of their own, and those that change the shape.
    """
    tables, hooks = {}, []
    for player, network in networks.items():
        table = LayerTable(sum(weight.numel() for weight in network.parameters()))
        tables[player] = table
        for name, module in network.named_modules():
            # Their outputs are weights.
            if "parametrizations" not in name.split("."):
                hooks.append(module.register_forward_hook(_recorder(table, name, set())))
    try:
        yield tables
    finally:
        for hook in hooks:
            hook.remove()


def _recorder(table: LayerTable, name: str, seen: set[str]) -> Any:
    def record(module: nn.Module, _: Any, output: Any) -> None:
        tensor = _first_tensor(output)
        if name in seen or tensor is None:
            return
        seen.add(name)
        parameters = sum(
            weight.numel()
            for key, weight in module.named_parameters()
            if "." not in key or key.startswith("parametrizations.")
        )
        shape = tuple(tensor.shape[1:])
        if parameters or not table.layers or table.layers[-1].shape != shape:
            kind = getattr(module, "parametrizations", None) and type(module).__bases__[0]
            title = (kind or type(module)).__name__
            table.layers.append(Layer(name or "(output)", title, shape, parameters))

    return record


def _first_tensor(output: Any) -> Tensor | None:
    """Return the tensor of an output, or the first one of several."""
    if isinstance(output, Tensor):
        return output
    values = output.values() if isinstance(output, dict) else output
    if isinstance(output, (tuple, list, dict)):
        return next(
            (tensor for each in values if (tensor := _first_tensor(each)) is not None), None
        )
    return None
