"""The latent space of `z`, and the style space of `w`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from service.runtime.formatting import exact
from service.runtime.latent.seeds import Distribution
from service.runtime.models.parts.part import Finite, Part, Positive

StyleGroup = Literal["coarse", "middle", "fine"]


class Truncation(Part):
    """The range of the truncation ψ (StyleGAN, arXiv:1812.04948, appendix B); 1 disables it."""

    default: Finite = 1.0
    minimum: Finite = 0.0
    maximum: Finite = 1.0

    @model_validator(mode="after")
    def _is_a_range(self) -> Truncation:
        if not self.minimum <= self.default <= self.maximum:
            raise ValueError(
                f"{exact(self.default)} is not in {exact(self.minimum)} to {exact(self.maximum)}"
            )
        return self


class LatentSpace(Part):
    """The latent space of `z`; `seed_rule` defines how a latent is drawn from a seed.

    With a `truncation`, the graph that takes `z` also takes the truncation.
    """

    dimension: Positive
    distribution: Distribution = "normal"
    seed_rule: Literal["numpy-randomstate"] = "numpy-randomstate"
    truncation: Truncation | None = None


class StyleLayer(Part):
    """A layer that takes a style, with its resolution in pixels and its group."""

    resolution: Positive
    group: StyleGroup


class StyleSpace(Part):
    """The style space of `w`: one vector of `dimension` per layer."""

    dimension: Positive
    layers: tuple[StyleLayer, ...] = Field(min_length=1)

    @property
    def groups(self) -> dict[StyleGroup, tuple[int, ...]]:
        """The layer indices by group; groups without layers are missing."""
        groups: dict[StyleGroup, tuple[int, ...]] = {}
        for i, layer in enumerate(self.layers):
            groups[layer.group] = (*groups.get(layer.group, ()), i)
        return groups
