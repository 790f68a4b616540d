"""What was measured of a model: its quality, and the outputs that it must reproduce."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from service.runtime.latent.seeds import MAX_SEED
from service.runtime.models.parts.part import SHA256, Finite, Part, Positive, Slug


class Quality(Part):
    """A measured metric with everything that is needed to interpret it."""

    metric: str
    value: Finite
    feature_network: str | None = None
    reference: str
    # SHA-256 of the decoded images, or of the texts, of the reference split.
    reference_sha256: SHA256 | None = None
    samples: Positive
    reference_samples: Positive
    # The rule that chose the reference images, if they are a part of the split by default.
    reference_choice: str | None = None
    # The 95 % confidence interval, if the metric has one.
    low: Finite | None = None
    high: Finite | None = None
    # The same metric for `real_samples` real images instead of generated ones.
    real: Finite | None = None
    real_samples: Positive | None = None
    # The same metric for a simple baseline instead of the model, and its name.
    baseline: Finite | None = None
    baseline_name: str | None = None
    # How images were resized for the feature network.
    resizing: str | None = None
    truncation: Finite | None = None
    # The samples have consecutive seeds, starting here.
    seed_start: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    # Further information for the interpretation.
    note: str | None = None


class Golden(Part):
    """An output of the model at export: its inputs and a SHA-256.

    The digest is that of the pixels, of the int16 samples, or of the UTF-8 text at temperature 1.
    `class_index`, `truncation` and `direction` are set if the model has them.
    """

    seed: Annotated[int, Field(ge=0, le=MAX_SEED)]
    class_index: Annotated[int, Field(ge=0)] | None = None
    truncation: Finite | None = None
    direction: Slug | None = None
    sha256: SHA256
