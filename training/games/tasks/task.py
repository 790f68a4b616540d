"""What all tasks from picture to picture have in common.

A task says what is given in place of a picture, what a generator sees of it, how it answers, and
how its answer becomes a picture. The last two steps are part of the exported graph.
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
    """What goes in: pictures ``[N, C, h, w] uint8``, and masks ``[N, 1, h, w] uint8`` where the
    task has them: 255 is to be filled, 0 is known.
    """

    image: Tensor
    mask: Tensor | None = None

    def parts(self, size: int) -> Iterator[Given]:
        """Cut the rows into pieces of `size`, the last of which may be smaller."""
        for start in range(0, len(self.image), size):
            rows = slice(start, start + size)
            yield Given(self.image[rows], None if self.mask is None else self.mask[rows])


class ImageTask(Options, ABC):
    """A task. Where nothing else is said tensors are ``[N, C, H, W]``, pictures in [-1, 1]."""

    # The route that serves it.
    route: ClassVar[Task]
    # Whether a second set of pictures, matched by name, is what goes in.
    needs_source: ClassVar[bool] = False
    # Whether there are masks beside the pictures.
    masked: ClassVar[bool] = False

    def given_channels(self, channels: int) -> int:
        """Return the channels of what goes in, for pictures of so many."""
        return channels

    def seen_channels(self, channels: int) -> int:
        """Return the channels that a generator sees."""
        return self.given_channels(channels)

    def made_channels(self, channels: int) -> int:
        """Return the channels that a generator answers with."""
        return channels

    @property
    def scale(self) -> int:
        """How much larger what comes out is, a side."""
        return 1

    def check(self, resolution: int, channels: int) -> None:
        """Raise ValueError unless pictures of that size can be given."""

    @abstractmethod
    def give(self, pixels: Tensor, rng: np.random.Generator, source: Tensor | None) -> Given:
        """Make what goes in of the pictures ``[N, C, H, W] uint8`` that should come out.

        `source` are the pictures of the second set that belong to them.
        """

    def see(self, image: Tensor, mask: Tensor | None) -> Tensor:  # noqa: ARG002 - some have none
        """Return what a generator sees of what is given; `mask` is 1 where it is to be filled."""
        return image

    def answer(self, pictures: Tensor) -> Tensor:
        """Return what a generator should answer where `pictures` should come out."""
        return pictures

    def settle(self, answer: Tensor, image: Tensor, mask: Tensor | None) -> Tensor:  # noqa: ARG002
        """Return an answer with what is known put in, before anybody judges it."""
        return answer

    def finish(self, answer: Tensor, image: Tensor, mask: Tensor | None) -> Tensor:  # noqa: ARG002
        """Return the pictures that a generator's answer becomes, in [-1, 1] but for overshoots."""
        return answer
