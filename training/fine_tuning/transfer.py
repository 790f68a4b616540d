"""Copies the weights that fit into new networks, by name and shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

# Counters of batch normalization, and estimates of spectral normalization, are not weights.
_NOT_WEIGHTS = ("num_batches_tracked", "._u", "._v")


class ClassNames(NamedTuple):
    """The classes of the source and of the new networks, in the order of their embeddings."""

    source: Sequence[str]
    target: Sequence[str]


@runtime_checkable
class _AddsToImage(Protocol):
    """An output layer of a resolution; its output is added to the enlarged image of the others."""

    def start_at_zero(self) -> None: ...


@dataclass(frozen=True)
class Transfer:
    """What was copied into one network; all lists are names of tensors.

    `new` keep their first values, and `unused` are in the source alone. A tensor of another shape
    is in both lists, with the shapes.
    """

    network: str
    taken: tuple[str, ...]
    new: tuple[str, ...]
    unused: tuple[str, ...]
    # The fraction of the network's values that were copied.
    share: float
    # Classes whose rows were copied, and classes that start from the mean of the source's rows.
    kept_classes: tuple[str, ...] = ()
    new_classes: tuple[str, ...] = ()
    # Output layers that start at zero, because only other resolutions are in the source.
    zero: tuple[str, ...] = ()


@torch.no_grad()
def transfer(
    name: str, source: Mapping[str, Tensor], target: nn.Module, classes: ClassNames
) -> Transfer:
    """Copy tensors of `source` with the same name and shape into `target`, in place.

    The rows of class embeddings are matched by class name instead; the rows of new classes are the
    mean of the source's rows. The output layers of resolutions that the source does not have start
    at zero, so that the first images are those of the source, enlarged.
    """
    tables = _class_tables(target)
    state, shapes = target.state_dict(), dict[str, str]()
    taken, new, unused = [], [], [key for key in source if key not in state]
    kept_classes: list[str] = []
    new_classes: list[str] = []
    copied = total = 0
    for key, tensor in state.items():
        given = source.get(key)
        if _is_weight(key):
            total += tensor.numel()
        if given is None:
            new.append(key)
            continue
        rows = _class_rows(given, tensor, classes) if key in tables else None
        if rows is not None:
            tensor.copy_(rows)
            kept_classes = [each for each in classes.target if each in classes.source]
            new_classes = [each for each in classes.target if each not in classes.source]
        elif given.shape == tensor.shape:
            tensor.copy_(given)
        else:
            for listed in (new, unused):
                listed.append(key)
            shapes[key] = f"{_shape(given)} in the source, {_shape(tensor)} here"
            continue
        taken.append(key)
        if _is_weight(key):
            copied += tensor.numel()
    return Transfer(
        name,
        tuple(taken),
        _listed(new, shapes),
        _listed(unused, shapes),
        copied / max(total, 1),
        tuple(kept_classes),
        tuple(new_classes),
        _start_at_zero(target, set(taken)),
    )


def _start_at_zero(network: nn.Module, taken: set[str]) -> tuple[str, ...]:
    """Set output layers that the source does not have to zero, if it has others; return them."""
    layers = {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Module) and isinstance(layer, _AddsToImage)
    }
    new = [
        name
        for name, layer in layers.items()
        if not taken.issuperset(f"{name}.{key}" for key, _ in layer.named_parameters())
    ]
    if len(new) == len(layers):
        return ()
    for name in new:
        layers[name].start_at_zero()
    return tuple(new)


def _class_tables(network: nn.Module) -> set[str]:
    """Return the names of the class embeddings of a network."""
    return {
        f"{name}.parametrizations.weight.original"
        if parametrize.is_parametrized(module, "weight")
        else f"{name}.weight"
        for name, module in network.named_modules()
        if isinstance(module, nn.Embedding)
    }


def _class_rows(given: Tensor, tensor: Tensor, classes: ClassNames) -> Tensor | None:
    """Return the rows ``[classes, D]`` of the target's classes, or None if they do not fit."""
    if (
        given.shape[1:] != tensor.shape[1:]
        or len(classes.source) != len(given)
        or len(classes.target) != len(tensor)
    ):
        return None
    mean = given.mean(0)
    index = {name: i for i, name in enumerate(classes.source)}
    return torch.stack([given[index[n]] if n in index else mean for n in classes.target])


def _listed(names: Sequence[str], shapes: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of weights, with both shapes where they differ."""
    weights = [name for name in names if _is_weight(name)]
    return tuple(f"{name} ({shapes[name]})" if name in shapes else name for name in weights)


def _is_weight(name: str) -> bool:
    return not name.endswith(_NOT_WEIGHTS)


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "scalar"
