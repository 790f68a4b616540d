"""Reads NVIDIA's network pickles, and those of R3GAN, as data.

NVIDIA's files (StyleGAN2-ADA, StyleGAN3) contain the source code of every module's class, which
NVIDIA's loader executes; R3GAN's name the classes of its code. This unpickler imports nothing. It
replaces known names with its own functions and classes, and rejects all other names. It returns
tensors as tensors, and each module as its class name and attributes.

The project has its own reader because no library reads these files without executing them.
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

_MAX_DEPTH = 64
# A module can be referenced several times and can contain itself, so depth and count are limited.
_MAX_MODULES = 10_000


class Module:
    """A module of a pickle: its class name and attributes, without its code."""

    class_name = "Module"

    def __init__(self, *_: Any, **__: Any) -> None:
        self.state: Mapping[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise pickle.UnpicklingError("a module has no attributes")
        self.state = state


class PickledOptions(dict[str, Any]):
    """NVIDIA's dictionary of options."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.update(state)


class _Dtype:
    """Replaces NumPy's dtype, and stores only its name."""

    def __init__(self, name: Any = None, *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        """Ignore byte order and alignment: values are read in native byte order."""

    def values(self, data: Any) -> list[Any]:
        """Decode bytes to a list of numbers. Raises pickle.UnpicklingError."""
        if self.name not in ("f8", "f4", "i8", "i4", "b1", "u1") or not isinstance(data, bytes):
            raise pickle.UnpicklingError("an array does not contain plain numbers")
        values: list[Any] = np.frombuffer(data, np.dtype(self.name)).tolist()
        return values


class _Array:
    """A small NumPy array, as a list of its values."""

    def __init__(self, *_: Any) -> None:
        self.values: list[Any] = []

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], _Dtype):
            raise pickle.UnpicklingError("an array does not contain plain numbers")
        self.values = state[2].values(state[4])


class _Call:
    """A function that replaces one of the functions that a pickle calls."""

    __slots__ = ("_function",)

    def __init__(self, function: Any) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)


def _storage(data: Any) -> Any:
    if not isinstance(data, bytes):
        raise pickle.UnpicklingError("a storage is not of type bytes")
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        raise pickle.UnpicklingError(f"a storage cannot be read: {error}") from error


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    # PyTorch checks that size and stride stay within the storage.
    return torch._utils._rebuild_tensor_v2(storage, offset, size, stride, False, OrderedDict())  # type: ignore[no-untyped-call,no-any-return]


def _parameter(data: Any, *_: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise pickle.UnpicklingError("a parameter is not a tensor")
    return data


def _persistent(meta: Any) -> Module:
    """Return a module written by NVIDIA's `persistence`. Ignores the source code in `meta`."""
    if not isinstance(meta, dict) or not isinstance(meta.get("class_name"), str):
        raise pickle.UnpicklingError("a persistent object has no class name")
    module = Module()
    module.class_name = meta["class_name"]
    module.__setstate__(meta.get("state"))
    return module


def _scalar(dtype: Any, data: Any) -> Any:
    if not isinstance(dtype, _Dtype):
        raise pickle.UnpicklingError("a scalar has no dtype")
    return dtype.values(data)[0]


def _module_type(name: str) -> type[Module]:
    return type(name, (Module,), {"class_name": name})


# Where classes of modules are: in PyTorch, and in R3GAN's code, also under its earlier name.
_MODULES = (
    "torch.nn.modules.", "R3GAN.", "BaselineGAN.", "training.networks.",
    "training.networks_baseline.",
)  # fmt: skip


class _Unpickler(pickle.Unpickler):
    """Unpickler that resolves the names in `_KNOWN` and `_MODULES` without imports."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the replacement for a name. Raises UnsafeFileError for an unknown name."""
        known = _KNOWN.get((module, name))
        if known is not None:
            return known
        if f"{module}.".startswith(_MODULES) and name.isidentifier():
            return _module_type(name)
        if module.startswith("dnnlib.tflib"):
            raise UnsafeFileError(
                "this is a TensorFlow pickle of StyleGAN; convert it to PyTorch first, with "
                "legacy.py of stylegan2-ada-pytorch"
            )
        raise UnsafeFileError(
            f"the pickle refers to {module}.{name}, which would have to be executed"
        )

    def persistent_load(self, pid: Any) -> Any:
        """Raise pickle.UnpicklingError: NVIDIA's files have no persistent ids."""
        raise pickle.UnpicklingError(f"it refers to an object outside of the file: {pid!r:.60}")


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("dnnlib.util", "EasyDict"): PickledOptions,
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _Call(_persistent),
    ("torch.storage", "_load_from_bytes"): _Call(_storage),
    ("torch._utils", "_rebuild_tensor_v2"): _Call(_tensor),
    ("torch._utils", "_rebuild_parameter"): _Call(_parameter),
    ("torch", "device"): _Call(lambda *_: "device"),
    ("torch", "Size"): tuple,
    **{("torch", name): name for name in ("float32", "float16", "bfloat16")},
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    **{
        (f"numpy.{core}.multiarray", name): function
        for core in ("core", "_core")
        for name, function in (("scalar", _Call(_scalar)), ("_reconstruct", _Call(_Array)))
    },
}


def read_pickle(path: Path) -> Any:
    """Return the content of a pickle, with modules as `Network`. Raises ModelImportError."""
    try:
        with path.open("rb") as file:
            tree = _Unpickler(file).load()
        return _networks(tree)
    except ModelImportError as error:
        raise type(error)(f"{path}: {error}") from error
    except (OSError, MemoryError, RecursionError) as error:
        raise ModelImportError(f"{path} cannot be read: {type(error).__name__}") from error
    except Exception as error:
        # The pickle machine raises many kinds of errors for corrupt files.
        text = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise ModelImportError(
            f"{path} cannot be read as a pickle: {text}; it may be damaged or incomplete"
        ) from error


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
    config = modules[""] | {"modules": modules}
    return Network.of("", tensors, config, module.class_name)


def _plain(value: Any) -> bool:
    return isinstance(value, (bool, int, float, str, list, tuple, PickledOptions))


def _collect(
    module: Module,
    path: str,
    tensors: dict[str, Tensor],
    modules: dict[str, dict[str, Any]],
    depth: int,
) -> None:
    """Collect the tensors by name, and the plain attributes of the modules by path."""
    if depth > _MAX_DEPTH or len(modules) > _MAX_MODULES:
        raise pickle.UnpicklingError(
            f"its modules contain more than {_MAX_MODULES:,} modules or are nested deeper than "
            f"{_MAX_DEPTH}"
        )
    state = module.state
    attributes: dict[str, Any] = {"class": module.class_name}
    kwargs = state.get("_init_kwargs")
    for key, value in [*state.items(), *(kwargs.items() if isinstance(kwargs, dict) else ())]:
        if isinstance(key, str) and not key.startswith("_"):
            if isinstance(value, _Array):
                attributes[key] = value.values
            elif _plain(value):
                attributes[key] = value
    modules[path] = attributes
    prefix = f"{path}." if path else ""
    for part in ("_parameters", "_buffers"):
        values = state.get(part) or {}
        if isinstance(values, Mapping):
            for name, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"{prefix}{name}"] = value.detach()
    children = state.get("_modules") or {}
    if isinstance(children, Mapping):
        for name, value in children.items():
            if isinstance(value, Module):
                _collect(value, f"{prefix}{name}", tensors, modules, depth + 1)
