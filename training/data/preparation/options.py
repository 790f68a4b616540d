"""What a prepared data set looks like."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from service.runtime.errors import UserError
from training.data.sources.layout import SPLIT_NAMES, is_split_name

Crop = Literal["center-crop", "center-crop-wide", "none"]
Filter = Literal["lanczos", "bicubic", "bilinear", "box", "hamming", "nearest"]
Mode = Literal["rgb", "gray", "rgba", "keep"]
FileFormat = Literal["png", "webp-lossless", "jpeg"]
Deduplicate = Literal["none", "exact", "near"]

_MAX_SIDE = 16_384


class PreparationError(UserError):
    """The data set cannot be prepared with these options. Nothing was written."""


@dataclass(frozen=True)
class PreparationOptions:
    """How images are selected, changed and stored.

    Attributes:
        size: width and height in pixels; None keeps the size of each image.
        crop: `center-crop` cuts the largest area of the shape of `size` from the center;
            `center-crop-wide` does so and adds black bars above and below, which make a square of
            the width; `none` changes the shape of the image to that of `size`.
        mode: `rgb` and `gray` composite transparent pixels on white; `keep` keeps each image's.
        deduplicate: which duplicates are left out. The first image of each group is kept.
        fractions: the fraction of the images by split; None keeps the splits of the data.
        max_images: the largest number of images; a random selection of them is kept.
        seed: of the random choices of `fractions` and `max_images`.
    """

    size: tuple[int, int] | None = None
    crop: Crop = "center-crop"
    filter: Filter = "lanczos"
    mode: Mode = "rgb"
    deduplicate: Deduplicate = "none"
    fractions: Mapping[str, float] | None = field(default=None)
    seed: int = 0
    max_images: int | None = None
    file_format: FileFormat = "png"

    def __post_init__(self) -> None:
        """Raise PreparationError if the options contradict each other."""
        if self.crop == "center-crop-wide" and (self.size is None or self.size[1] >= self.size[0]):
            raise PreparationError(
                "--crop center-crop-wide needs a size that is wider than high, such as "
                "--resolution 256x192"
            )
        if self.file_format == "jpeg" and self.mode not in ("rgb", "gray"):
            raise PreparationError("--format jpeg has no transparency: use --mode rgb or gray")

    def to_json(self) -> dict[str, Any]:
        """Return the options for the record, by the names of the flags."""
        return {
            "resolution": None if self.size is None else list(self.size),
            "crop": self.crop if self.size else "none",
            "filter": self.filter,
            "mode": self.mode,
            "deduplicate": self.deduplicate,
            "split": None if self.fractions is None else dict(self.fractions),
            "seed": self.seed,
            "max": self.max_images,
            "format": self.file_format,
        }


def parse_size(
    resolution: str | None, width: int | None, height: int | None
) -> tuple[int, int] | None:
    """Return width and height from ``128``, ``256x192`` or both sides; None without any.

    Raises PreparationError.
    """
    if resolution is None:
        if (width is None) != (height is None):
            raise PreparationError("--width and --height belong together")
        if width is None or height is None:
            return None
        size = (width, height)
    else:
        if width is not None or height is not None:
            raise PreparationError("give either --resolution, or --width and --height")
        match = re.fullmatch(r"(\d{1,6})(?:[x×](\d{1,6}))?", resolution.strip().lower())
        if match is None:
            raise PreparationError(f"--resolution: expected 128 or 256x192, got {resolution!r}")
        size = (int(match[1]), int(match[2] or match[1]))
    if not all(1 <= side <= _MAX_SIDE for side in size):
        raise PreparationError(f"--resolution: expected 1 to {_MAX_SIDE:,} pixels, got {size}")
    return size


def parse_fractions(text: str) -> dict[str, float]:
    """Return the fractions in ``train=0.9,val=0.1``. Raises PreparationError."""
    fractions: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = (each.strip() for each in part.partition("="))
        try:
            fraction = float(value)
        except ValueError:
            fraction = math.nan
        if not name or name in fractions or not 0 < fraction <= 1:
            raise PreparationError(f"--split: expected NAME=FRACTION,… got {part!r}")
        if not is_split_name(name):
            raise PreparationError(
                f"--split: {name!r} is not the name of a split: {', '.join(sorted(SPLIT_NAMES))}"
            )
        fractions[name] = fraction
    if abs(sum(fractions.values()) - 1) > 1e-6:
        raise PreparationError(
            f"--split: the fractions must add up to 1; these give {sum(fractions.values()):g}"
        )
    return fractions
