"""Request and response of `/v1/generate`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.api.schemas.fields import (
    BLEND,
    C2PA,
    CLASS,
    FORMAT,
    MAX_LISTED_IMAGES,
    MODEL,
    RANK,
    TRANSFORM,
    TRUNCATION,
    ClassesField,
    ClassWeightsField,
    CredentialField,
    Format,
    Latents,
    ModelIdentity,
    RankField,
    RequestModel,
    Seed,
    Seeds,
    SourceRequest,
    StylesField,
    TransformField,
    TruncationField,
)


class SourcesRequest(RequestModel):
    """The sources of images: `n` consecutive seeds, or one source for each list item.

    At most one of `seed`, `seeds`, `z`, `w` and `images` gives the sources. Without any of them,
    the seeds are random.
    """

    model: str = Field(description=MODEL)
    n: int | None = Field(default=None, ge=1, description="The number of images. Default: 1.")
    seed: Seed | None = Field(
        default=None,
        description="Image i has seed + i. Default: random, unless another source is given.",
    )
    seeds: Seeds | None = None
    z: Latents | None = Field(
        default=None, description="Latents: each a list of floats, or float32 in base64."
    )
    w: (
        Annotated[
            list[StylesField], Field(min_length=1, max_length=MAX_LISTED_IMAGES, fail_fast=True)
        ]
        | None
    ) = Field(
        default=None,
        description="Styles, for a model that has them: each one row of floats for each layer, one "
        "row for all layers, or float32 in base64.",
    )
    images: (
        Annotated[
            list[SourceRequest], Field(min_length=1, max_length=MAX_LISTED_IMAGES, fail_fast=True)
        ]
        | None
    ) = Field(
        default=None,
        description="A source for each image. Class and truncation default to the values of the "
        "request.",
    )
    class_: ClassesField | None = Field(
        default=None,
        alias="class",
        description=f"{CLASS} Or a list with one class for each image. Default: seed modulo the "
        "number of classes.",
    )
    blend: ClassWeightsField | None = Field(default=None, description=BLEND)
    truncation: (
        TruncationField
        | Annotated[list[TruncationField], Field(max_length=MAX_LISTED_IMAGES, fail_fast=True)]
        | None
    ) = Field(default=None, description=f"{TRUNCATION} One number, or one for each image.")
    transform: TransformField | None = Field(
        default=None, description=f"{TRANSFORM} Applies to images without a transform of their own."
    )


class GenerateRequest(SourcesRequest):
    """Images from seeds or latents: `n` images of consecutive seeds, or one for each list item.

    At most one of `seed`, `seeds`, `z`, `w` and `images` gives the sources. Without any of them,
    the seeds are random.
    """

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"model": "dcgan-fashion", "n": 4, "seed": 7}]},
    )

    rank: RankField | None = Field(default=None, description=RANK)
    return_: Annotated[list[Literal["z", "w"]], Field(max_length=2, fail_fast=True)] = Field(
        default=(),  # type: ignore[arg-type]  # A list would be copied for every request.
        alias="return",
        description="The arrays to return with each image: the latent z and, for a model with "
        "styles, w. JSON contains them as float32 in base64, a ZIP as NPY files.",
    )
    format: Format | None = Field(default=None, description=FORMAT)
    c2pa: CredentialField = Field(default=None, description=C2PA)


class GeneratedImage(BaseModel):
    """One image in base64, with the parameters that reproduce it."""

    seed: int | None = None
    z: str | None = Field(
        default=None, description="float32 in base64, if it was sent or requested."
    )
    w: str | None = Field(
        default=None, description="float32 in base64, if it was sent or requested."
    )
    class_: str | None = Field(default=None, alias="class")
    blend: dict[str, float] | None = None
    truncation: float | None = None
    transform: list[list[float]] | None = None
    score: float | None = Field(
        default=None, description="The score of the discriminator, for a request with `rank`."
    )
    media_type: str
    data: str = Field(description="base64")


class GenerateResponse(ModelIdentity):
    """Images in the order of their sources."""

    images: list[GeneratedImage]
