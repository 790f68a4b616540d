"""The section `fine_tune` of a recipe."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt

from training.recipe.options import Options


class FineTuneOptions(Options):
    """Where the first weights come from, and what is trained at first.

    Without this section, training starts from random weights.
    """

    # A run folder, a model (NAME, NAME@VERSION or its folder) with trainable weights, or a
    # checkpoint of a run. ``from=…`` on the command line sets this value.
    weights: str = Field(min_length=1)
    # Freeze-D (Mo et al. 2020, arXiv:2002.10964): the number of discriminator layers, counted from
    # the image, whose weights do not change.
    freeze_discriminator: NonNegativeInt = 0
    # The learning rates rise linearly from 0 over this many images.
    warm_up_images: NonNegativeInt = 0
    # The generator does not change for this many images, so that a discriminator that starts from
    # random weights can learn first. The warm-up of the generator begins after them.
    freeze_generator_images: NonNegativeInt = 0
