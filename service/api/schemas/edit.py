"""Request and response of `/v1/edit`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from service.api.schemas.fields import (
    C2PA,
    MAX_DIRECTIONS,
    MAX_LISTED_IMAGES,
    AmountField,
    CredentialField,
    Format,
    LayersField,
    ModelIdentity,
)
from service.api.schemas.generate import SourcesRequest
from service.api.schemas.mix_styles import UsedSource
from service.runtime.latent.editing import MAX_AMOUNT


class EditRequest(SourcesRequest):
    """Images from seeds or latents, moved along named directions of the model.

    The sources are those of `/v1/generate`. With a list of steps for one direction, the result is a
    strip of images for each source; with lists for two directions, a grid for one source.
    """

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "model": "stylegan2-flowers",
                    "seed": 7,
                    "directions": {"size": [-2, -1, 0, 1, 2]},
                    "format": "png",
                }
            ]
        },
    )

    directions: Annotated[
        dict[
            str,
            AmountField
            | Annotated[
                list[AmountField], Field(min_length=1, max_length=MAX_LISTED_IMAGES, fail_fast=True)
            ],
        ],
        Field(min_length=1, max_length=MAX_DIRECTIONS, fail_fast=True),
    ] = Field(
        description="How far the latent is moved along each direction, by name, in standard "
        f"deviations of the latents, from {-MAX_AMOUNT:g} to {MAX_AMOUNT:g}; or a list of steps. "
        "/v1/models lists the directions of a model."
    )
    layers: LayersField | None = Field(
        default=None,
        description="The layers that are moved, instead of those of each direction: a group, an "
        "index, a list of groups and indices, or an object that maps them to weights from 0 to 1.",
    )
    return_: Annotated[list[Literal["z", "w"]], Field(max_length=1, fail_fast=True)] = Field(
        default=(),  # type: ignore[arg-type]  # A list would be copied for every request.
        alias="return",
        description="`w` for a model with styles, otherwise `z`: returns the moved latent with "
        "each image, as `edited_w` or `edited_z`. JSON contains it as float32 in base64, a ZIP as "
        "NPY files.",
    )
    format: Format | None = Field(
        default=None,
        description="Takes precedence over the Accept header. png, jpeg and webp return one image: "
        "the edited image, or a grid in which every source is a row and every step a column; with "
        "steps of two directions, those of the first are rows and those of the second columns. "
        "json, zip and npy return the images in row-major order.",
    )
    c2pa: CredentialField = Field(default=None, description=C2PA)


class EditedImage(UsedSource):
    """One image in base64: its source, and how far it was moved along each direction."""

    transform: list[list[float]] | None = None
    directions: dict[str, float]
    layers: list[int] | dict[str, float] | None = None
    directions_sha256: str = Field(
        description="The first digits of the SHA-256 of the model's directions."
    )
    edited_w: str | None = Field(
        default=None, description="The moved latent, float32 in base64, if it was requested."
    )
    edited_z: str | None = Field(default=None, description="The same for a model without styles.")
    media_type: str
    data: str = Field(description="base64")


class EditResponse(ModelIdentity):
    """Images in row-major order."""

    images: list[EditedImage]
