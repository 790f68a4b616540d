"""Residual generators written out from their descriptions, one picture at a time, in float64.

A layout gives `weight`, which finds a layer's weight with its spectral normalisation, and the
names of its parts; everything here is plain PyTorch functions.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F


def stepped(t, path):
    """BigGAN-PyTorch's weight: one step of the power method from u0, in evaluation too."""
    weight = t[f"{path}.weight"]
    if f"{path}.u0" not in t:
        return weight
    matrix = weight.reshape(weight.shape[0], -1)
    v = t[f"{path}.u0"][0] @ matrix
    v = v / v.norm()
    u = matrix @ v
    return weight / (u / u.norm() @ matrix @ v)


def stored(t, path, outputs=0):
    """PyTorch's weight in evaluation: over u W v, as they are stored."""
    if f"{path}.weight_orig" not in t:
        return t[f"{path}.weight"]
    weight = t[f"{path}.weight_orig"]
    matrix = weight.transpose(0, outputs).reshape(weight.shape[outputs], -1)
    return weight / (t[f"{path}.weight_u"] @ matrix @ t[f"{path}.weight_v"])


def spectral(name, *shape, bias=True, outputs=0):
    """The names and shapes of a layer under PyTorch's spectral normalisation."""
    rest = math.prod(shape) // shape[outputs]
    made = {f"{name}.weight_orig": shape, f"{name}.weight_u": (shape[outputs],)}
    made[f"{name}.weight_v"] = (rest,)
    return made | ({f"{name}.bias": (shape[outputs],)} if bias else {})


def estimated(tensors):
    """Tensors with estimates of singular values as training leaves them, and real variances."""
    rng = torch.Generator().manual_seed(1)
    for name, value in tensors.items():
        if name.endswith(("running_vars", "running_var")):
            tensors[name] = value.abs() + 0.3
        if name.endswith("weight_orig"):
            path = name.removesuffix("_orig")
            outputs = 1 if "deconv" in name else 0
            matrix = value.transpose(0, outputs).flatten(1)
            u = torch.randn(len(matrix), generator=rng)
            tensors[f"{path}_v"] = F.normalize(matrix.t() @ u, dim=0)
            tensors[f"{path}_u"] = F.normalize(matrix @ tensors[f"{path}_v"], dim=0)
    return tensors


class Layout:
    """Tensors under the names of a layout."""

    def __init__(self, tensors, weight, attention):
        self.t = {name: value.double() for name, value in tensors.items()}
        self.weight_of, self.names = weight, attention

    def weight(self, path):
        return self.weight_of(self.t, path)

    def linear(self, path, x):
        return self.weight(path) @ x + self.t.get(f"{path}.bias", 0.0)

    def conv(self, path, x):
        weight = self.weight(path)
        return F.conv2d(x, weight, self.t.get(f"{path}.bias"), padding=weight.shape[-1] // 2)

    def attended(self, path, x):
        theta, phi, g, o, gamma = (f"{path}.{name}" for name in self.names)
        _, _, height, width = x.shape
        query = self.conv(theta, x).flatten(2)[0]
        key = F.max_pool2d(self.conv(phi, x), 2).flatten(2)[0]
        value = F.max_pool2d(self.conv(g, x), 2).flatten(2)[0]
        shares = torch.softmax(query.t() @ key, dim=1)
        seen = (value @ shares.t()).reshape(1, -1, height, width)
        return x + self.t[gamma] * self.conv(o, seen)


def normalised(x, mean, variance, eps, gain, bias):
    mean, variance, gain, bias = (v[:, None, None] for v in (mean, variance, gain, bias))
    return (x - mean) / torch.sqrt(variance + eps) * gain + bias


def twice(x):
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def converted_pixels(best, z, label, truncation):
    """What the rebuilt module makes of one latent, before it is exported."""
    feeds = {"z": z[None].float()}
    if best.converted.classes:
        feeds["class_weights"] = label[None].float()
    if best.converted.latent.truncation:
        feeds["truncation"] = torch.tensor([truncation])
    with torch.no_grad():
        pixels, _ = best.converted.graph_specs[0].module(**feeds)
    return pixels.numpy().astype(int)
