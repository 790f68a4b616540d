"""What the graphs of a model take and give: the contract's tensors, with their types and shapes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.runtime.latent.transforms import MOST
from service.runtime.models.manifest import (
    CLASS_INDEX,
    CLASS_WEIGHTS,
    GENERATOR,
    MAPPING,
    SYNTHESIS,
    TRANSFORM,
    Graph,
    Manifest,
)
from service.runtime.onnx.sessions import Array


@dataclass(frozen=True)
class Tensor:
    """An array ``[N, *row]`` of `dtype`, whose numbers are finite and in `least` to `most`.

    One that is `optional` may be left out.
    """

    name: str
    dtype: np.dtype[Any]
    row: tuple[int, ...] = ()
    least: float = -math.inf
    most: float = math.inf
    optional: bool = False

    @property
    def row_numbers(self) -> int:
        """Numbers in one row."""
        return math.prod(self.row)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.row_numbers * self.dtype.itemsize

    def fault(self, array: Array) -> str | None:
        """Return what is wrong with the numbers of `array`, or None: type and shape are its own."""
        if not np.isfinite(array).all():
            return "expected finite numbers"
        # NumPy compares in the array's type, so that a bound of 0.1 holds for 0.1 in float32.
        beyond = array[(array < self.least) | (array > self.most)]
        if beyond.size:
            return f"expected {self.least:g} to {self.most:g}, got {beyond[0]:g}"
        return None


@dataclass(frozen=True)
class Signature:
    """What is fed and what comes back, in the order of the graphs."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def signatures(manifest: Manifest) -> dict[str, Signature]:
    """Return the signatures of all roles that `Model.run` takes, `generator` first."""
    known = {tensor.name: tensor for tensor in _contract(manifest)}

    def from_to(first: Graph, last: Graph) -> Signature:
        return Signature(
            tuple(known[name] for name in first.inputs),
            tuple(known[name] for name in last.outputs if name in known),
        )

    graphs = manifest.graphs
    by_role = {role: from_to(graph, graph) for role, graph in graphs.items()}
    if (given := manifest.input) is not None and given.directions:
        return {GENERATOR: by_role[given.directions[0]]} | by_role
    if manifest.styles is None:
        return by_role
    whole = from_to(graphs[MAPPING], graphs[SYNTHESIS])
    if manifest.takes_transform:
        whole = Signature((*whole.inputs, known[TRANSFORM]), whole.outputs)
    return {GENERATOR: whole} | by_role


def _contract(manifest: Manifest) -> list[Tensor]:
    image, latent, styles = manifest.image, manifest.latent, manifest.styles
    tensors = [Tensor("pixels", np.dtype(np.uint8), (image.height, image.width, image.channels))]
    if (given := manifest.input) is not None:
        # Of the sizes that it can take, the one that it was trained on.
        row = (given.side, given.side)
        tensors.append(Tensor("image", np.dtype(np.uint8), (*row, given.channels)))
        tensors.append(Tensor("mask", np.dtype(np.uint8), row))
    if latent is not None:
        tensors.append(Tensor("z", np.dtype(np.float32), (latent.dimension,)))
        if (truncation := latent.truncation) is not None:
            bounds = truncation.minimum, truncation.maximum
            tensors.append(Tensor("truncation", np.dtype(np.float32), (), *bounds))
    if manifest.classes:
        last = len(manifest.classes) - 1
        tensors.append(Tensor(CLASS_INDEX, np.dtype(np.int64), (), 0, last))
        tensors.append(Tensor(CLASS_WEIGHTS, np.dtype(np.float32), (last + 1,), 0, 1))
    if styles is not None:
        shape = (len(styles.layers), styles.dimension)
        tensors.append(Tensor("w", np.dtype(np.float32), shape))
        moves = Tensor(TRANSFORM, np.dtype(np.float32), (3, 3), -MOST, MOST, optional=True)
        tensors.append(moves)
    return tensors
