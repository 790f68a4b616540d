"""The inputs and outputs of a model's graphs: the tensors of the contract with types and shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.runtime.formatting import exact
from service.runtime.latent.sources import class_feed
from service.runtime.latent.transforms import MAX_ABS_VALUE
from service.runtime.models.manifest import Manifest
from service.runtime.models.parts.graphs import (
    CLASS_INDEX,
    CLASS_WEIGHTS,
    GENERATOR,
    MAPPING,
    SYNTHESIS,
    TRANSFORM,
    Graph,
    encoder_output,
)
from service.runtime.onnx.sessions import Array


@dataclass(frozen=True)
class Tensor:
    """An array ``[N, *row]`` of `dtype` with finite values in ``[minimum, maximum]``.

    An `optional` tensor may be omitted: `with_defaults` and `Model.run` fill it in. `default` is
    its value if that is the same number for every row. Every row of a tensor with `nonzero` must
    have a value other than 0.
    """

    name: str
    dtype: np.dtype[Any]
    row: tuple[int, ...] = ()
    minimum: float = -math.inf
    maximum: float = math.inf
    optional: bool = False
    default: float | None = None
    nonzero: bool = False

    @property
    def row_numbers(self) -> int:
        """Values per row."""
        return math.prod(self.row)

    @property
    def row_bytes(self) -> int:
        """Bytes per row."""
        return self.row_numbers * self.dtype.itemsize

    def value_error(self, array: Array) -> str | None:
        """Return why the values of `array` are invalid, or None. Type and shape are not checked."""
        if not np.isfinite(array).all():
            return "expected finite numbers"
        # NumPy compares in the type of the array, so that 0.1 in float32 passes a bound of 0.1.
        invalid = array[(array < self.minimum) | (array > self.maximum)]
        if invalid.size:
            return (
                f"expected {exact(self.minimum)} to {exact(self.maximum)}, got {exact(invalid[0])}"
            )
        if self.nonzero and not array.any(axis=tuple(range(1, array.ndim))).all():
            return "expected at least one value above 0 in every row"
        return None


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs, in the order of the graphs."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def signatures(manifest: Manifest) -> dict[str, Signature]:
    """Return the signatures of all roles that `Model.run` accepts, the main role first.

    Empty for a text encoder: its rows have no fixed length.
    """
    if manifest.text_encoder is not None:
        return {}
    tensors = {tensor.name: tensor for tensor in _contract(manifest)}

    def from_to(first: Graph, last: Graph) -> Signature:
        return Signature(
            tuple(tensors[name] for name in first.inputs),
            tuple(tensors[name] for name in last.outputs if name in tensors),
        )

    graphs = manifest.graphs
    by_role = {role: from_to(graph, graph) for role, graph in graphs.items()}
    if (spec := manifest.input) is not None and spec.directions:
        return {GENERATOR: by_role[spec.directions[0]]} | by_role
    if manifest.styles is None:
        return by_role
    generator = from_to(graphs[MAPPING], graphs[SYNTHESIS])
    if manifest.takes_transform:
        generator = Signature((*generator.inputs, tensors[TRANSFORM]), generator.outputs)
    return {GENERATOR: generator} | by_role


def with_defaults(
    manifest: Manifest, signature: Signature, inputs: Mapping[str, Array]
) -> dict[str, Array]:
    """Return `inputs` with the optional inputs that are missing, as `/v1/generate` sets them for z.

    The class of row i is i modulo the number of classes, and the truncation is the model's default.
    A missing transform is left out.
    """
    complete = dict(inputs)
    rows = len(next(iter(inputs.values())))
    for tensor in signature.inputs:
        if tensor.name in inputs:
            continue
        if tensor.name in (CLASS_INDEX, CLASS_WEIGHTS):
            count = len(manifest.classes)
            complete |= class_feed([{row % count: 1.0} for row in range(rows)], manifest)
        elif tensor.default is not None:
            complete[tensor.name] = np.full((rows, *tensor.row), tensor.default, tensor.dtype)
    return complete


def _contract(manifest: Manifest) -> list[Tensor]:
    latent, styles, output = manifest.latent, manifest.styles, manifest.output
    tensors = [Tensor(output.tensor, output.dtype, output.row)]
    if (text := manifest.text) is not None:
        tensors += [
            Tensor("token", np.dtype(np.int64), (), 0, text.size - 1),
            Tensor("state", np.dtype(np.float32), (text.state,)),
            Tensor("new_state", np.dtype(np.float32), (text.state,)),
        ]
    if (text_input := manifest.text_input) is not None:
        tensors.append(Tensor("text", np.dtype(np.float32), (text_input.dimension,)))
    if (spec := manifest.input) is not None:
        # The size of the training images, even if others are possible.
        row = spec.size
        tensors.append(Tensor("image", np.dtype(np.uint8), (*row, spec.channels)))
        tensors.append(Tensor("mask", np.dtype(np.uint8), row))
    elif manifest.added_roles:
        # The encoder and the discriminator take images like those of the model.
        shape = tensors[0].row
        tensors += [Tensor(name, np.dtype(np.uint8), shape) for name in ("image", "reconstruction")]
        tensors.append(Tensor("score", np.dtype(np.float32)))
        rows: dict[str, tuple[int, ...]] = {}
        if latent is not None:
            rows["z"] = (latent.dimension,)
        if styles is not None:
            rows["w"] = (len(styles.layers), styles.dimension)
        tensors += [
            Tensor(encoder_output(space), np.dtype(np.float32), row) for space, row in rows.items()
        ]
    if latent is not None:
        tensors.append(Tensor("z", np.dtype(np.float32), (latent.dimension,)))
        if (truncation := latent.truncation) is not None:
            bounds = truncation.minimum, truncation.maximum
            tensors.append(
                Tensor(
                    "truncation",
                    np.dtype(np.float32),
                    (),
                    *bounds,
                    optional=True,
                    default=truncation.default,
                )
            )
    if manifest.classes:
        last = len(manifest.classes) - 1
        tensors.append(Tensor(CLASS_INDEX, np.dtype(np.int64), (), 0, last, optional=True))
        tensors.append(
            Tensor(
                CLASS_WEIGHTS,
                np.dtype(np.float32),
                (last + 1,),
                0,
                1,
                optional=True,
                nonzero=True,
            )
        )
    if styles is not None:
        tensors.append(Tensor("w", np.dtype(np.float32), (len(styles.layers), styles.dimension)))
        transform = Tensor(
            TRANSFORM, np.dtype(np.float32), (3, 3), -MAX_ABS_VALUE, MAX_ABS_VALUE, optional=True
        )
        tensors.append(transform)
    return tensors
