"""Options that all noise-to-image generators share."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from training.recipe.options import Options


class NoiseOptions(Options):
    """Options of a generator from latents ``[N, z_dim]``."""

    z_dim: PositiveInt
    # Distribution of latents in the exported model. Training always samples N(0, 1).
    distribution: Literal["normal", "truncated-normal"] = "normal"
