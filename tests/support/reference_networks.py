"""Reference implementations of residual generators, for one image at a time in float64.

They follow the published descriptions and use plain PyTorch functions only.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F


def biggan_weight(t, path):
    """Return BigGAN-PyTorch's weight after one power iteration from u0, as in evaluation."""
    weight = t[f"{path}.weight"]
    if f"{path}.u0" not in t:
        return weight
    matrix = weight.reshape(weight.shape[0], -1)
    v = t[f"{path}.u0"][0] @ matrix
    v = v / v.norm()
    u = matrix @ v
    return weight / (u / u.norm() @ matrix @ v)


def pytorch_weight(t, path, outputs=0):
    """Return PyTorch's weight divided by u W v, as in evaluation. `outputs` is the output axis."""
    if f"{path}.weight_orig" not in t:
        return t[f"{path}.weight"]
    weight = t[f"{path}.weight_orig"]
    matrix = weight.transpose(0, outputs).reshape(weight.shape[outputs], -1)
    return weight / (t[f"{path}.weight_u"] @ matrix @ t[f"{path}.weight_v"])


def spectral_norm_shapes(name, *shape, bias=True, outputs=0):
    """Return the tensor shapes of a layer with PyTorch's spectral normalization, by name."""
    fan_in = math.prod(shape) // shape[outputs]
    shapes = {f"{name}.weight_orig": shape, f"{name}.weight_u": (shape[outputs],)}
    shapes[f"{name}.weight_v"] = (fan_in,)
    return shapes | ({f"{name}.bias": (shape[outputs],)} if bias else {})


def with_singular_vectors(tensors):
    """Set u and v to one power iteration, as after training, and make variances positive."""
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


class ReferenceLayers:
    """Layers of a checkpoint as functions.

    `weight(t, path)` returns a layer's weight with its spectral normalization; `attention` are the
    names of query, key, value, output and strength.
    """

    def __init__(self, tensors, weight, attention):
        self.t = {name: value.double() for name, value in tensors.items()}
        self.weight_of, self.attention = weight, attention

    def weight(self, path):
        return self.weight_of(self.t, path)

    def linear(self, path, x):
        return self.weight(path) @ x + self.t.get(f"{path}.bias", 0.0)

    def conv(self, path, x):
        weight = self.weight(path)
        return F.conv2d(x, weight, self.t.get(f"{path}.bias"), padding=weight.shape[-1] // 2)

    def self_attention(self, path, x):
        theta, phi, g, o, gamma = (f"{path}.{name}" for name in self.attention)
        _, _, height, width = x.shape
        query = self.conv(theta, x).flatten(2)[0]
        key = F.max_pool2d(self.conv(phi, x), 2).flatten(2)[0]
        value = F.max_pool2d(self.conv(g, x), 2).flatten(2)[0]
        attention = torch.softmax(query.t() @ key, dim=1)
        attended = (value @ attention.t()).reshape(1, -1, height, width)
        return x + self.t[gamma] * self.conv(o, attended)


def batch_norm(x, mean, variance, eps, gain, bias):
    mean, variance, gain, bias = (v[:, None, None] for v in (mean, variance, gain, bias))
    return (x - mean) / torch.sqrt(variance + eps) * gain + bias


def upsample_nearest(x):
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def converted_pixels(best, z, label, truncation):
    """Return the pixels of one latent from the converted network in PyTorch."""
    feeds = {"z": z[None].float()}
    if best.converted.classes:
        feeds["class_weights"] = label[None].float()
    if best.converted.latent.truncation:
        feeds["truncation"] = torch.tensor([truncation])
    with torch.no_grad():
        pixels, _ = best.converted.graph_specs[0].module(**feeds)
    return pixels.numpy().astype(int)
