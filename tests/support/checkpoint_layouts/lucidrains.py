"""Checkpoints of lucidrains' stylegan2-pytorch and lightweight-gan with random weights."""

import torch

from tests.support.checkpoints import random_tensors

Z, HEADS, HEAD = 10, 8, 2


def layer_shapes(name, *shape, bias=True):
    """Return the shapes of a layer's weight and bias."""
    shapes = {f"{name}.weight": shape}
    return shapes | ({f"{name}.bias": shape[:1]} if bias else {})


def linear_attention_shapes(width, query="to_q", key_value="to_kv"):
    inner = HEADS * HEAD
    shapes = layer_shapes(query, inner, width, 1, 1, bias=False)
    shapes |= layer_shapes(f"{key_value}.net.0", width, 1, 3, 3, bias=False)
    return shapes | layer_shapes(f"{key_value}.net.1", 2 * inner, width, 1, 1, bias=False)


def with_prefix(prefix, shapes):
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}


def stylegan2_tensors(widths, attention_blocks=(), channels=3, constant=True, layers=2):
    """Return the averaged networks of stylegan2-pytorch, with attention in some blocks."""
    shapes = {}
    for i in range(layers):
        shapes |= layer_shapes(f"SE.net.{2 * i}", Z, Z)
    if constant:
        shapes["GE.initial_block"] = (1, widths[0], 4, 4)
    else:
        shapes |= layer_shapes("GE.to_initial_block", Z, widths[0], 4, 4, bias=False)
    shapes |= layer_shapes("GE.initial_conv", widths[0], widths[0], 3, 3)
    fan_in = widths[0]
    for i, width in enumerate(widths):
        path = f"GE.blocks.{i}"
        if i in attention_blocks:
            attention = f"GE.attns.{i}"
            for j in (0, 1):
                norm = {f"{attention}.{j}.fn.norm.{name}": (1, fan_in, 1, 1) for name in "gb"}
                shapes |= norm
            shapes |= with_prefix(f"{attention}.0.fn.fn", linear_attention_shapes(fan_in))
            shapes |= layer_shapes(f"{attention}.0.fn.fn.to_out", fan_in, HEADS * HEAD, 1, 1)
            shapes |= layer_shapes(f"{attention}.1.fn.fn.0", 2 * fan_in, fan_in, 1, 1)
            shapes |= layer_shapes(f"{attention}.1.fn.fn.2", fan_in, 2 * fan_in, 1, 1)
        for number, inputs in ((1, fan_in), (2, width)):
            shapes |= layer_shapes(f"{path}.to_style{number}", inputs, Z)
            shapes |= layer_shapes(f"{path}.to_noise{number}", width, 1)
            shapes |= layer_shapes(f"{path}.conv{number}", width, inputs, 3, 3, bias=False)
        shapes |= layer_shapes(f"{path}.to_rgb.to_style", width, Z)
        shapes |= layer_shapes(f"{path}.to_rgb.conv", channels, width, 1, 1, bias=False)
        if i < len(widths) - 1:
            shapes[f"{path}.to_rgb.upsample.1.f"] = (3,)
        fan_in = width
    tensors = random_tensors(shapes)
    for name in tensors:
        if name.startswith("SE."):
            tensors[name] = tensors[name] * 4
        if "to_noise" in name or "to_rgb.conv" in name:
            tensors[name] = tensors[name] * 0.2
    return tensors


def save_checkpoint(path, averaged):
    """Write a checkpoint with all networks that the library saves."""
    current = {
        name.replace("SE.", "S.", 1).replace("GE.", "G.", 1): torch.zeros_like(value)
        for name, value in averaged.items()
    }
    discriminator = {"D.blocks.0.conv_res.weight": torch.zeros(2, 3, 1, 1)}
    torch.save({"GAN": current | discriminator | averaged, "version": "1.9.0"}, path)
