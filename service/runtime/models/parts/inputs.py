"""What a model takes instead of a latent, or beside it: images, or vectors of prompts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from service.runtime.models.parts.graphs import GENERATOR
from service.runtime.models.parts.part import Part, Positive, Slug

ModelDigest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]


class ImageInput(Part):
    """The input images of an image-to-image model, `image` ``[N, H, W, C] uint8``.

    If the size may vary, both sides must be multiples of `multiple`; the sides of the output are
    `factor` times as long. A `masked` graph also takes ``mask`` ``[N, H, W] uint8``: 255 marks
    pixels to fill, 0 known pixels.
    """

    channels: Literal[1, 3, 4]
    # The side of the training images in pixels; with `fixed` the only one that the graph takes:
    # an upscaler then runs in tiles of this size, and other models resize their input to it.
    side: Positive
    fixed: bool = False
    # The width of a `fixed` input that is not square; `side` is its height.
    width: Positive | None = None
    multiple: Positive = 1
    # The minimum side, if it is larger than `multiple`: padding by reflection needs enough pixels
    # to reflect.
    least: Positive | None = None
    factor: Positive = 1
    # The radius of the receptive field in input pixels; None if every pixel depends on all others.
    reach: Annotated[int, Field(ge=0)] | None = None
    masked: bool = False
    # The directions of a model that has several, the default first.
    directions: tuple[Slug, ...] = ()

    @model_validator(mode="after")
    def _side_fits(self) -> ImageInput:
        if self.side % self.multiple:
            raise ValueError(f"side {self.side} is not a multiple of {self.multiple}")
        if self.least is not None and (self.least % self.multiple or self.least > self.side):
            raise ValueError(
                f"least {self.least} is not a multiple of {self.multiple}, or exceeds side"
            )
        if self.width is not None and (not self.fixed or self.width % self.multiple):
            raise ValueError(f"width {self.width} needs fixed and a multiple of {self.multiple}")
        if len(self.directions) == 1 or len(set(self.directions)) != len(self.directions):
            raise ValueError("directions must be at least two different names")
        return self

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the training images; with `fixed` the only supported ones."""
        return self.side, self.width or self.side

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles of the graphs."""
        return self.directions or (GENERATOR,)


class TextInput(Part):
    """The input ``text [N, dimension] float32``: vectors of a text encoder.

    `encoder` is the name of the text encoder's model folder, `encoder_digest` the digest of the
    model.
    """

    encoder: Slug
    encoder_digest: ModelDigest
    dimension: Positive
