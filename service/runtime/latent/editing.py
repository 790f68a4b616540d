"""Edits: moves of latents along named directions.

A latent ``w`` is moved in the layers of a direction, a latent ``z`` as a whole. The unit of an
amount is one standard deviation of the latents along the direction: see
`service.runtime.models.parts.additions.Direction`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from service.runtime.latent.directions import Vector
from service.runtime.latent.layers import LayerWeights, layers_from_parameter, layers_parameter
from service.runtime.latent.sources import Floats, LatentSource, feeds
from service.runtime.models.manifest import Manifest
from service.runtime.models.parts.additions import Direction

# Maximum length of a step along a direction, in standard deviations of the latents. Far below it,
# images are no longer like those that the model was trained on.
MAX_AMOUNT = 20.0
# Characters of the SHA-256 of the directions that the parameters of an image contain.
_PREFIX = 16


class DirectionsChanged(ValueError):
    """Parameters refer to other directions than those that the model has."""


# The vectors of a model's directions by name: see `service.runtime.latent.directions`.
Vectors = Mapping[str, Vector]


@dataclass(frozen=True)
class Edit:
    """A move of one latent: amounts by direction.

    `layers`, with weights, replace the layers of every direction of w.
    """

    amounts: Mapping[str, float]
    layers: LayerWeights | None = None


def directions_of(manifest: Manifest) -> dict[str, Direction]:
    """Return the directions of a model by name."""
    return {item.name: item for item in manifest.directions.items} if manifest.directions else {}


def move_styles(w: Floats, edits: Sequence[Edit], manifest: Manifest, vectors: Vectors) -> Floats:
    """Return the styles ``w [N, layers, w_dim]``, each row moved by its edit.

    ``w[layers] += amount * weight * vector`` for each direction of w.
    """
    directions = directions_of(manifest)
    moved = np.array(w, np.float32)
    for row, edit in zip(moved, edits, strict=True):
        for name, amount in edit.amounts.items():
            direction = directions[name]
            if direction.space == "w":
                weights = edit.layers
                if weights is None:
                    weights = dict.fromkeys(direction.layers, 1.0)
                scales = np.array([amount * weight for weight in weights.values()], np.float32)
                row[list(weights)] += scales[:, None] * vectors[name]
    return moved


def move_latents(
    sources: Sequence[LatentSource],
    edits: Sequence[Edit],
    manifest: Manifest,
    vectors: Vectors,
) -> list[LatentSource]:
    """Return the sources, each moved by the directions of z in its edit: ``z += amount * vector``.

    Sources without such a direction stay as they are. Raises ValueError if one that has is a `w`.
    """
    directions = directions_of(manifest)
    moved = []
    for source, edit in zip(sources, edits, strict=True):
        along = [name for name in edit.amounts if directions[name].space == "z"]
        if not along:
            moved.append(source)
            continue
        if source.w is not None:
            raise ValueError(f"{along[0]} is a direction of z, but the source is a w")
        z = feeds([source], manifest)["z"][0].copy()
        for name in along:
            z += np.float32(edit.amounts[name]) * vectors[name]
        moved.append(replace(source, seed=None, z=z))
    return moved


@dataclass(frozen=True)
class Editing:
    """The edits of a request: sources, and for each direction one amount or several steps.

    Without steps there is one image for each source. With steps of one direction there is a strip
    for each source: a row of images, one for each step. With steps of two directions there is a
    grid for one source: rows are the steps of the first direction, columns those of the second.
    """

    sources: tuple[LatentSource, ...]
    amounts: Mapping[str, float | tuple[float, ...]]
    directions_sha256: str
    layers: LayerWeights | None = None

    @property
    def steps(self) -> dict[str, tuple[float, ...]]:
        """The steps by direction, for the directions that have several."""
        return {name: each for name, each in self.amounts.items() if isinstance(each, tuple)}

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the images."""
        counts = [len(steps) for steps in self.steps.values()]
        if len(counts) == 2:
            return counts[0], counts[1]
        return len(self.sources), counts[0] if counts else 1

    def items(self) -> Iterator[tuple[LatentSource, Edit]]:
        """Yield the source and the edit of each image, in row-major order."""
        for source in self.sources:
            for amounts in _combinations(self.amounts):
                yield source, Edit(amounts, self.layers)

    def parameters(self, source: LatentSource, edit: Edit, manifest: Manifest) -> dict[str, Any]:
        """Return the JSON form of one image."""
        return source.parameters(manifest) | self._edit_parameters(dict(edit.amounts))

    def grid_parameters(self, manifest: Manifest) -> dict[str, Any]:
        """Return the JSON form of the grid of all images."""
        amounts = {
            name: list(each) if isinstance(each, tuple) else each
            for name, each in self.amounts.items()
        }
        sources = [source.parameters(manifest) for source in self.sources]
        return {"sources": sources, **self._edit_parameters(amounts)}

    def _edit_parameters(self, amounts: Mapping[str, Any]) -> dict[str, Any]:
        parameters: dict[str, Any] = {"directions": amounts}
        if self.layers is not None:
            parameters["layers"] = layers_parameter(self.layers)
        return parameters | {"directions_sha256": self.directions_sha256[:_PREFIX]}

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any], manifest: Manifest) -> Self:
        """Parse the output of `parameters` or `grid_parameters`.

        Raises DirectionsChanged, and ValueError for other invalid parameters.
        """
        expected = str(parameters["directions_sha256"])
        actual = manifest.directions.sha256 if manifest.directions else ""
        if len(expected) < _PREFIX or not actual.startswith(expected):
            now = f"now has {actual[:_PREFIX]}" if actual else "now has none"
            raise DirectionsChanged(
                f"it was made with the directions {expected[:_PREFIX]} of {manifest.name}, which "
                f"{now}"
            )
        amounts = {
            name: tuple(map(float, each)) if isinstance(each, list) else float(each)
            for name, each in parameters["directions"].items()
        }
        sources = parameters.get("sources", [parameters])
        layers = parameters.get("layers")
        return cls(
            tuple(LatentSource.from_parameters(source, manifest) for source in sources),
            amounts,
            actual,
            None if layers is None else layers_from_parameter(layers),
        )


def _combinations(amounts: Mapping[str, float | tuple[float, ...]]) -> Iterator[dict[str, float]]:
    """Yield one amount for each direction; the last direction with steps varies fastest."""
    combinations: list[dict[str, float]] = [{}]
    for name, each in amounts.items():
        steps = each if isinstance(each, tuple) else (each,)
        combinations = [before | {name: step} for before in combinations for step in steps]
    yield from combinations
