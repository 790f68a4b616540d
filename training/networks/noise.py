"""What all generators' options say of the noise that they start from."""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveInt

from service.runtime.latents import Distribution
from training.options import Options


class NoiseOptions(Options):
    """A generator that starts from latents ``[N, z_dim]``."""

    # How latents are drawn when they are served; players train on N(0, 1).
    distribution: ClassVar[Distribution] = "normal"

    z_dim: PositiveInt
