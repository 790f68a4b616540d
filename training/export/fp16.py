"""Weights in half precision: files of half the size, and what that does to the pictures.

Only the weights are rounded. The graph turns them back into float32 as it is loaded, and computes
in float32 as before: as fast, in as much memory, on every provider, and each row by itself.
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

from service.runtime.models.manifest import GENERATOR, Graph
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import ExecutionPlan, Provider, Session
from training.export.exporter import ExportError
from training.export.onnx_files import data_file, described, save

SEEDS = range(8)
# Of the peak, in dB. Below the first people see it; below the second it is another model.
GOOD = 40.0
LEAST = 30.0
# What is smaller than this is left as it is: biases, filters and constants of the graph.
_SMALLEST = 1024
_PLAN = ExecutionPlan(workers=1, threads=0, max_rows=8)

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Parity:
    """How far pictures are from those of the whole weights, in levels of 255."""

    largest: int
    mean: float
    psnr: float
    pictures: int

    @classmethod
    def of(cls, whole: Pixels, half: Pixels) -> Parity:
        """Compare pictures ``[N, H, W, C]``."""
        apart = np.abs(whole.astype(np.int16) - half)
        square = float(np.mean(apart.astype(np.float64) ** 2))
        psnr = 20 * math.log10(255) - 10 * math.log10(square) if square else math.inf
        return cls(int(apart.max()), float(apart.mean()), psnr, len(whole))

    @property
    def summary(self) -> str:
        """One line for people."""
        return (
            f"float16 weights: levels differ by {self.largest} at most and {self.mean:.3f} in the "
            f"mean, PSNR {self.psnr:.1f} dB, over {self.pictures} pictures"
        )

    def assert_good(self) -> None:
        """Raise ExportError where the pictures are others."""
        if self.psnr < LEAST:
            raise ExportError(
                f"{self.summary}: less than {LEAST:g} dB; export this model without --half"
            )


def pictures(folder: Path) -> Pixels:
    """Return what the model in `folder` makes of the first seeds ``[N, H, W, C]``."""
    model = Model(folder, Provider.CPU, _PLAN)
    if model.manifest.input is not None:
        roles = model.directions or (GENERATOR,)
        feeds = [(role, model.feeds([seed])) for role in roles for seed in SEEDS]
        return np.concatenate([model.run(role, feed)["pixels"] for role, feed in feeds])
    made = [model.generate([seed]) for seed in SEEDS]
    return np.concatenate(made)


def halve(folder: Path, graphs: Mapping[str, Graph]) -> dict[str, Graph]:
    """Rewrite the graphs in `folder` with their large weights in float16; return what they are.

    Raises ExportError for a weight that float16 cannot hold.
    """
    return {role: _halved(folder / graph.file) for role, graph in graphs.items()}


def _halved(path: Path) -> Graph:
    model = onnx.load(path)
    data_file(path).unlink(missing_ok=True)
    graph = model.graph
    whole = list(graph.initializer)
    del graph.initializer[:]
    casts = []
    for weight in whole:
        if weight.data_type != TensorProto.FLOAT or math.prod(weight.dims) < _SMALLEST:
            graph.initializer.append(weight)
            continue
        values = numpy_helper.to_array(weight)
        if not np.abs(values).max() <= np.finfo(np.float16).max:
            raise ExportError(
                f"{path.name}: {weight.name} has values up to {np.abs(values).max():.0f}, which "
                "float16 cannot hold; export this model without --half"
            )
        half = f"{weight.name}.half"
        graph.initializer.append(numpy_helper.from_array(values.astype(np.float16), half))
        casts.append(helper.make_node("Cast", [half], [weight.name], to=TensorProto.FLOAT))
        weight.ClearField("raw_data")
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    save(model, path)
    return described(path, Session(path, Provider.CPU, _PLAN))
