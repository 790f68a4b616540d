"""Request and response of `/v1/invert`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from service.api.schemas.fields import (
    C2PA,
    FORMAT,
    MODEL,
    ClassSelector,
    CredentialField,
    Files,
    Format,
    ModelIdentity,
    RequestModel,
)

# A PNG file of 2 × 2 pixels.
_EXAMPLE_IMAGE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAFklEQVR42mM+EVDxrYKB4cOdKBu3aQAuRgZAn0eK"
    "rgAAAABJRU5ErkJggg=="
)


class InvertRequest(RequestModel):
    """Images of any size, whose latents are to be found.

    They are cropped around the center to the aspect ratio of the model's images, and resized.
    """

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [{"model": "stylegan2-flowers", "image": _EXAMPLE_IMAGE, "format": "json"}]
        },
    )

    model: str = Field(description=f"{MODEL} A model with an encoder: see /v1/models.")
    image: str | Files | None = Field(
        default=None,
        description="A PNG, JPEG or WebP file in base64, or a list of them. In a form: the files.",
    )
    class_: ClassSelector | None = Field(
        default=None,
        alias="class",
        description="The class of the images by name or index, for class-conditional models "
        "without styles. Default: every class is tried, and the best kept.",
    )
    animated: Literal["refuse", "first"] = Field(
        default="refuse",
        description="Whether an animation is refused, or its first frame is used.",
    )
    format: Format | None = Field(
        default=None,
        description=f"{FORMAT} Images are the reconstructions, with the latent in their metadata; "
        "a ZIP also holds the latents as NPY files; npy is an array of the latents.",
    )
    c2pa: CredentialField = Field(default=None, description=C2PA)


class ResizedInput(BaseModel):
    """Sizes as width and height."""

    from_: tuple[int, int] = Field(alias="from")
    to: tuple[int, int]


class InversionResult(BaseModel):
    """How an image was fitted to the model, and how close its reconstruction is."""

    pass_: int = Field(alias="pass", description="The pass of the encoder that was the best.")
    psnr: float | None = Field(
        description="Peak signal-to-noise ratio of the reconstruction in dB; null if it is exact."
    )
    mean_squared_error: float = Field(description="For values from 0 to 1.")
    classes_tried: int | None = Field(
        default=None, description="How many classes were tried, if none was given."
    )
    input: str = Field(description="SHA-256 of the decoded image.")
    crop: tuple[int, int, int, int] | None = Field(
        default=None, description="The part that was used: x, y, width and height."
    )
    resized_input: ResizedInput | None = None
    color: Literal["gray"] | None = Field(
        default=None, description="`gray` if the colors were removed."
    )
    background: Literal["white"] | None = Field(
        default=None, description="The color behind transparent pixels."
    )


class InvertedImage(BaseModel):
    """The latent of one image: w for a model with styles, otherwise z with its class."""

    w: str | None = Field(default=None, description="float32 in base64, for every layer.")
    z: str | None = Field(default=None, description="float32 in base64.")
    class_: str | None = Field(default=None, alias="class")
    truncation: float | None = None
    inversion: InversionResult
    media_type: str
    data: str = Field(description="The reconstruction, base64.")


class InvertResponse(ModelIdentity):
    """Latents in the order of the images."""

    images: list[InvertedImage]
