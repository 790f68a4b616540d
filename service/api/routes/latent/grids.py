"""Responses with one image that shows several."""

from __future__ import annotations

from service.api.negotiation import OutputFormat
from service.api.problems import invalid
from service.runtime.models.parts.outputs import ImageSpec


def check_grid_size(image: ImageSpec, rows: int, columns: int, output: OutputFormat) -> None:
    """Raise Problem (422) if a grid of images is larger than its format allows."""
    height, width = image.height * rows, image.width * columns
    limit = output.image.longest_side
    if max(height, width) > limit:
        raise invalid(
            "format",
            f"the grid has {width} × {height} pixels, and {output.image} is limited to {limit} per "
            "side; request fewer rows or columns, or png, zip or npy",
        )
