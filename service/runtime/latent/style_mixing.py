"""What a mix of styles is, as files carry it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from service.runtime.latent.sources import LatentSource
from service.runtime.models.manifest import Manifest


@dataclass(frozen=True)
class StyleMixing:
    """Every row with `layers` by their weights from every column; see `styles.mix`."""

    rows: tuple[LatentSource, ...]
    columns: tuple[LatentSource, ...]
    layers: Mapping[int, float]

    def parameters(self, manifest: Manifest) -> dict[str, Any]:
        """Return what a mix of one row and one column is, as JSON has it."""
        (row,), (column,) = self.rows, self.columns
        return {
            "row": row.parameters(manifest),
            "column": column.parameters(manifest),
            "layers": self._layers(),
        }

    def grid_parameters(self, manifest: Manifest) -> dict[str, Any]:
        """Return what the grid of all is, as JSON has it."""
        return {
            "rows": [row.parameters(manifest) for row in self.rows],
            "columns": [column.parameters(manifest) for column in self.columns],
            "layers": self._layers(),
        }

    def _layers(self) -> list[int] | dict[str, float]:
        """Return the layers as a list, or with their weights where one is not whole."""
        if all(weight == 1 for weight in self.layers.values()):
            return list(self.layers)
        return {str(layer): weight for layer, weight in self.layers.items()}

    @classmethod
    def from_parameters(cls, said: Mapping[str, Any], manifest: Manifest) -> Self:
        """Read what `parameters` or `grid_parameters` returned."""
        rows = said["rows"] if "rows" in said else [said["row"]]
        columns = said["columns"] if "columns" in said else [said["column"]]
        layers = said["layers"]
        weights = layers if isinstance(layers, dict) else dict.fromkeys(layers, 1.0)
        return cls(
            tuple(LatentSource.from_parameters(each, manifest) for each in rows),
            tuple(LatentSource.from_parameters(each, manifest) for each in columns),
            {int(layer): float(weight) for layer, weight in weights.items()},
        )
