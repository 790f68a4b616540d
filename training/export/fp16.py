"""Stores weights as fp16 to halve the file size, and measures the effect on the images.

Only the stored weights are rounded. The graph casts them to float32 when it is loaded and computes
in float32. Speed, memory use and the independence of rows are therefore the same as with float32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from service.runtime.models.model import Model
from service.runtime.models.parts.graphs import GENERATOR, Graph
from service.runtime.onnx.sessions import ExecutionPlan, Provider, Session
from training.export.errors import ExportError
from training.export.onnx_files import data_file, graph_entry, save

SEEDS = range(8)
# PSNR in dB. Below GOOD_PSNR the difference may be visible. Below MIN_PSNR the fp16 model is
# rejected.
GOOD_PSNR = 40.0
MIN_PSNR = 30.0
# Tensors with fewer values stay float32: biases, filters and constants of the graph.
_MIN_ELEMENTS = 1024
_PLAN = ExecutionPlan(workers=1, threads=0, max_rows=8)

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Fp16Difference:
    """The effect of fp16 weights on the images. Differences are in levels of 255."""

    largest: int
    mean: float
    psnr: float
    images: int

    @classmethod
    def between(cls, float32: Pixels, fp16: Pixels) -> Fp16Difference:
        """Compare two sets of images ``[N, H, W, C]``."""
        difference = np.abs(float32.astype(np.int16) - fp16)
        mse = float(np.mean(difference.astype(np.float64) ** 2))
        psnr = 20 * math.log10(255) - 10 * math.log10(mse) if mse else math.inf
        return cls(int(difference.max()), float(difference.mean()), psnr, len(float32))

    @property
    def summary(self) -> str:
        """The difference in one line."""
        return (
            f"fp16 weights: levels differ by at most {self.largest} and by {self.mean:.3f} on "
            f"average, PSNR {self.psnr:.1f} dB, over {self.images} images"
        )

    @property
    def warning(self) -> str | None:
        """A warning if the difference may be visible, otherwise None."""
        if self.psnr >= GOOD_PSNR:
            return None
        return f"the PSNR is below {GOOD_PSNR:g} dB: look at the images before you serve the model"

    def check(self) -> None:
        """Raise ExportError if the PSNR is below `MIN_PSNR`."""
        if self.psnr < MIN_PSNR:
            raise ExportError(
                f"{self.summary}; at least {MIN_PSNR:g} dB is required: import the model without "
                "--half"
            )


def sample_images(folder: Path) -> Pixels:
    """Return the images ``[N, H, W, C]`` of the model in `folder` for the first seeds."""
    model = Model(folder, Provider.CPU, _PLAN)
    if model.manifest.input is not None:
        roles = model.directions or (GENERATOR,)
        feeds = [(role, model.feeds([seed])) for role in roles for seed in SEEDS]
        return np.concatenate([model.run(role, feed)["pixels"] for role, feed in feeds])
    return np.concatenate([model.generate([seed]) for seed in SEEDS])


def convert_to_fp16(folder: Path, graphs: Mapping[str, Graph]) -> dict[str, Graph]:
    """Rewrite the graphs in `folder` with fp16 weights and return their new manifest entries.

    Raises ExportError for a weight beyond the range of fp16.
    """
    return {role: _convert(folder / graph.file) for role, graph in graphs.items()}


def _convert(path: Path) -> Graph:
    model = onnx.load(path)
    data_file(path).unlink(missing_ok=True)
    graph = model.graph
    weights = list(graph.initializer)
    del graph.initializer[:]
    casts = []
    for weight in weights:
        if weight.data_type != TensorProto.FLOAT or math.prod(weight.dims) < _MIN_ELEMENTS:
            graph.initializer.append(weight)
            continue
        values = numpy_helper.to_array(weight)
        if not np.abs(values).max() <= np.finfo(np.float16).max:
            raise ExportError(
                f"{path.name}: the weight {weight.name} has values up to "
                f"{np.abs(values).max():.0f}, beyond the range of fp16; import the model "
                "without --half"
            )
        name = f"{weight.name}.half"
        graph.initializer.append(numpy_helper.from_array(values.astype(np.float16), name))
        casts.append(helper.make_node("Cast", [name], [weight.name], to=TensorProto.FLOAT))
        weight.ClearField("raw_data")
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    save(model, path)
    return graph_entry(path, Session(path, Provider.CPU, _PLAN))
