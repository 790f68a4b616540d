"""Network pickles of R3GAN: plain pickles that name the classes of its code."""

import pickle
import sys
import types
from collections import OrderedDict

import torch

from tests.support.checkpoints import random_tensors

Z, EMBEDDING = 5, 3


def tensors(widths=(6, 4), blocks=2, classes=0, group=2, expansion=2):
    """Random weights by name, for images of the side 4·2^(widths - 1)."""
    shapes = {}
    inputs = Z + (EMBEDDING if classes else 0)
    for i, width in enumerate(widths):
        prefix = f"Model.MainLayers.{i}.Layers"
        if i == 0:
            shapes[f"{prefix}.0.Basis"] = (width, 4, 4)
            shapes[f"{prefix}.0.LinearLayer.weight"] = (width, inputs)
        else:
            shapes[f"{prefix}.0.Resampler.Kernel"] = (4, 4)
            if widths[i - 1] != width:
                shapes[f"{prefix}.0.LinearLayer.Layer.weight"] = (width, widths[i - 1], 1, 1)
        inner = width * expansion
        for block in range(1, blocks + 1):
            shapes |= {
                f"{prefix}.{block}.LinearLayer1.Layer.weight": (inner, width, 1, 1),
                f"{prefix}.{block}.LinearLayer2.Layer.weight": (inner, group, 3, 3),
                f"{prefix}.{block}.LinearLayer3.Layer.weight": (width, inner, 1, 1),
                f"{prefix}.{block}.NonLinearity1.Bias": (inner,),
                f"{prefix}.{block}.NonLinearity2.Bias": (inner,),
            }
    shapes["Model.AggregationLayer.Layer.weight"] = (3, widths[-1], 1, 1)
    if classes:
        shapes["Model.EmbeddingLayer.weight"] = (EMBEDDING, classes)
    weights = random_tensors(shapes, scale=0.4)
    for name in weights:
        if name.endswith("Kernel"):
            weights[name] = torch.outer(*2 * (torch.tensor([1.0, 3.0, 3.0, 1.0]),)) / 64
    return weights


def write_pickle(path, weights, package="R3GAN"):
    """Write a pickle with the averaged generator of these weights."""
    networks = types.ModuleType(f"{package}.Networks")
    training = types.ModuleType("training.networks")
    layer = type("Layer", (), {"__module__": networks.__name__})
    generator = type("Generator", (), {"__module__": training.__name__})
    networks.Layer, training.Generator = layer, generator
    modules = {package: types.ModuleType(package), networks.__name__: networks}
    # The package `training` is Ganymede's own, with another `networks` while this is written.
    modules["training.networks"] = training
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        tree = {"G_ema": _module(generator, weights, layer), "cur_nimg": 1000}
        with path.open("wb") as file:
            pickle.dump(tree, file)
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def _module(kind, weights, layer):
    module = kind()
    own = {name: value for name, value in weights.items() if "." not in name}
    buffers = {name for name in own if name == "Kernel"}
    children = dict.fromkeys(name.partition(".")[0] for name in weights if "." in name)
    module.__dict__.update(
        training=False,
        DataType=torch.bfloat16,
        _parameters=OrderedDict(
            (name, torch.nn.Parameter(value)) for name, value in own.items() if name not in buffers
        ),
        _buffers=OrderedDict((name, own[name]) for name in buffers),
        _modules=OrderedDict(
            (child, _module(layer, within(weights, child), layer)) for child in children
        ),
    )
    return module


def within(weights, prefix):
    """The tensors under a prefix, without it."""
    start = f"{prefix}."
    return {
        name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)
    }
