"""Request and response of the image-to-image routes: translate, upscale, inpaint, colorize."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.api.schemas.fields import (
    C2PA,
    FORMAT,
    MODEL,
    STRICT,
    ClassSelector,
    CredentialField,
    Files,
    Format,
    ModelIdentity,
    RequestModel,
    Seed,
    Seeds,
    TruncationField,
)

Box = Annotated[list[int], Field(min_length=4, max_length=4, fail_fast=True)]
Boxes = Annotated[list[Box], Field(min_length=1, max_length=1000, fail_fast=True)]


class SamplesRequest(RequestModel):
    """Input images that another model generates, instead of uploaded ones."""

    model_config = STRICT

    model: str
    n: Annotated[int, Field(ge=1)] | None = None
    seed: Seed | None = None
    seeds: Seeds | None = None
    class_: ClassSelector | None = Field(default=None, alias="class")
    truncation: TruncationField | None = None


class ImageToImageRequest(RequestModel):
    """Input images for an image-to-image model."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "model": "esrgan-flowers",
                    "samples": {"model": "biggan-flowers", "seeds": [1, 2]},
                }
            ]
        },
    )

    model: str = Field(description=MODEL)
    image: str | Files | None = Field(
        default=None,
        description="A PNG, JPEG or WebP file in base64, or a list of them. In a form: the files.",
    )
    mask: str | Files | None = Field(
        default=None,
        description="For inpaint: white areas are filled. One mask for all images, or one for "
        "each.",
    )
    boxes: Boxes | None = Field(
        default=None,
        description="For inpaint, instead of a mask: the areas to fill, as [x, y, width, height] "
        "in pixels.",
    )
    samples: SamplesRequest | None = Field(
        default=None, description="Images that another model generates, instead of `image`."
    )
    direction: str | None = Field(
        default=None,
        description="The direction of translation, for a model with several. Default: its first.",
    )
    animated: Literal["refuse", "first"] = Field(
        default="refuse",
        description="Whether an animation is refused, or its first frame is used.",
    )
    format: Format | None = Field(default=None, description=FORMAT)
    c2pa: CredentialField = Field(default=None, description=C2PA)


class ImageToImageResult(BaseModel):
    """One image in base64, with the digests and parameters of its input."""

    task: str
    direction: str | None = None
    input: str = Field(description="SHA-256 of the decoded input image.")
    mask: str | None = Field(default=None, description="SHA-256 of the decoded mask.")
    source: dict[str, Any] | None = Field(
        default=None, description="The parameters of the input image, if a model generated it."
    )
    media_type: str
    data: str = Field(description="base64")


class ImageToImageResponse(ModelIdentity):
    """Images in the order of the inputs."""

    images: list[ImageToImageResult]
