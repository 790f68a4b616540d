"""Request and response of `/v1/mix-styles`."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from service.api.schemas.fields import (
    C2PA,
    CLASS,
    MAX_STYLE_LAYERS,
    TRUNCATION,
    ClassSelector,
    ClassWeightsField,
    CredentialField,
    Format,
    LayerSelector,
    ModelIdentity,
    RequestModel,
    SourceList,
    TruncationField,
)
from service.runtime.models.parts.latent import StyleGroup


class MixStylesRequest(RequestModel):
    """Every image of `rows`, with the styles of every image of `columns` in some layers."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "model": "stylegan2-flowers",
                    "rows": [1, 2],
                    "columns": [5, 6, 7],
                    "layers": "coarse",
                    "format": "png",
                }
            ]
        },
    )

    model: str = Field(description="`name`, or `name@version`: a model with styles.")
    rows: SourceList = Field(description="The base styles: seeds, or complete sources.")
    columns: SourceList = Field(
        description="The styles that replace `layers`: seeds, or complete sources."
    )
    layers: (
        StyleGroup
        | Annotated[
            list[LayerSelector], Field(min_length=1, max_length=MAX_STYLE_LAYERS, fail_fast=True)
        ]
        | Annotated[
            dict[str, Annotated[float, Field(ge=0, le=1)]],
            Field(min_length=1, max_length=MAX_STYLE_LAYERS, fail_fast=True),
        ]
    ) = Field(
        default="coarse",
        description="The layers that take the styles of the columns: a group, a list of groups and "
        "indices, or an object that maps groups and indices to weights, from 0 (the row's style) "
        "to 1 (the column's style).",
    )
    class_: ClassSelector | ClassWeightsField | None = Field(
        default=None,
        alias="class",
        description=f"{CLASS} Applies to sources without a class of their own. Default: seed "
        "modulo the number of classes.",
    )
    truncation: TruncationField | None = Field(
        default=None,
        description=f"{TRUNCATION} Applies to sources without a truncation of their own.",
    )
    format: Format | None = Field(
        default=None,
        description="Takes precedence over the Accept header. png, jpeg and webp return one image: "
        "for one row and one column the mixed image, otherwise a grid with the images of the "
        "columns above it and the images of the rows to its left. json, zip and npy return the "
        "mixed images in row-major order.",
    )
    c2pa: CredentialField = Field(default=None, description=C2PA)


class UsedSource(BaseModel):
    """The complete source of an image, with every default filled in."""

    seed: int | None = None
    z: str | None = None
    w: str | None = None
    class_: str | None = Field(default=None, alias="class")
    blend: dict[str, float] | None = None
    truncation: float | None = None


class MixedImage(BaseModel):
    """One image in base64: the styles of `row`, with `layers` taken from `column`."""

    row: UsedSource
    column: UsedSource
    layers: list[int] | dict[str, float]
    media_type: str
    data: str = Field(description="base64")


class MixStylesResponse(ModelIdentity):
    """Images in row-major order."""

    images: list[MixedImage]
