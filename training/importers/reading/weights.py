"""The networks of a checkpoint, each a mapping of names to tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from training.importers.errors import ModelImportError
from training.importers.reading.tensor_table import TensorTable, is_counter
from training.importers.reading.weight_norms import fold_weight_norms

_MAX_DEPTH = 4
# A dictionary can be referenced many times and can contain itself. The number of visited entries is
# therefore limited, not only the size of the file.
_MAX_ENTRIES = 200_000
_MAX_NETWORKS = 64
_MAX_NAME_LENGTH = 500
_MAX_WRAPPERS = 8
# Parts of a training state that contain tensors but are not networks.
NO_NETWORKS = re.compile(r"optim|sched|scaler|rng|ada_aug|^state$|param_groups|callbacks|loops")
# Averaged weights generate better images, and authors sample with them.
_AVERAGED = re.compile(r"(^|[._])(g_)?(ema|average[d]?)([._]|$)|_ema$|shadow", re.IGNORECASE)


@dataclass(frozen=True)
class Network:
    """One network of a file: its path in the file and its tensors, in order."""

    name: str
    tensors: TensorTable
    # Plain values that the file stores with the network, such as constructor arguments. The key
    # `siblings` contains the vectors from the dictionary that contains the network.
    config: Mapping[str, Any] = field(default_factory=dict)
    # The class name of the network, if the file contains it.
    class_name: str | None = None
    # True for PyTorch's `AveragedModel`, which counts the averaged models.
    counts_averages: bool = False

    @classmethod
    def of(
        cls,
        name: str,
        tensors: Mapping[str, Tensor],
        config: Mapping[str, Any] | None = None,
        class_name: str | None = None,
    ) -> Network:
        """Return a network of tensors as they are in a file."""
        return cls(name, TensorTable.of(tensors), config or {}, class_name)

    @property
    def parameters(self) -> int:
        """The number of values in all tensors."""
        return sum(math.prod(shape) for shape in self.tensors.shapes().values())

    @property
    def averaged(self) -> bool:
        """True if the network's name or a counter indicates averaged weights."""
        return self.counts_averages or bool(_AVERAGED.search(self.name))

    def fresh(self) -> Network:
        """Return a copy in which no tensor has been read yet."""
        return replace(self, tensors=self.tensors.fresh())

    def prepared(self) -> Network:
        """Return the network with folded weight norms, and without counters outside of layers."""
        counters = [name for name in self.tensors if "." not in name and is_counter(name)]
        return replace(
            self,
            tensors=fold_weight_norms(self.tensors.without(counters)),
            counts_averages="n_averaged" in counters,
        )

    def within(self, prefix: str) -> Network:
        """Return the tensors under a prefix, without the prefix."""
        name = f"{self.name}.{prefix}".lstrip(".")
        return replace(self, name=name, tensors=self.tensors.within(prefix))

    def unwrapped(self) -> Iterator[Network]:
        """Yield this network, then copies with shared prefixes of all names removed one by one.

        For example, DataParallel adds the prefix ``module``, and `torch.compile` ``_orig_mod``.
        """
        network = self
        for _ in range(_MAX_WRAPPERS):
            yield network
            prefixes = {name.partition(".")[0] for name in network.tensors}
            if len(prefixes) != 1 or not all("." in name for name in network.tensors):
                return
            network = replace(self, tensors=network.tensors.within(prefixes.pop()))

    def parts(self) -> list[Network]:
        """Return one network per first-level prefix, after shared prefixes.

        Empty if there are fewer than two. Tensors outside of all prefixes have a part of their own.
        """
        *_, inner = self.unwrapped()
        prefixes = dict.fromkeys(name.partition(".")[0] for name in inner.tensors)
        if len(prefixes) < 2:
            return []
        return [
            inner.within(prefix)
            if prefix not in inner.tensors
            else replace(
                inner,
                name=f"{inner.name}.{prefix}".lstrip("."),
                tensors=inner.tensors.select({prefix: prefix}),
            )
            for prefix in prefixes
        ]


