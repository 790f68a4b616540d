"""What is in a checkpoint: networks, each a mapping of names to tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from training.importers.errors import FormatMismatchError, ModelImportError

_DEEPEST = 4
# A dictionary may be in a file once and be named a thousand times, and so on within it: what is
# walked through is bounded, and not only what is read.
_MOST_ENTRIES = 200_000
_MOST_NETWORKS = 64
_LONGEST_NAME = 500
_MOST_WRAPPERS = 8
# Parts of a training's state that hold tensors and are no network.
_NO_NETWORKS = re.compile(r"optim|sched|scaler|rng|ada_aug|^state$|param_groups|callbacks|loops")
# Averaged weights are those that make the better pictures, and what every author samples with.
_AVERAGED = re.compile(r"(^|[._])(g_)?(ema|average[d]?)([._]|$)|_ema$|shadow", re.IGNORECASE)


@dataclass(frozen=True)
class Network:
    """One network of a file: where it lay, its tensors in their order, and what is said beside."""

    name: str
    tensors: Mapping[str, Tensor]
    # Arguments that its author built it with, where the file or a side-car file says them; and
    # `beside`, the short tensors that lie next to it.
    config: Mapping[str, Any] = field(default_factory=dict)
    # The name of its class, where the file says it.
    kind: str | None = None

    @property
    def parameters(self) -> int:
        """How many numbers there are."""
        return sum(tensor.numel() for tensor in self.tensors.values())

    @property
    def averaged(self) -> bool:
        """Whether these are the averaged weights of a training."""
        return bool(_AVERAGED.search(self.name))

    def within(self, prefix: str) -> Network:
        """Return what lies under a prefix, without it."""
        inside = {
            name.removeprefix(f"{prefix}."): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(f"{prefix}.")
        }
        return Network(f"{self.name}.{prefix}".lstrip("."), inside, self.config, self.kind)

    def peeled(self) -> Iterator[Network]:
        """Yield this network, and it without each of the prefixes that all of its names share.

        DataParallel calls what it wraps ``module``, `torch.compile` ``_orig_mod``, and others as
        they like.
        """
        network = self
        for _ in range(_MOST_WRAPPERS):
            yield network
            first = {name.partition(".")[0] for name in network.tensors}
            if len(first) != 1 or not all("." in name for name in network.tensors):
                return
            inner = network.within(first.pop())
            network = Network(self.name, inner.tensors, self.config, self.kind)

    def parts(self) -> list[Network]:
        """Return the networks that lie side by side in one, as in the state of a whole training."""
        names = dict.fromkeys(name.partition(".")[0] for name in self.tensors if "." in name)
        return [self.within(name) for name in names] if len(names) > 1 else []


def networks(tree: Any) -> list[Network]:
    """Return the networks in what a file holds: dictionaries that name tensors, however deep.

    Raises ModelImportError for tensors that are no plain numbers, and for what has no end.
    """
    found = _networks(tree, "", 0, iter(range(_MOST_ENTRIES)))
    if len(found) > _MOST_NETWORKS:
        raise ModelImportError(f"{len(found):,} networks are in it, more than a training has")
    return found


def _networks(tree: Any, name: str, depth: int, left: Iterator[int]) -> list[Network]:
    if isinstance(tree, Network):
        for key, value in tree.tensors.items():
            _check(key, value)
        return [Network(name or tree.name, tree.tensors, tree.config, tree.kind)]
    if not isinstance(tree, Mapping) or depth > _DEEPEST:
        return []
    tensors = {}
    for key, value in tree.items():
        if next(left, None) is None:
            raise ModelImportError("it names one thing within another without end")
        if isinstance(key, str) and isinstance(value, Tensor):
            _check(key, value)
            tensors[key] = value
    found = []
    config = {
        key: value
        for key, value in tree.items()
        if isinstance(key, str) and isinstance(value, (bool, int, float, str, list, tuple))
    }
    if any("." in key for key in tensors) or len(tensors) > 3:
        found.append(Network(name, tensors, config))
    beside = {key: value for key, value in tensors.items() if value.ndim <= 1}
    for key, value in tree.items():
        if isinstance(key, str) and not _NO_NETWORKS.search(key.lower()):
            inner = _networks(value, f"{name}.{key[:_LONGEST_NAME]}".lstrip("."), depth + 1, left)
            found += [replace(n, config={"beside": beside} | dict(n.config)) for n in inner]
    return found


def _check(name: str, tensor: Tensor) -> None:
    """Raise ModelImportError unless a tensor holds as many numbers as it says."""
    if len(name) > _LONGEST_NAME:
        raise ModelImportError(f"a tensor's name is {len(name):,} letters long: {name[:40]}…")
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise ModelImportError(f"{name} is no plain tensor; save it dense, unquantised, on the CPU")
    # One number that is named a billion times is small in the file alone.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ModelImportError(f"{name} says {tensor.numel():,} values, and fewer are in the file")


@dataclass(frozen=True)
class Layer:
    """A module with weights of its own: its path, and its tensors by name."""

    path: str
    tensors: Mapping[str, Tensor]

    @property
    def weight(self) -> Tensor:
        """The weight."""
        return self.tensors["weight"]

    @property
    def bias(self) -> Tensor | None:
        """The bias, where there is one."""
        return self.tensors.get("bias")

    @property
    def kind(self) -> str:
        """convolution, linear, norm, instance statistics, slope, or other."""
        weight = self.tensors.get("weight")
        if weight is None:
            return "statistics" if "running_mean" in self.tensors else "other"
        if weight.ndim == 4:
            return "convolution"
        if weight.ndim == 2:
            return "linear"
        if weight.ndim == 1:
            return "norm" if {"bias", "running_mean"} & set(self.tensors) else "slope"
        return "other"


def layers(network: Network) -> list[Layer]:
    """Return the modules of a network in the order in which the file names them."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in network.tensors.items():
        path, _, attribute = name.rpartition(".")
        found.setdefault(path, {})[attribute] = tensor
    return [Layer(path, tensors) for path, tensors in found.items()]


def known_layers(network: Network) -> list[Layer]:
    """Return the modules of a network of plain layers. Raises FormatMismatchError for any other.

    A filter of its own, an attention's weight or a spectral norm's vectors are part of what a
    network computes: left out, it would make other pictures, and nobody would be told.
    """
    found = layers(network)
    for layer in found:
        if layer.kind == "other":
            name = f"{layer.path}.{next(iter(layer.tensors))}".lstrip(".")
            raise FormatMismatchError(f"{name} is of no layer that the format has")
    return found


def natural(name: str) -> list[tuple[int, int | str]]:
    """A key that sorts layer 10 after layer 9."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]
