"""The interface of image-to-image tasks.

A task derives input images from target images, and converts between images and the tensors that the
generator takes and returns. These conversions are part of the exported graph.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import numpy as np
from torch import Tensor

from service.runtime.models.parts.tasks import Task
from training.recipe.options import Options


class TaskInputs(NamedTuple):
    """Input images ``[N, C, h, w] uint8``, and masks ``[N, 1, h, w] uint8`` for masked tasks.

    A mask is 255 where pixels are missing and 0 where they are known.
    """

    image: Tensor
    mask: Tensor | None = None

    def parts(self, size: int) -> Iterator[TaskInputs]:
        """Split the rows into parts of `size`; the last may be smaller."""
        for start in range(0, len(self.image), size):
            rows = slice(start, start + size)
            yield TaskInputs(self.image[rows], None if self.mask is None else self.mask[rows])


class ImageTask(Options, ABC):
    """A task. Unless stated otherwise, tensors are ``[N, C, H, W]`` and images are in [-1, 1].

    `mask` is None for tasks without masks; otherwise it is 1 where pixels are missing, else 0.
    """

    # The task of the exported model. The route that serves the model has the same name.
    route: ClassVar[Task]
    # Whether the inputs are a second set of images, matched to the targets by name.
    needs_source: ClassVar[bool] = False
    # Whether the inputs have masks.
    masked: ClassVar[bool] = False

    kind: str

    def input_channels(self, channels: int) -> int:
        """Return the number of channels of an input image, for targets with `channels` channels."""
        return channels

    def network_in_channels(self, channels: int) -> int:
        """Return the number of input channels of the generator."""
        return self.input_channels(channels)

    def network_out_channels(self, channels: int) -> int:
        """Return the number of output channels of the generator."""
        return channels

    @property
    def scale(self) -> int:
        """The side of a target divided by the side of its input."""
        return 1

    def check(self, resolution: int, channels: int) -> None:
        """Raise ValueError if the task does not support targets of this size."""

    @abstractmethod
    def derive_inputs(
        self, pixels: Tensor, rng: np.random.Generator, source: Tensor | None
    ) -> TaskInputs:
        """Derive the inputs of targets `pixels` ``[N, C, H, W] uint8``.

        `source` holds the matching images of the second set, for tasks that need one.
        """

    def network_input(self, image: Tensor, mask: Tensor | None) -> Tensor:  # noqa: ARG002
        """Convert input images to the input of the generator."""
        return image

    def network_target(self, targets: Tensor) -> Tensor:
        """Convert target images to the target output of the generator."""
        return targets

    def restore_known_pixels(self, output: Tensor, image: Tensor, mask: Tensor | None) -> Tensor:  # noqa: ARG002
        """Copy the known pixels of the input to an output, before it goes to the discriminator."""
        return output

    def to_image(self, output: Tensor, image: Tensor, mask: Tensor | None) -> Tensor:  # noqa: ARG002
        """Convert an output of the generator to images. Values may overshoot [-1, 1]."""
        return output
