"""Reproducible random Inception weights and images, on which torch-fidelity was run, too."""

import numpy as np
import torch

IMAGES = 64
_CONVOLUTIONS = {
    # The units of each kind of block: input channels, output channels, kernel height and width.
    "a": lambda i, p: {
        "branch1x1": (i, 64, 1, 1),
        "branch5x5_1": (i, 48, 1, 1),
        "branch5x5_2": (48, 64, 5, 5),
        "branch3x3dbl_1": (i, 64, 1, 1),
        "branch3x3dbl_2": (64, 96, 3, 3),
        "branch3x3dbl_3": (96, 96, 3, 3),
        "branch_pool": (i, p, 1, 1),
    },
    "b": lambda i, _: {
        "branch3x3": (i, 384, 3, 3),
        "branch3x3dbl_1": (i, 64, 1, 1),
        "branch3x3dbl_2": (64, 96, 3, 3),
        "branch3x3dbl_3": (96, 96, 3, 3),
    },
    "c": lambda i, c: {
        "branch1x1": (i, 192, 1, 1),
        "branch7x7_1": (i, c, 1, 1),
        "branch7x7_2": (c, c, 1, 7),
        "branch7x7_3": (c, 192, 7, 1),
        "branch7x7dbl_1": (i, c, 1, 1),
        "branch7x7dbl_2": (c, c, 7, 1),
        "branch7x7dbl_3": (c, c, 1, 7),
        "branch7x7dbl_4": (c, c, 7, 1),
        "branch7x7dbl_5": (c, 192, 1, 7),
        "branch_pool": (i, 192, 1, 1),
    },
    "d": lambda i, _: {
        "branch3x3_1": (i, 192, 1, 1),
        "branch3x3_2": (192, 320, 3, 3),
        "branch7x7x3_1": (i, 192, 1, 1),
        "branch7x7x3_2": (192, 192, 1, 7),
        "branch7x7x3_3": (192, 192, 7, 1),
        "branch7x7x3_4": (192, 192, 3, 3),
    },
    "e": lambda i, _: {
        "branch1x1": (i, 320, 1, 1),
        "branch3x3_1": (i, 384, 1, 1),
        "branch3x3_2a": (384, 384, 1, 3),
        "branch3x3_2b": (384, 384, 3, 1),
        "branch3x3dbl_1": (i, 448, 1, 1),
        "branch3x3dbl_2": (448, 384, 3, 3),
        "branch3x3dbl_3a": (384, 384, 1, 3),
        "branch3x3dbl_3b": (384, 384, 3, 1),
        "branch_pool": (i, 192, 1, 1),
    },
}
_STEM = {
    "Conv2d_1a_3x3": (3, 32, 3, 3),
    "Conv2d_2a_3x3": (32, 32, 3, 3),
    "Conv2d_2b_3x3": (32, 64, 3, 3),
    "Conv2d_3b_1x1": (64, 80, 1, 1),
    "Conv2d_4a_3x3": (80, 192, 3, 3),
}
_BLOCKS = {
    "5b": ("a", 192, 32),
    "5c": ("a", 256, 64),
    "5d": ("a", 288, 64),
    "6a": ("b", 288, 0),
    "6b": ("c", 768, 128),
    "6c": ("c", 768, 160),
    "6d": ("c", 768, 160),
    "6e": ("c", 768, 192),
    "7a": ("d", 768, 0),
    "7b": ("e", 1280, 0),
    "7c": ("e", 2048, 0),
}


def random_weights() -> dict[str, torch.Tensor]:
    """Return random weights with the names of the standard Inception file."""
    units = dict(_STEM)
    for name, (kind, channels, width) in _BLOCKS.items():
        for unit, shape in _CONVOLUTIONS[kind](channels, width).items():
            units[f"Mixed_{name}.{unit}"] = shape
    rng = np.random.RandomState(0)
    weights = {}
    for unit, (fan_in, fan_out, high, wide) in units.items():
        spread = np.sqrt(2 / (fan_in * high * wide))
        weights[f"{unit}.conv.weight"] = rng.randn(fan_out, fan_in, high, wide) * spread
        weights[f"{unit}.bn.weight"] = rng.uniform(0.8, 1.2, fan_out)
        weights[f"{unit}.bn.bias"] = rng.randn(fan_out) * 0.1
        weights[f"{unit}.bn.running_mean"] = rng.randn(fan_out) * 0.1
        weights[f"{unit}.bn.running_var"] = rng.uniform(0.8, 1.2, fan_out)
    weights["fc.weight"] = rng.randn(1008, 2048) / 8
    weights["fc.bias"] = rng.randn(1008)
    state = {name: torch.from_numpy(value.astype(np.float32)) for name, value in weights.items()}
    counters = [name.replace("running_var", "num_batches_tracked") for name in state]
    state |= {name: torch.tensor(0) for name in counters if name.endswith("num_batches_tracked")}
    return state


def random_images() -> tuple[np.ndarray, np.ndarray]:
    """Return two sets of images ``[N, 32, 32, 3] uint8``; the second is brighter."""
    rng = np.random.RandomState(1)
    sets = []
    for bright in (0, 30):
        coarse = rng.randint(0, 200, (IMAGES, 4, 4, 3)) + bright
        fine = rng.randint(-25, 26, (IMAGES, 32, 32, 3))
        pixels = np.kron(coarse, np.ones((1, 8, 8, 1))) + fine
        sets.append(pixels.clip(0, 255).astype(np.uint8))
    return sets[0], sets[1]
