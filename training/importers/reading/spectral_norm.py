"""Spectral normalisation in a checkpoint: two or three tensors that stand for one weight.

Beside a weight lies the estimate of its largest singular value that its author's network divides
by (Miyato et al. 2018, arXiv:1802.05957, algorithm 1). Divided by it once, here, the weight is what
that network computes with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

_EPS = 1e-12


def folded(tensors: Mapping[str, Tensor], transposed: str | None = None) -> dict[str, Tensor]:
    """Return the tensors in float32, each normalised weight as one tensor ``….weight``.

    Known are PyTorch's two ways of writing it (``weight_orig``, ``weight_u``, ``weight_v``, and
    ``parametrizations.weight``), and that of BigGAN-PyTorch (``weight``, ``u0``, ``sv0``). Layers
    whose path matches `transposed` are transposed convolutions, whose outputs are the second axis.
    """
    made: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        path, _, attribute = name.rpartition(".")
        if attribute in ("weight_u", "weight_v") or re.fullmatch(r"u\d+|sv\d+", attribute):
            continue
        if attribute == "weight" and f"{path}.weight_orig" in tensors:
            continue
        axis = 1 if transposed and re.search(transposed, path) else 0
        if attribute == "weight_orig":
            made[f"{path}.weight"] = _divided(
                tensor, tensors[f"{path}.weight_u"], tensors.get(f"{path}.weight_v"), axis
            )
        elif attribute == "weight" and f"{path}.u0" in tensors:
            made[name] = _stepped(tensor, tensors[f"{path}.u0"])
        elif ".parametrizations.weight" in name:
            layer = name.partition(".parametrizations.weight")[0]
            if attribute == "original":
                inner = f"{layer}.parametrizations.weight.0"
                axis = 1 if transposed and re.search(transposed, layer) else 0
                made[f"{layer}.weight"] = _divided(
                    tensor, tensors[f"{inner}._u"], tensors.get(f"{inner}._v"), axis
                )
        else:
            made[name] = tensor.float() if tensor.is_floating_point() else tensor
    return made


def _divided(weight: Tensor, u: Tensor, v: Tensor | None, axis: int) -> Tensor:
    """Return the weight over ``u W v``, as PyTorch has it in evaluation: without another step."""
    weight = weight.float()
    matrix = weight.movedim(axis, 0).flatten(1)
    u = u.float()
    # Files from before PyTorch 1.1 have no v.
    v = F.normalize(matrix.t() @ u, dim=0, eps=_EPS) if v is None else v.float()
    return weight / torch.dot(u, matrix @ v)


def _stepped(weight: Tensor, u: Tensor) -> Tensor:
    """Return the weight over its singular value after one more step from ``u`` [1, outputs].

    BigGAN-PyTorch makes that step in evaluation too, and forgets it again.
    """
    weight = weight.float()
    matrix = weight.flatten(1)
    v = F.normalize(u.float() @ matrix, eps=_EPS)
    divided: Tensor = weight / (v @ matrix.t()).norm()
    return divided
