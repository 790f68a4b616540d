"""Request of `/v1/sample-classes`; the response has the schema of `/v1/generate`."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from service.api.schemas.fields import (
    BLEND,
    C2PA,
    MAX_LISTED_IMAGES,
    MODEL,
    RANK,
    TRUNCATION,
    AudioFileFormat,
    ClassWeightsField,
    CredentialField,
    Format,
    RankField,
    RequestModel,
    Seed,
    TruncationField,
)


class SampleClassesRequest(RequestModel):
    """Images or audio by class: a number of outputs for each of `classes`, `per_class` outputs of
    every class, or `n` outputs of a `blend`.
    """

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [{"model": "cgan-fashion", "classes": {"sneaker": 4, "bag": 2}, "seed": 7}]
        },
    )

    model: str = Field(description=MODEL)
    classes: (
        Annotated[
            dict[str, Annotated[int, Field(ge=1)]],
            Field(min_length=1, max_length=MAX_LISTED_IMAGES, fail_fast=True),
        ]
        | None
    ) = None
    per_class: int | None = Field(default=None, ge=1)
    blend: ClassWeightsField | None = Field(default=None, description=BLEND)
    n: int | None = Field(
        default=None, ge=1, description="The number of images of a blend. Default: 1."
    )
    seed: Seed | None = Field(
        default=None, description="Image i has seed + i, counted over all classes in their order."
    )
    truncation: TruncationField | None = Field(default=None, description=TRUNCATION)
    rank: RankField | None = Field(default=None, description=RANK)
    format: Format | AudioFileFormat | None = Field(
        default=None,
        description="As in /v1/generate; for audio as in /v1/audio. A ZIP has a folder for each "
        "class.",
    )
    c2pa: CredentialField = Field(default=None, description=C2PA)
