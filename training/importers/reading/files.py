"""Reads a checkpoint as data. Nothing in it is executed.

- ``.safetensors`` files contain only tensors.
- Files of ``torch.save`` are read by `torch.load` with ``weights_only``, which allows only a short
  list of globals.
- NVIDIA's pickles contain Python source that NVIDIA's loader executes; `pickles.py` reads them
  without executing it.
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

from training.checkpoints import damaged_member
from training.importers.errors import ModelImportError, UnsafeFileError
from training.importers.reading.foreign_files import describe_foreign
from training.importers.reading.pickles import read_pickle
from training.importers.reading.weights import natural_key

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_PICKLE = b"\x80"
_ZIP = b"PK\x03\x04"
# Types that training scripts save along with weights. Creating them executes no code.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    np.ndarray,
    np._core.multiarray.scalar,  # type: ignore[attr-defined]
    np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    *{type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")},
]


def read_file(path: Path) -> Any:
    """Return the content of a checkpoint: dictionaries, lists, tensors, numbers and strings.

    Raises ModelImportError with a one-line message for unsupported or corrupt files, and
    UnsafeFileError for files that would execute code.
    """
    head = b""
    try:
        if not path.is_dir():
            with path.open("rb") as file:
                head = file.read(64)
    except OSError as error:
        raise ModelImportError(f"{path} cannot be read: {error.strerror}") from error
    if foreign := describe_foreign(path, head):
        raise ModelImportError(f"{path} {foreign}")
    if head.startswith(_ZIP):
        return _read_archive(path)
    if head.startswith(_PICKLE):
        if _is_legacy(path):
            return _read_torch(path, mmap=False)
        return read_pickle(path)
    if len(head) > 8 and head[8:9] == b"{":
        return _read_safetensors(path)
    raise ModelImportError(
        f"{path} is not a checkpoint: expected a PyTorch file, a pickle, safetensors or ONNX"
    )


def _read_archive(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except Exception as error:
        # zipfile raises many kinds of errors for corrupt archives.
        raise ModelImportError(
            f"{path} is damaged: its archive is cut off or corrupt ({_summary(error)}); copy or "
            "download it again"
        ) from error
    names = [member.filename for member in members]
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise UnsafeFileError(
            f"{path} is a TorchScript archive with code, which is never executed: save the "
            "module's state_dict() instead"
        )
    if not any(name.endswith("data.pkl") for name in names):
        raise ModelImportError(f"{path} is an archive without a checkpoint (it has no data.pkl)")
    # torch.save does not compress. Compressed data could expand beyond the memory.
    compressed = [member for member in members if member.compress_type != zipfile.ZIP_STORED]
    if compressed or sum(member.file_size for member in members) > path.stat().st_size:
        name = compressed[0].filename if compressed else names[0]
        raise ModelImportError(
            f"{path}: its member {name!r:.80} is compressed, which torch.save never does; load the "
            "checkpoint and save it again"
        )
    if damaged := damaged_member(path):
        raise ModelImportError(
            f"{path} is damaged: the checksum of its member {damaged!r:.80} does not fit; copy or "
            "download it again"
        )
    return _read_torch(path, mmap=True)


def _is_legacy(path: Path) -> bool:
    """True for a file that was written by `torch.save` of a PyTorch version before 1.6."""
    with path.open("rb") as file:
        head = file.read(32)
    return _LEGACY_MAGIC.to_bytes(10, "little") in head


def _read_torch(path: Path, *, mmap: bool) -> Any:
    try:
        with safe_globals(_HARMLESS), warnings.catch_warnings():
            # PyTorch warns about old protocols and storages, which the user cannot change.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except MemoryError as error:
        raise ModelImportError(f"{path} needs more memory than this machine has") from error
    except Exception as error:
        # torch.load raises many kinds of errors for corrupt files.
        names = _unsafe_names(path, error)
        if names:
            raise UnsafeFileError(
                f"{path} refers to {', '.join(names)}, which would have to be executed; only "
                "weights are read: save a state_dict() instead"
            ) from error
        raise ModelImportError(
            f"{path} cannot be read as a checkpoint: {_summary(error)}; it is damaged or "
            "incomplete, or was not written by PyTorch"
        ) from error


def _unsafe_names(path: Path, error: Exception) -> list[str]:
    named = re.search(r"GLOBAL ([\w.]+) (?:was not|whose module)", str(error))
    try:
        with safe_globals(_HARMLESS):
            found = get_unsafe_globals_in_checkpoint(path)
    except Exception:  # noqa: BLE001 - as in `_read_torch`
        found = []
    return sorted(found) or ([named.group(1)] if named else [])


def _summary(error: Exception) -> str:
    """Return the first sentence of an error message; PyTorch's are a page long."""
    # The cause comes last, after advice on how to load without `weights_only`.
    text = str(error).rpartition("WeightsUnpickler error: ")[2].strip() or type(error).__name__
    return text.splitlines()[0].split(". ")[0][:200]


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelImportError(
            f"{path} cannot be read as safetensors: {_summary(error)}; it is damaged or incomplete"
        ) from error
    # The format does not preserve the order of the tensors, but layers are numbered.
    return {name: tensors[name] for name in sorted(tensors, key=natural_key)}


def find_config(path: Path) -> Path | None:
    """Return the training configuration in the folder of a checkpoint, or None.

    This is a file with the checkpoint's name, a file named config, or the only YAML file.
    """
    suffixes = (".yaml", ".yml", ".json")
    names = [f"{path.stem}{suffix}" for suffix in suffixes]
    names += [".config.json", *(f"config{suffix}" for suffix in suffixes)]
    named = [path.parent / name for name in names if (path.parent / name).is_file()]
    yaml_files = [each for each in sorted(path.parent.glob("*.y*ml")) if each.is_file()]
    found = named or (yaml_files if len(yaml_files) == 1 else [])
    return next((each for each in found if each != path), None)


def read_config(path: Path) -> dict[str, Any]:
    """Return a training configuration in JSON or YAML. Raises ModelImportError."""
    try:
        text = path.read_text()
        config = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ModelImportError(f"{path} cannot be read: {_summary(error)}") from error
    if not isinstance(config, dict):
        raise ModelImportError(f"{path} is not a configuration: expected keys with values")
    return config
