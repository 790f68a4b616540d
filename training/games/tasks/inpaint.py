"""Inpainting: filling in the masked parts of images."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from service.runtime.models.parts.tasks import Task
from training.data.masks import box_mask, stroke_mask
from training.games.tasks.task import ImageTask, TaskInputs

Fraction = Annotated[float, Field(gt=0, lt=1)]


class InpaintOptions(ImageTask):
    """Fills holes in images. Training holes are boxes or brush strokes."""

    route: ClassVar[Task] = "inpaint"
    masked: ClassVar[bool] = True

    kind: Literal["inpaint"]
    # Smallest and largest fraction of an image that is missing.
    missing: tuple[Fraction, Fraction] = (0.1, 0.4)
    # Probability that the hole is a box instead of brush strokes.
    boxes: float = Field(default=0.5, ge=0, le=1)

    def network_in_channels(self, channels: int) -> int:
        """Return the number of channels of the image and the mask together."""
        return channels + 1

    def derive_inputs(
        self,
        pixels: Tensor,
        rng: np.random.Generator,
        source: Tensor | None,  # noqa: ARG002
    ) -> TaskInputs:
        """Return the target images as inputs, each with a random mask of the pixels to fill."""
        height, width = pixels.shape[2:]
        masks = []
        for _ in range(len(pixels)):
            fraction = float(rng.uniform(*self.missing))
            draw = box_mask if rng.random() < self.boxes else stroke_mask
            masks.append(torch.from_numpy(draw(height, width, fraction, rng)))
        return TaskInputs(pixels, torch.stack(masks)[:, None])

    def network_input(self, image: Tensor, mask: Tensor | None) -> Tensor:
        """Set holes to 0, the middle of the range, and append the mask as a channel."""
        assert mask is not None  # noqa: S101 - the task is masked
        return torch.cat([image * (1 - mask), mask], 1)

    def restore_known_pixels(self, output: Tensor, image: Tensor, mask: Tensor | None) -> Tensor:
        """Copy the known pixels of the input to an output."""
        assert mask is not None  # noqa: S101 - the task is masked
        return torch.where(mask > 0.5, output, image.to(output.dtype))

    def to_image(self, output: Tensor, image: Tensor, mask: Tensor | None) -> Tensor:
        """Return the output with the known pixels of the input, bit for bit."""
        return self.restore_known_pixels(output, image, mask)
