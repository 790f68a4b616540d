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
from service.runtime.images.animation import DEFAULT_QUALITY
from service.runtime.video.walk_output import MAX_ENLARGED_SIDE, MAX_SCALE, EnlargeFilter


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
        default=24.0, description="Frames per second of an animation or a video."
    )
    scale: Annotated[int, Field(ge=1, le=MAX_SCALE)] | None = Field(
        default=None,
        description="Enlarges the frames of an animation or a video by this factor, to at most "
        f"{MAX_ENLARGED_SIDE} pixels. Default: 1.",
    )
    filter: EnlargeFilter | None = Field(
        default=None, description="How frames are enlarged. Default: nearest."
    )
    quality: Annotated[int, Field(ge=1, le=100)] | None = Field(
        default=None,
        description=f"Of mp4 and webm; higher is better and larger. Default: {DEFAULT_QUALITY}.",
    )
    format: AnimationFormat | None = Field(
        default=None,
        description="webp, gif and png are animations, mp4 (H.264) and webm (VP9) videos; zip "
        "holds a PNG for each frame, npy one array of all frames. Default: webp.",
    )
