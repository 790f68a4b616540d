"""Style mixing (StyleGAN, arXiv:1812.04948, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from service.runtime.latent.layers import layers_from_parameter, layers_parameter
from service.runtime.latent.sources import LatentSource
from service.runtime.models.manifest import Manifest
from service.runtime.onnx.sessions import Array


def mix_styles(rows: Array, columns: Array, layers: Mapping[int, float]) -> Array:
    """Combine every row with every column: at `layers`, blend in the column's styles by weight.

    `rows` ``[R, layers, w_dim]`` and `columns` ``[C, layers, w_dim]`` give
    ``[R * C, layers, w_dim]`` in row-major order. `layers` maps a layer index to its weight: 1 is
    exactly the column's style, 0 exactly the row's. Other layers keep the row's styles.
    """
    mixed = np.repeat(rows, len(columns), axis=0)
    indices = list(layers)
    weights = np.array(list(layers.values()), rows.dtype)[:, None]
    column_styles = np.tile(columns[:, indices], (len(rows), 1, 1))
    mixed[:, indices] = (1 - weights) * mixed[:, indices] + weights * column_styles
    return mixed


@dataclass(frozen=True)
class StyleMixing:
    """The sources and the layer weights of a style mix; see `mix_styles`."""

    rows: tuple[LatentSource, ...]
    columns: tuple[LatentSource, ...]
    layers: Mapping[int, float]

    def parameters(self, manifest: Manifest) -> dict[str, Any]:
        """Return the JSON form of a mix of one row and one column."""
        (row,), (column,) = self.rows, self.columns
        return {
            "row": row.parameters(manifest),
            "column": column.parameters(manifest),
            "layers": layers_parameter(self.layers),
        }

    def grid_parameters(self, manifest: Manifest) -> dict[str, Any]:
        """Return the JSON form of the whole grid."""
        return {
            "rows": [row.parameters(manifest) for row in self.rows],
            "columns": [column.parameters(manifest) for column in self.columns],
            "layers": layers_parameter(self.layers),
        }

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any], manifest: Manifest) -> Self:
        """Parse the output of `parameters` or `grid_parameters`."""
        rows = parameters["rows"] if "rows" in parameters else [parameters["row"]]
        columns = parameters["columns"] if "columns" in parameters else [parameters["column"]]
        return cls(
            tuple(LatentSource.from_parameters(row, manifest) for row in rows),
            tuple(LatentSource.from_parameters(column, manifest) for column in columns),
            layers_from_parameter(parameters["layers"]),
        )
