"""Parts of the manifest that describe additions to a generator.

An addition is made from a finished generator and does not change its images: directions in its
latent space, an encoder that inverts images, a discriminator that scores them, and the weights
that training continues from.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from service.runtime.models.parts.part import (
    MAX_TEXT,
    SHA256,
    Distance,
    Finite,
    Part,
    Positive,
    Share,
)

# Not a number: JavaScript moves keys that are numbers to the front of an object, which would swap
# the directions of a grid.
DIRECTION_NAME = re.compile(r"^(?:[a-z]|[0-9]+[a-z._-])[a-z0-9._-]*$")
DirectionName = Annotated[str, StringConstraints(pattern=DIRECTION_NAME.pattern, max_length=64)]

# The files of the additions in a model folder.
DIRECTIONS_FILE = "directions.npz"
TRAINABLE_FILE = "trainable.safetensors"


class DirectionFigures(Part):
    """What a step of one unit along a direction changes, as mean distances over `samples` images.

    `effect` is the change in image features. `drift` is the part of it that should stay, such as
    the score of other classes. `random_effect` and `random_drift` are the means of random
    directions of the same length.
    """

    effect: Distance
    drift: Distance
    random_effect: Distance
    random_drift: Distance
    samples: Positive
    feature_network: str
    # What `drift` measures.
    drift_of: str


class Direction(Part):
    """A named direction in latent space; its vector is in `directions.npz` under its name.

    A step of one unit along it is one standard deviation of the latents. A direction of `w` moves
    the styles of `layers`; a direction of `z` has none.
    """

    name: DirectionName
    space: Literal["w", "z"]
    method: Literal["sefa", "ganspace", "boundary"]
    # How the direction was found: the number of a component, or the two sides of a boundary.
    description: str
    layers: tuple[Annotated[int, Field(ge=0)], ...] = ()
    # A file in the model folder: images of the same seeds along the direction.
    strip: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]*\.webp$")] | None = None
    figures: DirectionFigures | None = None

    @model_validator(mode="after")
    def _layers_fit_the_space(self) -> Direction:
        if bool(self.layers) != (self.space == "w"):
            raise ValueError("layers is required if and only if space is w")
        if len(set(self.layers)) != len(self.layers):
            raise ValueError("layers must be different")
        return self


class Directions(Part):
    """The directions of a model. `sha256` is that of `directions.npz`, one vector per name."""

    sha256: SHA256
    items: tuple[Direction, ...] = Field(min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _names_differ(self) -> Directions:
        if len({item.name for item in self.items}) != len(self.items):
            raise ValueError("directions must have different names")
        return self


class InversionFigure(Part):
    """The mean distance of reconstructions, by one metric, over `count` images of one kind.

    `mean_image` is the distance of the generator's mean image, and `nearest` that of the nearest
    of `candidates` samples.
    """

    metric: Literal["PSNR", "feature distance"]
    images: str
    count: Positive
    value: Finite
    mean_image: Finite
    nearest: Finite
    candidates: Positive
    feature_network: str | None = None


class Encoder(Part):
    """The encoder of a model, the graph with the role `encoder`.

    It corrects a latent in `passes` passes (ReStyle, arXiv:2104.02699). Each pass takes the
    ``image``, its current ``reconstruction``, both uint8 ``[N, H, W, C]`` in the size of the
    model's images, and the current latent ``w`` or ``z``, and returns the new latent, ``new_w`` or
    ``new_z``. `start` is the latent of the first pass: base64 of float32, ``w [w_dim]`` for every
    layer or ``z [z_dim]``.
    """

    passes: Positive
    start: str
    # The images that it was trained on, and the time that took.
    trained_images: Positive
    seconds: Distance
    figures: tuple[InversionFigure, ...] = ()


class SelectionFigure(Part):
    """The quality of the images that the discriminator's score selects.

    `share` of the samples are kept: the best by score (`rank`), or by discriminator rejection
    sampling (arXiv:1810.06758). A share of 1 keeps all.
    """

    method: Literal["rank", "rejection"]
    share: Share
    # KID, with its 95 % confidence interval.
    kernel_distance: Finite
    low: Finite | None = None
    high: Finite | None = None
    precision: Finite
    recall: Finite
    # The images that were measured of those kept, and the candidates.
    samples: Positive
    candidates: Positive
    reference: str
    feature_network: str


class ScoreCalibration(Part):
    """How rejection sampling reads the score of the discriminator (arXiv:1810.06758).

    The ratio of the densities of real and generated images is ``exp(scale · score)``, up to a
    constant. `scale` is fitted to real images of `reference` and to generated ones by logistic
    regression; without a `reference` it is 1, the value of an optimal discriminator that was
    trained with the logistic loss. `maximum` is the largest score of `samples` generated images.
    """

    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    maximum: Finite
    samples: Positive
    reference: str | None = None


class Discriminator(Part):
    """The discriminator, the graph with the role `discriminator`.

    It takes the model's own ``image`` uint8 ``[N, H, W, C]``, with the class input of the model if
    it has classes, and returns ``score`` float32 ``[N]``, a logit: real images score higher.
    """

    # How it was trained, where it is not the one of the generator's training.
    description: str = ""
    # Needed for rejection sampling.
    calibration: ScoreCalibration | None = None
    figures: tuple[SelectionFigure, ...] = ()


class Trainable(Part):
    """The weights that training continues from, in `trainable.safetensors`.

    Tensors are named ``generator.…``, ``average.…`` (the moving average that is exported) and
    ``discriminator.…``. `recipe` is the recipe, in YAML, whose networks have these weights; None
    for an import, whose networks are not built from a recipe.
    """

    sha256: SHA256
    networks: tuple[Literal["generator", "average", "discriminator"], ...] = ()
    # Where the weights come from, where they are not those of the training, and what is missing.
    description: str = ""
    recipe: Annotated[str, Field(max_length=MAX_TEXT)] | None = None
