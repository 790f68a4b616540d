"""Options of sound data in a recipe."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from training.recipe.options import Options


class SoundOptions(Options):
    """The section `data.sound`: the data are sounds, and all of them get this rate and length.

    Sounds of other rates are resampled, and those with several channels are mixed down to one.
    Longer sounds are cropped at the end, shorter ones are padded with silence at the end.
    """

    # In Hz.
    rate: int = Field(default=16_000, ge=1_000, le=192_000)
    # Number of samples of every sound.
    samples: PositiveInt = 16_384
    # Scale every sound so that its largest sample has this value; default: keep the loudness.
    peak: float | None = Field(default=None, gt=0, le=1)
