"""What all image-to-image tasks have in common.

A task derives a generator's input from the image that should come out, chooses what the generator
sees and what it answers, and turns the answer into an image. The last two steps are part of the
exported graph.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import numpy as np
from torch import Tensor

from service.runtime.models.manifest import Task
from training.recipe.options import Options


class Given(NamedTuple):
    """Inputs: images ``[N, C, h, w] uint8``, and masks ``[N, 1, h, w] uint8`` if the task has them.

    A mask is 255 where the image is to be filled in, and 0 where it is known.
    """

    image: Tensor
    mask: Tensor | None = None

    def parts(self, size: int) -> Iterator[Given]:
        """Split the rows into parts of `size`; the last may be smaller."""
        for start in range(0, len(self.image), size):
            rows = slice(start, start + size)
            yield Given(self.image[rows], None if self.mask is None else self.mask[rows])


class ImageTask(Options, ABC):
    """A task. Unless stated otherwise, tensors are ``[N, C, H, W]`` and images are in [-1, 1]."""

    # The route that serves it.
    route: ClassVar[Task]
    # Whether the inputs are a second set of images, matched by name.
    needs_source: ClassVar[bool] = False
    # Whether the inputs have masks.
    masked: ClassVar[bool] = False

    kind: str

    def given_channels(self, channels: int) -> int:
        """Return the channels of an input, for targets with `channels`."""
        return channels

    def seen_channels(self, channels: int) -> int:
        """Return the channels that a generator sees."""
        return self.given_channels(channels)

    def made_channels(self, channels: int) -> int:
        """Return the channels of a generator's answer."""
        return channels

    @property
    def scale(self) -> int:
        """The side of a target over the side of its input."""
        return 1

    def check(self, resolution: int, channels: int) -> None:
        """Raise ValueError unless the task is possible for targets of that size."""

    @abstractmethod
    def give(self, pixels: Tensor, rng: np.random.Generator, source: Tensor | None) -> Given:
        """Derive the inputs of targets ``[N, C, H, W] uint8``.

        `source` are the images of the second set that belong to the targets.
        """

    def see(self, image: Tensor, mask: Tensor | None) -> Tensor:  # noqa: ARG002 - some have none
        """Return what a generator sees of an input; `mask` is 1 where it is to be filled in."""
        return image

    def answer(self, targets: Tensor) -> Tensor:
        """Return the answer whose image is a target."""
        return targets

    def settle(self, answer: Tensor, image: Tensor, mask: Tensor | None) -> Tensor:  # noqa: ARG002
        """Return an answer with known pixels restored, before the discriminator sees it."""
        return answer

    def finish(self, answer: Tensor, image: Tensor, mask: Tensor | None) -> Tensor:  # noqa: ARG002
        """Return the image of an answer, in [-1, 1] except for overshoots."""
        return answer
