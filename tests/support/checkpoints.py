"""Files of published layouts, for what imports them, with random weights."""

from __future__ import annotations

import contextlib
import pickle
import sys
import types
from collections import OrderedDict

import torch

from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider
from training.importers.formats.base import UserOptions
from training.importers.import_model import ImportTarget, import_model
from training.importers.reading.files import read_file
from training.importers.reading.weights import find_networks
from training.importers.recognition import Candidate, match_formats, select_candidate

PLAN = ExecutionPlan(workers=1, threads=1, max_rows=8)


def recognised(path, said=None, network=None) -> Candidate:
    return select_candidate(
        match_formats(find_networks(read_file(path)), said or UserOptions()), network
    )


def imported(path, models, said=None, network=None) -> tuple[Candidate, Model]:
    """What a file was recognised as, and the model that it became."""
    best = recognised(path, said, network)
    folder = import_model(path, best.format, best.converted, ImportTarget(models, "m"))
    return best, Model(folder, Provider.CPU, PLAN)


def to_levels(images: torch.Tensor):
    """Pictures ``[N, C, H, W]`` in [-1, 1] as ``[N, H, W, C]`` of whole levels."""
    levels = ((images.double() + 1) * 127.5).round().clamp(0, 255)
    return levels.permute(0, 2, 3, 1).numpy().astype(int)


def drawn(shapes: dict[str, tuple[int, ...]], seed: int = 0, scale: float = 1.0):
    """Tensors of N(0, scale²) by name; variances are positive."""
    rng = torch.Generator().manual_seed(seed)
    made = OrderedDict()
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            made[name] = torch.tensor(7)
            continue
        value = torch.randn(shape, generator=rng) * scale
        made[name] = value.abs() + 0.3 if name.endswith("running_var") else value
    return made


class EasyDict(dict):
    """What `dnnlib.util.EasyDict` pickles as."""


class Persistent:
    """An object as NVIDIA's `torch_utils.persistence` pickles it: with the source of its class."""

    def __init__(self, kind, state, source="raise SystemExit('the source of a class was run')"):
        self.kind, self.state, self.source = kind, state, source

    def __reduce__(self):
        meta = EasyDict(
            type="class",
            version=6,
            module_src=self.source,
            class_name=self.kind,
            state=self.state,
        )
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,)


def persistent(kind, tensors, children=None, source=None, **attributes):
    """A module with parameters and buffers by name, and modules within it."""
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
    return Persistent(kind, state, source) if source else Persistent(kind, state)


def nested(kind, tensors, attributes=None, source=None):
    """A tree of modules of dotted names; `attributes` are by the path of the module."""
    own = {name: value for name, value in tensors.items() if "." not in name}
    children = {}
    for first in dict.fromkeys(name.partition(".")[0] for name in tensors if "." in name):
        inner = {n.partition(".")[2]: t for n, t in tensors.items() if n.startswith(f"{first}.")}
        said = {
            path.partition(".")[2]: values
            for path, values in (attributes or {}).items()
            if path.partition(".")[0] == first
        }
        children[first] = nested("Layer", inner, said, source)
    return persistent(kind, own, children, source, **(attributes or {}).get("", {}))


@contextlib.contextmanager
def nvidias_modules():
    """Modules of the names that NVIDIA's pickles mention, as long as one is written."""

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("a pickle was loaded by its own names")

    made = {
        "torch_utils": types.ModuleType("torch_utils"),
        "torch_utils.persistence": types.ModuleType("torch_utils.persistence"),
        "dnnlib": types.ModuleType("dnnlib"),
        "dnnlib.util": types.ModuleType("dnnlib.util"),
    }
    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    made["torch_utils.persistence"]._reconstruct_persistent_obj = _reconstruct_persistent_obj
    made["dnnlib.util"].EasyDict = EasyDict
    there = {name: sys.modules.get(name) for name in made}
    before = EasyDict.__module__
    EasyDict.__module__ = "dnnlib.util"
    sys.modules.update(made)
    try:
        yield
    finally:
        EasyDict.__module__ = before
        for name, module in there.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def write_nvidia(path, tree) -> None:
    with nvidias_modules(), path.open("wb") as file:
        pickle.dump(tree, file, protocol=3)


def remade(best: Candidate, **feeds: torch.Tensor) -> torch.Tensor:
    """The pictures ``[N, C, H, W]`` in [-1, 1] of the network that a file was rebuilt as.

    Export holds graphs against it, so that a variant of a layout needs no graph of its own.
    """
    (piece,) = best.converted.graph_specs
    with torch.no_grad():
        return piece.module(**feeds)[1].double()


def doubles(tensors) -> dict[str, torch.Tensor]:
    """The same values in double precision, for what is written out in a test."""
    return {name: value.double() for name, value in tensors.items()}
