"""Folds normalized weights: replaces the tensors that a weight is computed from by the weight.

- Spectral normalization: the file contains a weight and an estimate of its singular vectors. The
  network computes the largest singular value from them, and divides the weight by it (Miyato et al.
  2018, arXiv:1802.05957, algorithm 1).
- Weight normalization: the file contains a direction and a length (Salimans and Kingma 2016,
  arXiv:1602.07868, equation 2).

- Pruning: the file contains a weight and a mask.

They are computed once, at import, in the layouts of PyTorch (hooks and parametrizations) and of
BigGAN-PyTorch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from training.importers.reading.tensor_table import TensorTable

_EPS = 1e-12
# A weight, the names of the tensors that it was computed from, and its value.
_Folded = tuple[str, tuple[str, ...], Tensor]
_PARAMETRIZED = re.compile(r"(?:(.+)\.)?parametrizations\.(\w+)\.(?:original[01]?|\d+\..+)")


def fold_weight_norms(tensors: TensorTable) -> TensorTable:
    """Return the tensors with each normalized weight as one tensor.

    An incomplete or unknown normalization is left as it is, so that no format matches it.
    """
    folded = {sources[0]: (name, sources, weight) for name, sources, weight in _folded(tensors)}
    if not folded:
        return tensors
    consumed = {source: first for first, (_, sources, _) in folded.items() for source in sources}
    replaced = {name for name, _, _ in folded.values()}

    def entries() -> Iterator[_Folded]:
        for name in tensors:
            if name in folded:
                yield folded[name]
            elif name not in consumed and name not in replaced:
                tensor = tensors.peek(name)
                assert tensor is not None  # noqa: S101 - for the type checker
                yield name, (name,), tensor

    return tensors.derive(entries())


def _folded(tensors: TensorTable) -> Iterator[_Folded]:
    """Yield each normalized weight. The first of its sources takes its place in the order."""
    for name in tensors:
        path, _, attribute = name.rpartition(".")
        prefix = f"{path}." if path else ""
        if attribute.endswith("_orig"):
            weight = attribute.removesuffix("_orig")
            yield from _spectral(tensors, prefix + weight, name, f"{prefix}{weight}_")
            yield from _pruned(tensors, prefix + weight, name)
        elif attribute.endswith("_v") and f"{prefix}{attribute[:-2]}_g" in tensors:
            weight = prefix + attribute[:-2]
            yield from _weight_norm(tensors, weight, f"{weight}_g", name)
        elif attribute == "weight" and f"{prefix}u0" in tensors:
            estimates = [each for each in (f"{prefix}u0", f"{prefix}sv0") if each in tensors]
            value, u = tensors.peek(name), tensors.peek(estimates[0])
            if value is not None and u is not None and u.shape == (1, len(value)):
                yield name, (name, *estimates), _divide_after_iteration(value, u)
        elif found := _PARAMETRIZED.fullmatch(name):
            layer, weight = found.group(1), found.group(2)
            inner = f"{layer}." * bool(layer) + f"parametrizations.{weight}"
            target = f"{layer}." * bool(layer) + weight
            if name == f"{inner}.original":
                yield from _spectral(tensors, target, name, f"{inner}.0._", f"{inner}.1.")
            elif name == f"{inner}.original1":
                yield from _weight_norm(tensors, target, f"{inner}.original0", name)


def _spectral(
    tensors: TensorTable, target: str, weight: str, estimate: str, excluded: str | None = None
) -> Iterator[_Folded]:
    """Yield a weight divided by its singular value, from the tensors ``{estimate}u`` and ``v``.

    With a tensor under the prefix `excluded`, the weight has a second normalization, and is not
    folded.
    """
    value, u, v = (tensors.peek(name) for name in (weight, f"{estimate}u", f"{estimate}v"))
    if value is None or u is None or (excluded and any(n.startswith(excluded) for n in tensors)):
        return
    axis = _output_axis(value, u, v)
    if axis is None:
        return
    sources = [weight, f"{estimate}u", *([f"{estimate}v"] if v is not None else [])]
    # PyTorch's hook also stores the result in files of some versions.
    sources += [target] if target in tensors else []
    yield target, tuple(sources), _divide_by_estimate(value, u, v, axis)


def _weight_norm(
    tensors: TensorTable, target: str, length: str, direction: str
) -> Iterator[_Folded]:
    """Yield a weight with the direction and the length of two tensors."""
    g, v = tensors.peek(length), tensors.peek(direction)
    if g is None or v is None:
        return
    dims = [axis for axis in range(v.ndim) if g.ndim and g.shape[axis : axis + 1] == (1,)]
    if g.ndim not in (0, v.ndim) or (g.ndim and v.ndim - len(dims) > 1):
        return
    norm = torch.linalg.vector_norm(v.float(), dim=dims if g.ndim else None, keepdim=g.ndim > 0)
    if g.ndim and norm.shape != g.shape:
        return
    yield target, (direction, length), v.float() * (g.float() / norm)


def _pruned(tensors: TensorTable, target: str, weight: str) -> Iterator[_Folded]:
    """Yield a weight that was pruned with PyTorch's hook, which stores a mask."""
    value, mask = tensors.peek(weight), tensors.peek(f"{target}_mask")
    if value is not None and mask is not None and mask.shape == value.shape:
        yield target, (weight, f"{target}_mask"), value.float() * mask.float()


def _output_axis(weight: Tensor, u: Tensor, v: Tensor | None) -> int | None:
    """Return the axis of the outputs, which `u` belongs to: 1 in transposed convolutions.

    If a weight has as many inputs as outputs, the axis is the one for which ``u`` is the left
    singular vector that belongs to ``v``. None if the vectors do not fit the weight.
    """
    axes = [
        axis
        for axis in range(min(weight.ndim, 2))
        if u.shape == (weight.shape[axis],)
        and (v is None or v.shape == (weight.numel() // max(weight.shape[axis], 1),))
    ]
    if len(axes) < 2 or v is None:
        return axes[0] if axes else None

    def distance(axis: int) -> float:
        product = _matrix(weight, axis) @ v.float()
        return float((F.normalize(product, dim=0, eps=_EPS) - u.float()).norm())

    return min(axes, key=distance)


def _matrix(weight: Tensor, axis: int) -> Tensor:
    return weight.float().movedim(axis, 0).flatten(1)


def _divide_by_estimate(weight: Tensor, u: Tensor, v: Tensor | None, axis: int) -> Tensor:
    """Return the weight divided by ``u W v``, as in PyTorch's eval mode, without an iteration."""
    weight = weight.float()
    matrix = _matrix(weight, axis)
    u = u.float()
    # Files from PyTorch versions before 1.1 have no v.
    v = F.normalize(matrix.t() @ u, dim=0, eps=_EPS) if v is None else v.float()
    return weight / torch.dot(u, matrix @ v)


def _divide_after_iteration(weight: Tensor, u: Tensor) -> Tensor:
    """Return the weight divided by its singular value, after one power iteration from ``u``.

    ``u`` is [1, outputs]. BigGAN-PyTorch iterates in eval mode too, without storing the result.
    """
    weight = weight.float()
    matrix = weight.flatten(1)
    v = F.normalize(u.float() @ matrix, eps=_EPS)
    divided: Tensor = weight / (v @ matrix.t()).norm()
    return divided
