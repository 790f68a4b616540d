"""NVIDIA's network pickles, read as data.

Such a file (StyleGAN2-ADA, StyleGAN3) holds, for every module, the source of its class, which its
own loader executes. Here an unpickler with a list of known names stands in for all of them: what is
a tensor becomes a tensor, what is a module becomes its class's name and its attributes, and a name
that is not on the list ends the reading. No name is ever imported.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.importers.errors import ModelImportError, UnsafeFileError
from training.importers.reading.weights import Network

_DEEPEST = 64
# A module may be in a file once and stand in two places, and so on within it.
_MOST_MODULES = 10_000


class Module:
    """A module of a pickle: the name of its class and its attributes, and none of its code."""

    kind = "Module"

    def __init__(self, *_: Any, **__: Any) -> None:
        self.state: Mapping[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise pickle.UnpicklingError("a module without attributes")
        self.state = state


class PickledOptions(dict[str, Any]):
    """NVIDIA's dictionary of options."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.update(state)


class _Kind:
    """NumPy's dtype, by its name."""

    def __init__(self, name: Any = None, *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like: only the machine's own is read."""

    def values(self, data: Any) -> list[Any]:
        """The numbers that bytes hold."""
        if self.name not in ("f8", "f4", "i8", "i4", "b1", "u1") or not isinstance(data, bytes):
            raise pickle.UnpicklingError("an array that is not of plain numbers")
        values: list[Any] = np.frombuffer(data, np.dtype(self.name)).tolist()
        return values


class _Array:
    """A small NumPy array, as the list of its numbers."""

    def __init__(self, *_: Any) -> None:
        self.values: list[Any] = []

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], _Kind):
            raise pickle.UnpicklingError("an array that is not of plain numbers")
        self.values = state[2].values(state[4])


class _Call:
    """A function that a pickle may call, under the name of the one that it means."""

    __slots__ = ("_make",)

    def __init__(self, make: Any) -> None:
        self._make = make

    def __call__(self, *given: Any) -> Any:
        return self._make(*given)


def _storage(data: Any) -> Any:
    if not isinstance(data, bytes):
        raise pickle.UnpicklingError("a storage that is no bytes")
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        raise pickle.UnpicklingError(f"a storage that cannot be read: {error}") from error


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    # PyTorch checks that the sizes lie inside the storage.
    return torch._utils._rebuild_tensor_v2(storage, offset, size, stride, False, OrderedDict())  # type: ignore[no-untyped-call,no-any-return]


def _parameter(data: Any, *_: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise pickle.UnpicklingError("a parameter that is no tensor")
    return data


def _persistent(meta: Any) -> Module:
    """A module as NVIDIA's `persistence` writes it: its source is among `meta`, and left there."""
    if not isinstance(meta, dict) or not isinstance(meta.get("class_name"), str):
        raise pickle.UnpicklingError("a persistent object without a class name")
    made = Module()
    made.kind = meta["class_name"]
    made.__setstate__(meta.get("state"))
    return made


def _scalar(kind: Any, data: Any) -> Any:
    if not isinstance(kind, _Kind):
        raise pickle.UnpicklingError("a number of no kind")
    return kind.values(data)[0]


def _module_type(name: str) -> type[Module]:
    return type(name, (Module,), {"kind": name})


class _Reader(pickle.Unpickler):
    """Knows the names below, gives stand-ins for them, and imports nothing."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name. Raises UnsafeFileError."""
        known = _KNOWN.get((module, name))
        if known is not None:
            return known
        if module.startswith("torch.nn.modules.") and name.isidentifier():
            return _module_type(name)
        if module.startswith("dnnlib.tflib"):
            raise UnsafeFileError(
                "this is a TensorFlow pickle of StyleGAN; convert it to PyTorch's form first "
                "(legacy.py of stylegan2-ada-pytorch does)"
            )
        raise UnsafeFileError(f"the pickle names {module}.{name}, which would have to be run")

    def persistent_load(self, pid: Any) -> Any:
        """There are none in such files. Raises pickle.UnpicklingError."""
        raise pickle.UnpicklingError(f"a reference to something outside of the file: {pid!r:.60}")


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("dnnlib.util", "EasyDict"): PickledOptions,
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _Call(_persistent),
    ("torch.storage", "_load_from_bytes"): _Call(_storage),
    ("torch._utils", "_rebuild_tensor_v2"): _Call(_tensor),
    ("torch._utils", "_rebuild_parameter"): _Call(_parameter),
    ("torch", "device"): _Call(lambda *_: "device"),
    ("torch", "Size"): tuple,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("numpy", "dtype"): _Kind,
    ("numpy", "ndarray"): _Array,
    **{
        (f"numpy.{core}.multiarray", name): stand_in
        for core in ("core", "_core")
        for name, stand_in in (("scalar", _Call(_scalar)), ("_reconstruct", _Call(_Array)))
    },
}


def read_pickle(path: Path) -> Any:
    """Return what a pickle holds, with each module as a `Network`. Raises ModelImportError."""
    try:
        with path.open("rb") as file:
            tree = _Reader(file).load()
        return _networks(tree)
    except ModelImportError as error:
        raise type(error)(f"{path}: {error}") from error
    except (OSError, MemoryError, RecursionError) as error:
        raise ModelImportError(f"{path} cannot be read: {type(error).__name__}") from error
    except Exception as error:
        # The pickle machine raises whatever a mutated file leads to.
        text = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise ModelImportError(f"{path} cannot be read as a pickle: {text}") from error


def _networks(tree: Any) -> Any:
    if isinstance(tree, Module):
        return _network(tree)
    if isinstance(tree, Mapping):
        return {
            key: _network(value) if isinstance(value, Module) else value
            for key, value in tree.items()
        }
    return tree


def _network(module: Module) -> Network:
    tensors: dict[str, Tensor] = {}
    modules: dict[str, dict[str, Any]] = {}
    _collect(module, "", tensors, modules, 0)
    said = modules[""] | {"modules": modules}
    return Network("", tensors, said, module.kind)


def _plain(value: Any) -> bool:
    return isinstance(value, (bool, int, float, str, list, tuple, PickledOptions))


def _collect(
    module: Module,
    path: str,
    tensors: dict[str, Tensor],
    modules: dict[str, dict[str, Any]],
    depth: int,
) -> None:
    """Gather the tensors by name, and by path what else the modules say of themselves."""
    if depth > _DEEPEST or len(modules) > _MOST_MODULES:
        raise pickle.UnpicklingError("modules within modules without end")
    state = module.state
    said: dict[str, Any] = {"class": module.kind}
    given = state.get("_init_kwargs")
    for key, value in [*state.items(), *(given.items() if isinstance(given, dict) else ())]:
        if isinstance(key, str) and not key.startswith("_"):
            if isinstance(value, _Array):
                said[key] = value.values
            elif _plain(value):
                said[key] = value
    modules[path] = said
    start = f"{path}." if path else ""
    for part in ("_parameters", "_buffers"):
        held = state.get(part) or {}
        if isinstance(held, Mapping):
            for name, value in held.items():
                if isinstance(value, Tensor):
                    tensors[f"{start}{name}"] = value.detach()
    inner = state.get("_modules") or {}
    if isinstance(inner, Mapping):
        for name, value in inner.items():
            if isinstance(value, Module):
                _collect(value, f"{start}{name}", tensors, modules, depth + 1)
