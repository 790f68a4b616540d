"""Inpainting: filling in the masked parts of images."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from service.runtime.models.manifest import Task
from training.data.masks import box_mask, stroke_mask
from training.games.tasks.task import Given, ImageTask

Fraction = Annotated[float, Field(gt=0, lt=1)]


class InpaintOptions(ImageTask):
    """Images with holes, which are boxes or brush strokes, to complete images."""

    route: ClassVar[Task] = "inpaint"
    masked: ClassVar[bool] = True

    kind: Literal["inpaint"]
    # The range of the fraction of an image that is missing.
    missing: tuple[Fraction, Fraction] = (0.1, 0.4)
    # The probability that a hole is a box.
    boxes: float = Field(default=0.5, ge=0, le=1)

    def seen_channels(self, channels: int) -> int:
        """The image's channels, and the mask."""
        return channels + 1

    def give(self, pixels: Tensor, rng: np.random.Generator, source: Tensor | None) -> Given:  # noqa: ARG002
        """Draw a mask for each image."""
        height, width = pixels.shape[2:]
        masks = []
        for _ in range(len(pixels)):
            fraction = float(rng.uniform(*self.missing))
            draw = box_mask if rng.random() < self.boxes else stroke_mask
            masks.append(torch.from_numpy(draw(height, width, fraction, rng)))
        return Given(pixels, torch.stack(masks)[:, None])

    def see(self, image: Tensor, mask: Tensor | None) -> Tensor:
        """Return the image with its holes set to 0, the middle of the range, and the mask."""
        assert mask is not None  # noqa: S101 - the task is masked
        return torch.cat([image * (1 - mask), mask], 1)

    def settle(self, answer: Tensor, image: Tensor, mask: Tensor | None) -> Tensor:
        """Return the answer with the known pixels of the input."""
        assert mask is not None  # noqa: S101 - the task is masked
        return torch.where(mask > 0.5, answer, image.to(answer.dtype))

    def finish(self, answer: Tensor, image: Tensor, mask: Tensor | None) -> Tensor:
        """Return the answer with the known pixels of the input, bit for bit."""
        return self.settle(answer, image, mask)
