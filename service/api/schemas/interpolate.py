"""Request of `/v1/interpolate`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from service.api.schemas.fields import (
    MAX_LISTED_IMAGES,
    MODEL,
    TRUNCATION,
    AnimationFormat,
    ClassSelector,
    RequestModel,
    SourceOrSeed,
    TruncationField,
)


class InterpolateRequest(RequestModel):
    """An interpolation in latent space: evenly spaced frames from source to source."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {"model": "dcgan-fashion", "sources": [1, 2, 3], "frames": 24, "format": "webp"}
            ]
        },
    )

    model: str = Field(description=MODEL)
    sources: Annotated[
        list[SourceOrSeed], Field(min_length=2, max_length=MAX_LISTED_IMAGES, fail_fast=True)
    ] = Field(description="The key frames: seeds, or complete sources.")
    frames: int = Field(
        default=60, ge=2, description="The number of frames, first and last included."
    )
    space: Literal["z", "w"] | None = Field(
        default=None,
        description="The space to interpolate in. Default: w for a model with styles, where equal "
        "steps look equal; otherwise z.",
    )
    path: Literal["linear", "spherical"] | None = Field(
        default=None,
        description="spherical preserves the typical norm of a latent, and is the default in z; "
        "linear is the default in w.",
    )
    loop: bool = Field(
        default=False, description="Whether to return to the first source at the end."
    )
    class_: ClassSelector | None = Field(
        default=None,
        alias="class",
        description="Applies to sources without a class of their own.",
    )
    truncation: TruncationField | None = Field(default=None, description=TRUNCATION)
    fps: Annotated[float, Field(ge=1, le=60)] = Field(
        default=24.0, description="Frames per second of an animation."
    )
    format: AnimationFormat | None = Field(
        default=None,
        description="webp, gif and png are animations; zip holds a PNG for each frame, npy one "
        "array of all frames. Default: webp.",
    )
