"""A graph as it is in its file, with the steps around it done in NumPy: what a wrapped one is held
against.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from service.runtime.models.manifest import CLASS_WEIGHTS
from service.runtime.onnx.sessions import Array
from training.importers.errors import ModelImportError
from training.importers.onnx.ports import PIXELS, Port
from training.importers.onnx.wrapping import Plan

Feeds = Mapping[str, Array]
Pixels = NDArray[np.uint8]

_FATAL = 4
# Of values beyond black and white, what rounding explains.
_BEYOND = 0.5


class Trial:
    """A graph that may fail, and says so to nobody but who runs it."""

    def __init__(self, model: ModelProto) -> None:
        """Load the graph. Raises ModelImportError."""
        options = ort.SessionOptions()
        # ONNX Runtime writes its errors on the terminal too; here they are part of finding out.
        options.log_severity_level = _FATAL
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            written = model.SerializeToString()
            self._session = ort.InferenceSession(
                written, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            # Neither protobuf nor ONNX Runtime has a base class for what it raises.
            raise ModelImportError(f"ONNX Runtime refuses the graph: {short(error)}") from error
        self._outputs = [each.name for each in self._session.get_outputs()]

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Run one batch. Raises ModelImportError."""
        try:
            made = self._session.run(None, dict(feeds))
        except Exception as error:
            raise ModelImportError(f"the graph cannot be run: {short(error)}") from error
        return dict(zip(self._outputs, map(np.asarray, made), strict=True))


def short(error: Exception) -> str:
    """The first line of what ONNX Runtime says, without its preamble."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    said = lines[0] if lines else type(error).__name__
    return said.rpartition("Status Message: ")[2][:200]


class Original:
    """A graph and how its ports are understood."""

    def __init__(self, model: ModelProto) -> None:
        """Load the graph. Raises ModelImportError."""
        self._trial = Trial(model)

    def run(self, plan: Plan, feeds: Feeds) -> Array:
        """Return what the graph gives for rows of the contract, all of them at once.

        Raises ModelImportError.
        """
        given = {plan.ports[name].name: _as_taken(plan, name, feeds[name]) for name in feeds}
        return self._trial.run(given)[plan.ports[PIXELS].name]

    def values(self, plan: Plan, feeds: Feeds) -> Array:
        """Return what the graph gives for rows, run in the batch that it says.

        Raises ModelImportError for numbers that are none.
        """
        count, step = len(next(iter(feeds.values()))), plan.batch or 1
        parts = []
        for start in range(0, count, step):
            at = [min(i, count - 1) for i in range(start, start + step)]
            made = self.run(plan, {name: array[at] for name, array in feeds.items()})
            parts.append(made[: min(step, count - start)])
        values = np.concatenate(parts)
        if not np.isfinite(values).all():
            raise ModelImportError("the graph gives numbers that are not finite")
        return values


def levels(plan: Plan, values: Array) -> NDArray[np.float64]:
    """Return values of a graph as pictures ``[N, H, W, C]`` of 0 to 255, neither cut nor whole."""
    low, high = plan.comes_out
    made = (values.astype(np.float64) - low) * (255 / (high - low))
    if plan.unflattened is not None:
        made = made.reshape(-1, *plan.unflattened)
    if made.ndim == 3:
        return made[..., None]
    return made.transpose(0, 2, 3, 1) if plan.out_first else made


def to_pixels(made: NDArray[np.float64]) -> Pixels:
    """Round levels as a wrapped graph does."""
    return np.floor(made.clip(0, 255) + 0.5).astype(np.uint8)


def share_beyond(made: NDArray[np.float64]) -> float:
    """Return how many of the levels lie beyond black or white."""
    return float(np.mean((made < -_BEYOND) | (made > 255 + _BEYOND)))


def _as_taken(plan: Plan, name: str, array: Array) -> Array:
    """Return rows of an input of the contract as the graph takes them."""
    port = plan.ports[name]
    value: NDArray[Any] = array
    if name == "image":
        value = _picture(plan, port, array)
    elif name == "mask":
        value = array > 127
        if len(port.shape) == 4:
            value = value[:, None] if plan.in_first else value[..., None]
    elif not port.shape:
        value = array[0]
    else:
        if name == "z" and plan.unit:
            value = (array + 1) / 2
        rest = [side or 1 for side in port.shape[1:]]
        if name in ("z", CLASS_WEIGHTS) and len(rest) == 1:
            rest = [array.shape[1]]
        value = value.reshape(len(array), *rest)
    return np.asarray(value).astype(port.dtype)


def _picture(plan: Plan, port: Port, array: Array) -> Array:
    low, high = plan.goes_in
    value = array if port.type == TensorProto.UINT8 else array * ((high - low) / 255) + low
    if len(port.shape) == 3:
        return value[..., 0]
    return value.transpose(0, 3, 1, 2) if plan.in_first else value
