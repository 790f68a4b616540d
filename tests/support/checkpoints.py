"""Writes checkpoints with random weights, and imports them."""

from __future__ import annotations

import contextlib
import pickle
import sys
import types
from collections import OrderedDict

import torch

from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from training.importers.import_model import ImportTarget, import_model
from training.importers.options import UserOptions
from training.importers.reading.files import read_file
from training.importers.reading.weights import find_networks
from training.importers.recognition import Candidate, match_formats, select_candidate

PLAN = ExecutionPlan(workers=1, threads=1, max_rows=8)


def recognize(path, options=None, network=None) -> Candidate:
    """Return the network to import from a file and the format that it matches."""
    return select_candidate(
        match_formats(find_networks(read_file(path)), options or UserOptions()), network
    )


def import_checkpoint(path, models, options=None, network=None) -> tuple[Candidate, Model]:
    """Return the matched network of a file, and the model that the file is imported as."""
    best = recognize(path, options, network)
    folder = import_model(path, best.format, best.converted, ImportTarget(models, "m"))
    return best, Model(folder, Provider.CPU, PLAN)


def to_levels(images: torch.Tensor):
    """Return images ``[N, C, H, W]`` in [-1, 1] as integer levels ``[N, H, W, C]`` in [0, 255]."""
    levels = ((images.double() + 1) * 127.5).round().clamp(0, 255)
    return levels.permute(0, 2, 3, 1).numpy().astype(int)


def random_tensors(shapes: dict[str, tuple[int, ...]], seed: int = 0, scale: float = 1.0):
    """Return tensors from N(0, scale²) by name. Running variances are positive.

    Filters of resampling layers are the published ones.
    """
    rng = torch.Generator().manual_seed(seed)
    tensors = OrderedDict()
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            tensors[name] = torch.tensor(7)
            continue
        value = torch.randn(shape, generator=rng) * scale
        if name.endswith("resample_filter"):
            value = torch.outer(*2 * (torch.tensor([1.0, 3.0, 3.0, 1.0]),)) / 64
        elif name.endswith(".1.f"):
            value = torch.tensor([1.0, 2.0, 1.0])
        tensors[name] = value.abs() + 0.3 if name.endswith("running_var") else value
    return tensors


class EasyDict(dict):
    """Pickled as `dnnlib.util.EasyDict`."""


class PersistentObject:
    """Pickled as by NVIDIA's `torch_utils.persistence`: with the source code of its class."""

    def __init__(
        self, class_name, state, source="raise SystemExit('the source code was executed')"
    ):
        self.class_name, self.state, self.source = class_name, state, source

    def __reduce__(self):
        meta = EasyDict(
            type="class",
            version=6,
            module_src=self.source,
            class_name=self.class_name,
            state=self.state,
        )
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,)


def pickled_module(class_name, tensors, children=None, source=None, **attributes):
    """Return a module with parameters and child modules, for a pickle of NVIDIA's."""
    state = {
        "training": False,
        "_parameters": OrderedDict(
            (name, torch.nn.Parameter(value)) for name, value in tensors.items()
        ),
        "_buffers": OrderedDict(),
        "_non_persistent_buffers_set": set(),
        "_backward_hooks": OrderedDict(),
        "_modules": OrderedDict(children or {}),
        "_init_args": (),
        "_init_kwargs": EasyDict(attributes),
        **attributes,
    }
    return PersistentObject(class_name, state, *([source] if source else []))


def pickled_network(class_name, tensors, attributes=None, source=None):
    """Return a tree of modules from dotted tensor names. `attributes` are by module path."""
    own = {name: value for name, value in tensors.items() if "." not in name}
    children = {}
    for child in dict.fromkeys(name.partition(".")[0] for name in tensors if "." in name):
        child_tensors = {
            name.partition(".")[2]: tensor
            for name, tensor in tensors.items()
            if name.startswith(f"{child}.")
        }
        child_attributes = {
            path.partition(".")[2]: values
            for path, values in (attributes or {}).items()
            if path.partition(".")[0] == child
        }
        children[child] = pickled_network("Layer", child_tensors, child_attributes, source)
    return pickled_module(class_name, own, children, source, **(attributes or {}).get("", {}))


@contextlib.contextmanager
def nvidia_modules():
    """Install stand-ins for the modules that NVIDIA's pickles refer to, while one is written."""

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("a pickle was loaded with the modules that it refers to")

    modules = {
        "torch_utils": types.ModuleType("torch_utils"),
        "torch_utils.persistence": types.ModuleType("torch_utils.persistence"),
        "dnnlib": types.ModuleType("dnnlib"),
        "dnnlib.util": types.ModuleType("dnnlib.util"),
    }
    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    modules["torch_utils.persistence"]._reconstruct_persistent_obj = _reconstruct_persistent_obj
    modules["dnnlib.util"].EasyDict = EasyDict
    original_modules = {name: sys.modules.get(name) for name in modules}
    original_name = EasyDict.__module__
    EasyDict.__module__ = "dnnlib.util"
    sys.modules.update(modules)
    try:
        yield
    finally:
        EasyDict.__module__ = original_name
        for name, module in original_modules.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def write_nvidia_pickle(path, tree) -> None:
    """Write a pickle that refers to NVIDIA's modules."""
    with nvidia_modules(), path.open("wb") as file:
        pickle.dump(tree, file, protocol=3)


def converted_images(best: Candidate, **feeds: torch.Tensor) -> torch.Tensor:
    """Return the converted network's images ``[N, C, H, W]`` in [-1, 1], in PyTorch.

    The export compares the graph with this network, so most tests need not write a graph.
    """
    (spec,) = best.converted.graph_specs
    with torch.no_grad():
        return spec.module(**feeds)[1].double()


def to_float64(tensors) -> dict[str, torch.Tensor]:
    """Return the tensors in double precision, for reference computations."""
    return {name: value.double() for name, value in tensors.items()}
