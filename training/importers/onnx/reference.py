"""Runs an imported graph, with pre- and postprocessing in NumPy.

A wrapped graph is compared with this reference.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from service.runtime.models.parts.graphs import CLASS_WEIGHTS
from service.runtime.onnx.sessions import Array
from training.importers.errors import ModelImportError
from training.importers.onnx.ports import PIXELS, Port
from training.importers.onnx.wrapping import GraphInterface

Feeds = Mapping[str, Array]
Pixels = NDArray[np.uint8]

_FATAL = 4
_ERROR_CODE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")
_CODE_LOCATION = re.compile(r"/onnxruntime_src/.*?\) (?=[A-Z])")
_TOO_NEW = (
    f" (ONNX Runtime {ort.__version__}): update it, or export the graph with an older opset and IR "
    "version"
)
# Levels up to this far beyond black or white count as rounding errors.
_ROUNDING = 0.5


class QuietSession:
    """An ONNX Runtime session that raises errors without logging them."""

    def __init__(self, model: ModelProto) -> None:
        """Load the graph. Raises ModelImportError."""
        options = ort.SessionOptions()
        # ONNX Runtime also writes its errors to the terminal.
        options.log_severity_level = _FATAL
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            content = model.SerializeToString()
            self._session = ort.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            # The errors of protobuf and ONNX Runtime have no common base class.
            raise ModelImportError(f"ONNX Runtime rejects the graph: {_summary(error)}") from error
        self._outputs = [each.name for each in self._session.get_outputs()]

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Run one batch. Raises ModelImportError."""
        try:
            values = self._session.run(None, dict(feeds))
        except Exception as error:
            raise ModelImportError(f"the graph cannot be run: {_summary(error)}") from error
        return dict(zip(self._outputs, map(np.asarray, values), strict=True))


def _summary(error: Exception) -> str:
    """Return the first line of an ONNX Runtime error, without its preamble."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    text = _CODE_LOCATION.sub("", _ERROR_CODE.sub("", text.rpartition("Status Message: ")[2]))
    is_too_new = "Unsupported model IR version" in text or "under development" in text
    return text[:300] + (_TOO_NEW if is_too_new else "")


class OriginalGraph:
    """Runs an imported graph on inputs in the form that the service uses."""

    def __init__(self, model: ModelProto) -> None:
        """Load the graph. Raises ModelImportError."""
        self._session = QuietSession(model)

    def run(self, interface: GraphInterface, feeds: Feeds) -> Array:
        """Return the values of the image output for all rows in one batch.

        Raises ModelImportError.
        """
        return self._session.run(self.inputs(interface, feeds))[interface.ports[PIXELS].name]

    def inputs(self, interface: GraphInterface, feeds: Feeds) -> dict[str, Array]:
        """Return the inputs of the graph for `feeds`, by the graph's names."""
        ports = interface.ports
        return {ports[name].name: _graph_input(interface, name, feeds[name]) for name in feeds}

    def values(self, interface: GraphInterface, feeds: Feeds) -> Array:
        """Return the values of the image output, run in batches of the graph's declared size.

        Raises ModelImportError if the graph fails or a value is not finite.
        """
        count, size = len(next(iter(feeds.values()))), interface.batch or 1
        parts = []
        for start in range(0, count, size):
            # The last batch is filled up with its last row.
            indices = [min(i, count - 1) for i in range(start, start + size)]
            part = self.run(interface, {name: array[indices] for name, array in feeds.items()})
            parts.append(part[: min(size, count - start)])
        values = np.concatenate(parts)
        if not np.isfinite(values).all():
            raise ModelImportError("the graph returns values that are not finite")
        return values


def to_levels(interface: GraphInterface, values: Array) -> NDArray[np.float64]:
    """Return output values as images ``[N, H, W, C]`` in [0, 255], neither clipped nor rounded."""
    low, high = interface.output_range
    levels = (values.astype(np.float64) - low) * (255 / (high - low))
    if interface.unflattened is not None:
        levels = levels.reshape(-1, *interface.unflattened)
    if levels.ndim == 3:
        return levels[..., None]
    return levels.transpose(0, 2, 3, 1) if interface.output_channels_first else levels


def to_pixels(levels: NDArray[np.float64]) -> Pixels:
    """Clip and round levels to uint8, in the same way as a wrapped graph."""
    return np.floor(levels.clip(0, 255) + 0.5).astype(np.uint8)


def clipped_share(levels: NDArray[np.float64]) -> float:
    """Return the share of levels beyond black or white."""
    return float(np.mean((levels < -_ROUNDING) | (levels > 255 + _ROUNDING)))


def _graph_input(interface: GraphInterface, name: str, array: Array) -> Array:
    """Convert rows of an input from the service's form to the form that the graph takes."""
    port = interface.ports[name]
    value: NDArray[Any] = array
    if name == "image":
        value = _image(interface, port, array)
    elif name == "mask":
        value = array > 127
        if len(port.shape) == 4:
            value = value[:, None] if interface.input_channels_first else value[..., None]
    elif not port.shape:
        value = array[0]
    else:
        if name == "z" and interface.unit_latent:
            value = (array + 1) / 2
        row_shape = [side or 1 for side in port.shape[1:]]
        if name in ("z", CLASS_WEIGHTS) and len(row_shape) == 1:
            row_shape = [array.shape[1]]
        value = value.reshape(len(array), *row_shape)
    return np.asarray(value).astype(port.dtype)


def _image(interface: GraphInterface, port: Port, array: Array) -> Array:
    low, high = interface.input_range
    value = array if port.type == TensorProto.UINT8 else array * ((high - low) / 255) + low
    if len(port.shape) == 3:
        return value[..., 0]
    return value.transpose(0, 3, 1, 2) if interface.input_channels_first else value
