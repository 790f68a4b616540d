"""What all generators' options say of the noise that they start from."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from training.recipe.options import Options


class NoiseOptions(Options):
    """A generator that starts from latents ``[N, z_dim]``."""

    z_dim: PositiveInt
    # How latents are drawn where the generator is served; in training they are N(0, 1).
    distribution: Literal["normal", "truncated-normal"] = "normal"
