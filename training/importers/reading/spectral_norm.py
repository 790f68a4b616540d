"""Folds spectral normalization: replaces two or three tensors of a layer by one weight.

The checkpoint contains a weight and an estimate of its singular vectors. The original network
computes the largest singular value from them, and divides the weight by it (Miyato et al. 2018,
arXiv:1802.05957, algorithm 1). Here the weight is divided once, at import.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

_EPS = 1e-12


def fold_spectral_norm(
    tensors: Mapping[str, Tensor], transposed: str | None = None
) -> dict[str, Tensor]:
    """Return the tensors in float32, each normalized weight as one tensor ``….weight``.

    Supports both layouts of PyTorch (``weight_orig``, ``weight_u``, ``weight_v``, and
    ``parametrizations.weight``), and the layout of BigGAN-PyTorch (``weight``, ``u0``, ``sv0``).
    Layers whose path matches `transposed` are transposed convolutions: axis 1 is their outputs.
    """
    folded: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        path, _, attribute = name.rpartition(".")
        if attribute in ("weight_u", "weight_v") or re.fullmatch(r"u\d+|sv\d+", attribute):
            continue
        if attribute == "weight" and f"{path}.weight_orig" in tensors:
            continue
        axis = 1 if transposed and re.search(transposed, path) else 0
        if attribute == "weight_orig":
            folded[f"{path}.weight"] = _divide_by_estimate(
                tensor, tensors[f"{path}.weight_u"], tensors.get(f"{path}.weight_v"), axis
            )
        elif attribute == "weight" and f"{path}.u0" in tensors:
            folded[name] = _divide_after_iteration(tensor, tensors[f"{path}.u0"])
        elif ".parametrizations.weight" in name:
            layer = name.partition(".parametrizations.weight")[0]
            if attribute == "original":
                inner = f"{layer}.parametrizations.weight.0"
                axis = 1 if transposed and re.search(transposed, layer) else 0
                folded[f"{layer}.weight"] = _divide_by_estimate(
                    tensor, tensors[f"{inner}._u"], tensors.get(f"{inner}._v"), axis
                )
        else:
            folded[name] = tensor.float() if tensor.is_floating_point() else tensor
    return folded


def _divide_by_estimate(weight: Tensor, u: Tensor, v: Tensor | None, axis: int) -> Tensor:
    """Return the weight divided by ``u W v``, as in PyTorch's eval mode, without an iteration."""
    weight = weight.float()
    matrix = weight.movedim(axis, 0).flatten(1)
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
