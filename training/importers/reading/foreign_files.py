"""Files that are no PyTorch checkpoints: what they are, and how their network gets to ONNX."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

_HDF5 = b"\x89HDF\r\n\x1a\n"
_GRAPH = "python -m tf2onnx.convert"


def describe_foreign(path: Path, head: bytes) -> str | None:
    """Return what a file or folder is and what to do with it; None if it may be a checkpoint.

    `head` is the beginning of a file.
    """
    target = f"{path.stem or path.name}.onnx"
    return next((text for find in _KINDS if (text := find(path, head, target))), None)


def _empty(path: Path, head: bytes, _: str) -> str | None:
    if path.is_file() and not head:
        return "is empty: copy or download it again"
    return None


def _git_lfs(_: Path, head: bytes, __: str) -> str | None:
    if head.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the file itself: run git lfs pull in its repository"
    return None


def _web_page(_: Path, head: bytes, __: str) -> str | None:
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html", b"<?xml")):
        return "is a web page, not a checkpoint: download the file itself"
    return None


def _keras(path: Path, head: bytes, target: str) -> str | None:
    if head.startswith(_HDF5):
        return (
            "is an HDF5 file, which Keras writes; convert it with tf2onnx: "
            f"{_GRAPH} --keras {path.name} --output {target}, and import {target}. A file with "
            "weights only needs its network first: load them in Keras and save the whole model"
        )
    if head.startswith(b"PK") and "config.json" in _members(path):
        return (
            "is a Keras model; convert it with Keras and tf2onnx: keras.models.load_model("
            f"'{path.name}').export('saved_model'), then {_GRAPH} --saved-model saved_model "
            f"--output {target}, and import {target}"
        )
    return None


def _saved_model(path: Path, _: bytes, __: str) -> str | None:
    folder = path if path.is_dir() else path.parent
    if (folder / "saved_model.pb").is_file() and (path.is_dir() or path.suffix == ".pb"):
        target = f"{folder.resolve().name}.onnx"
        return (
            f"is a SavedModel of TensorFlow; convert it with tf2onnx: {_GRAPH} --saved-model "
            f"{folder} --output {target}, and import {target}"
        )
    return None


def _tensorflow(path: Path, head: bytes, target: str) -> str | None:
    if head[4:8] == b"TFL3":
        return (
            f"is a TensorFlow Lite model; convert it with tf2onnx: {_GRAPH} --tflite {path.name} "
            f"--output {target}, and import {target}"
        )
    if path.suffix in (".index", ".meta") or ".data-00000" in path.name:
        name = path.name.partition(".data-")[0].removesuffix(".index").removesuffix(".meta")
        return (
            f"is part of a checkpoint of TensorFlow; convert it with tf2onnx: {_GRAPH} "
            f"--checkpoint {name}.meta --inputs … --outputs … --output {name}.onnx, and import "
            f"{name}.onnx"
        )
    return None


def _tensorflow_js(path: Path, head: bytes, _: str) -> str | None:
    file = path / "model.json" if path.is_dir() else path
    if file.suffix == ".bin" and not head.startswith((b"PK", b"\x80")):
        file = path.with_name("model.json")
    kind = _tfjs_format(file)
    if kind is None:
        return None
    target = f"{file.resolve().parent.name}.onnx"
    if kind == "graph-model":
        return (
            f"is a graph model of TensorFlow.js; convert it with tf2onnx: {_GRAPH} --tfjs {file} "
            f"--output {target}, and import {target}"
        )
    return (
        "is a layers model of TensorFlow.js; convert it with tensorflowjs_converter and tf2onnx: "
        "tensorflowjs_converter --input_format tfjs_layers_model --output_format keras_saved_model "
        f"{file} saved_model, then {_GRAPH} --saved-model saved_model --output {target}, "
        f"and import {target}"
    )


def _tfjs_format(file: Path) -> str | None:
    """Return the format of a model of TensorFlow.js: graph-model or layers-model; or None."""
    if file.suffix != ".json" or not file.is_file():
        return None
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not {"modelTopology", "weightsManifest"} & set(content):
        return None
    return "graph-model" if content.get("format") == "graph-model" else "layers-model"


def _folder(path: Path, _: bytes, __: str) -> str | None:
    if not path.is_dir():
        return None
    files = sorted(
        each.name
        for each in path.iterdir()
        if each.suffix in (".pt", ".pth", ".ckpt", ".safetensors", ".pkl", ".onnx", ".bin", ".tar")
    )
    found = f"; it contains {', '.join(files[:5])}" if files else ""
    return f"is a folder; expected the file of a checkpoint{found}"


def _members(path: Path) -> set[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return set(archive.namelist())
    except Exception:  # noqa: BLE001 - zipfile raises many kinds of errors for corrupt archives
        return set()


# Folders last: the others recognize folders by their content.
_KINDS: tuple[Callable[[Path, bytes, str], str | None], ...] = (
    _empty,
    _git_lfs,
    _web_page,
    _keras,
    _saved_model,
    _tensorflow,
    _tensorflow_js,
    _folder,
)