def find_networks(tree: Any) -> list[Network]:
    """Return the networks in the content of a file: nested dictionaries that contain tensors.

    Raises ModelImportError for tensors that are not dense or not on the CPU, and if the content has
    too many entries or networks.
    """
    networks = _find_networks(tree, "", 0, iter(range(_MAX_ENTRIES)))
    if len(networks) > _MAX_NETWORKS:
        raise ModelImportError(
            f"it contains {len(networks):,} networks; at most {_MAX_NETWORKS} are supported"
        )
    return [network.prepared() for network in networks]


def _find_networks(tree: Any, name: str, depth: int, budget: Iterator[int]) -> list[Network]:
    if isinstance(tree, Network):
        for key in tree.tensors:
            _check(key, tree.tensors.peek(key))
        return [replace(tree, name=name or tree.name)]
    if not isinstance(tree, Mapping) or depth > _MAX_DEPTH:
        return []
    tensors = {}
    for key, value in tree.items():
        if next(budget, None) is None:
            raise ModelImportError(
                f"it has more than {_MAX_ENTRIES:,} entries; entries that contain each other are "
                "not supported"
            )
        if isinstance(key, str) and isinstance(value, Tensor):
            _check(key, value)
            tensors[key] = value
    networks = []
    config = {
        key: value
        for key, value in tree.items()
        if isinstance(key, str) and isinstance(value, (bool, int, float, str, list, tuple))
    }
    matrices = any(tensor.ndim > 1 for tensor in tensors.values())
    if any("." in key for key in tensors) or len(tensors) > 3 or matrices:
        networks.append(Network.of(name, tensors, config))
    siblings = {key: value for key, value in tensors.items() if value.ndim <= 1}
    for key, value in tree.items():
        if isinstance(key, str) and not NO_NETWORKS.search(key.lower()):
            path = f"{name}.{key[:_MAX_NAME_LENGTH]}".lstrip(".")
            inner = _find_networks(value, path, depth + 1, budget)
            networks += [replace(n, config={"siblings": siblings} | dict(n.config)) for n in inner]
    return networks


def _check(name: str, tensor: Tensor | None) -> None:
    """Raise ModelImportError unless a tensor is dense and contains all values that it declares."""
    assert tensor is not None  # noqa: S101 - for the type checker
    if len(name) > _MAX_NAME_LENGTH:
        raise ModelImportError(
            f"the name of a tensor has {len(name):,} characters, at most {_MAX_NAME_LENGTH} are "
            f"supported: {name[:40]}…"
        )
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise ModelImportError(
            f"the tensor {name} is sparse, quantized or not on the CPU; save it as a dense tensor "
            "on the CPU"
        )
    # With a stride of 0, a single stored value can expand to a billion values.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ModelImportError(
            f"the tensor {name} declares {tensor.numel():,} values, but the file contains fewer"
        )


@dataclass(frozen=True)
class Layer:
    """A module that directly contains tensors: its path, and its tensors by name."""

    path: str
    tensors: TensorTable

    @property
    def weight(self) -> Tensor:
        """The weight, for its shape: not recorded as read. Raises KeyError if there is none."""
        weight = self.tensors.peek("weight")
        if weight is None:
            raise KeyError(f"{self.path}.weight")
        return weight

    @property
    def has_bias(self) -> bool:
        """True if there is a bias."""
        return "bias" in self.tensors

    @property
    def kind(self) -> str:
        """convolution, linear, norm, statistics (a norm without weights), slope or other."""
        weight = self.tensors.peek("weight")
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
    """Return the modules of a network that have tensors, in the order of the file."""
    by_path: dict[str, dict[str, str]] = {}
    for name in network.tensors:
        path, _, attribute = name.rpartition(".")
        by_path.setdefault(path, {})[attribute] = name
    return [Layer(path, network.tensors.select(names)) for path, names in by_path.items()]


def known_layers(network: Network) -> list[Layer]:
    """Return the plain layers of a network, in the order of the file.

    Tensors of other modules, such as attention, remain unread, so that the network does not match.
    """
    return [layer for layer in layers(network) if layer.kind != "other"]


def natural_key(name: str) -> list[tuple[int, int | str]]:
    """Return a sort key that puts layer 10 after layer 9."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]
