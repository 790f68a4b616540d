"""Reading a checkpoint as data: nothing in it is run, whatever it says.

- ``.safetensors``: tensors and nothing else.
- ``torch.save``'s files, by `torch.load` with ``weights_only``, which knows a short list of globals
  and refuses every other.
- NVIDIA's pickles, which carry Python source for their own loader to execute: see `pickles.py`.
"""

from __future__ import annotations

import argparse
import json
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from training.importers.errors import ModelImportError, UnsafeFileError
from training.importers.reading.pickles import read_pickle
from training.importers.reading.weights import natural

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_PICKLE = b"\x80"
_ZIP = b"PK\x03\x04"
# What trainings save beside weights, and what runs nothing when it is built.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    np.ndarray,
    np._core.multiarray.scalar,  # type: ignore[attr-defined]
    np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    *{type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")},
]


def read_file(path: Path) -> Any:
    """Return what a checkpoint holds: dictionaries, lists, tensors, numbers and words.

    Raises ModelImportError, in one line, for everything that is no such file.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise ModelImportError(f"{path} cannot be read: {error.strerror}") from error
    if head.startswith(_ZIP):
        return _read_archive(path)
    if head.startswith(_PICKLE):
        if _is_legacy(path):
            return _read_torch(path, mmap=False)
        return read_pickle(path)
    if len(head) > 8 and head[8:9] == b"{":
        return _read_safetensors(path)
    raise ModelImportError(
        f"{path} is no checkpoint that can be read: it is neither a PyTorch file, a pickle, "
        "safetensors nor ONNX"
    )


def _read_archive(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except Exception as error:
        # Mutated archives fail in as many ways as files do.
        raise ModelImportError(f"{path} is a broken archive: {_short(error)}") from error
    names = [member.filename for member in members]
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise UnsafeFileError(
            f"{path} is a TorchScript archive: it holds code, and code is not run here; save the "
            "module's state_dict() instead"
        )
    if not any(name.endswith("data.pkl") for name in names):
        raise ModelImportError(f"{path} is an archive without a checkpoint in it (no data.pkl)")
    # PyTorch stores, and what is packed may unpack to more than there is memory for.
    packed = [member for member in members if member.compress_type != zipfile.ZIP_STORED]
    if packed or sum(member.file_size for member in members) > path.stat().st_size:
        name = packed[0].filename if packed else names[0]
        raise ModelImportError(
            f"{path}: {name!r:.80} in it is compressed, which no torch.save does; load it and save "
            "it again"
        )
    return _read_torch(path, mmap=True)


def _is_legacy(path: Path) -> bool:
    """Whether this is a file of `torch.save` from before PyTorch 1.6."""
    with path.open("rb") as file:
        head = file.read(32)
    return _LEGACY_MAGIC.to_bytes(10, "little") in head


def _read_torch(path: Path, *, mmap: bool) -> Any:
    try:
        with safe_globals(_HARMLESS), warnings.catch_warnings():
            # Of protocols and storages that are old: nothing that a user could mend.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except MemoryError as error:
        raise ModelImportError(f"{path} asks for more memory than there is") from error
    except Exception as error:
        # Mutated files fail in any way; none of them may come out as a stack trace.
        names = _unsafe_names(path, error)
        if names:
            raise UnsafeFileError(
                f"{path} names {', '.join(names)}, which would have to be run; only weights are "
                "read: save a state_dict() instead"
            ) from error
        raise ModelImportError(f"{path} cannot be read as a checkpoint: {_short(error)}") from error


def _unsafe_names(path: Path, error: Exception) -> list[str]:
    named = re.search(r"GLOBAL ([\w.]+) (?:was not|whose module)", str(error))
    try:
        with safe_globals(_HARMLESS):
            found = get_unsafe_globals_in_checkpoint(path)
    except Exception:  # noqa: BLE001 - as above
        found = []
    return sorted(found) or ([named.group(1)] if named else [])


def _short(error: Exception) -> str:
    """The first sentence of an error: PyTorch's go on for a page."""
    # What its reader of weights found wrong stands after how to do without it.
    text = str(error).rpartition("WeightsUnpickler error: ")[2].strip() or type(error).__name__
    return text.splitlines()[0].split(". ")[0][:200]


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelImportError(f"{path} cannot be read as safetensors: {_short(error)}") from error
    # The format does not keep an order; numbered layers are in that of their numbers.
    return {name: tensors[name] for name in sorted(tensors, key=natural)}


def side_car(path: Path) -> Path | None:
    """Return the configuration that lies beside a checkpoint, where there is one.

    That of its own name, one that is called config, or the only YAML file in the folder.
    """
    kinds = (".yaml", ".yml", ".json")
    names = [f"{path.stem}{kind}" for kind in kinds]
    names += [".config.json", *(f"config{kind}" for kind in kinds)]
    named = [path.parent / name for name in names if (path.parent / name).is_file()]
    others = [each for each in sorted(path.parent.glob("*.y*ml")) if each.is_file()]
    found = named or (others if len(others) == 1 else [])
    return next((each for each in found if each != path), None)


def read_side_car(path: Path) -> dict[str, Any]:
    """Read a configuration beside a checkpoint, JSON or YAML. Raises ModelImportError."""
    try:
        text = path.read_text()
        said = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ModelImportError(f"{path} cannot be read: {_short(error)}") from error
    if not isinstance(said, dict):
        raise ModelImportError(f"{path} holds no settings")
    return said
