"""From pictures with holes to whole ones."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from service.runtime.models.manifest import Task
from training.data.masks import box_mask, stroke_mask
from training.games.tasks.task import Given, ImageTask

Share = Annotated[float, Field(gt=0, lt=1)]


class InpaintOptions(ImageTask):
    """Pictures with holes, boxes or strokes of a brush, to whole ones; what is known stays."""

    route: ClassVar[Task] = "inpaint"
    masked: ClassVar[bool] = True

    kind: Literal["inpaint"]
    # How much of a picture is missing, from the least to the most.
    missing: tuple[Share, Share] = (0.1, 0.4)
    # How often a hole is a box.
    boxes: float = Field(default=0.5, ge=0, le=1)

    def seen_channels(self, channels: int) -> int:
        """The picture's, and the mask."""
        return channels + 1

    def give(self, pixels: Tensor, rng: np.random.Generator, source: Tensor | None) -> Given:  # noqa: ARG002
        """Draw a hole for each picture."""
        height, width = pixels.shape[2:]
        masks = []
        for _ in range(len(pixels)):
            share = float(rng.uniform(*self.missing))
            draw = box_mask if rng.random() < self.boxes else stroke_mask
            masks.append(torch.from_numpy(draw(height, width, share, rng)))
        return Given(pixels, torch.stack(masks)[:, None])

    def see(self, image: Tensor, mask: Tensor | None) -> Tensor:
        """Return the picture with its holes in the middle of the range, and the mask."""
        assert mask is not None  # noqa: S101 - it is masked
        return torch.cat([image * (1 - mask), mask], 1)

    def settle(self, answer: Tensor, image: Tensor, mask: Tensor | None) -> Tensor:
        """Put what is known into the answer."""
        assert mask is not None  # noqa: S101 - it is masked
        return torch.where(mask > 0.5, answer, image.to(answer.dtype))

    def finish(self, answer: Tensor, image: Tensor, mask: Tensor | None) -> Tensor:
        """Put what is known into the answer, bit for bit."""
        return self.settle(answer, image, mask)
