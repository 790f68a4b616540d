"""Requests and responses of OpenAI's image API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.api.problems import INVALID_REQUEST
from service.api.schemas.fields import (
    ClassSelector,
    CredentialField,
    Files,
    RequestModel,
    Seed,
    TruncationField,
)
from service.runtime.text.requests import MAX_PROMPT

# The limit of OpenAI's API.
_MAX_PROMPT_LENGTH = 32_000
_IGNORED = "Accepted for compatibility with OpenAI's API; has no effect."
_SEED = "Extension. Image i has the seed `seed + i` modulo 2³². Default: derived from the "
DEFAULT_STRENGTH = 0.3


class OutputRequest(RequestModel):
    """The fields that all requests have: the model, and what is returned."""

    model: str = Field(description="`name`, or `name@version`.")
    n: int | None = Field(default=None, ge=1, description="Number of images; default: 1.")
    size: str | None = Field(
        default=None,
        description="`auto`: the size of the model's images. WIDTHxHEIGHT: images are resampled to "
        "this size (Lanczos), whatever its aspect ratio.",
    )
    response_format: Literal["b64_json", "url"] | None = Field(
        default=None, description="Default: b64_json. url is only for generations."
    )
    output_format: Literal["png", "jpeg", "webp"] | None = None
    c2pa: CredentialField = Field(default=None, description="Extension, as in `/v1/generate`.")
    user: str | None = Field(default=None, description=_IGNORED)


class StreamedRequest(OutputRequest):
    """The fields of requests whose images can be streamed."""

    stream: bool | None = Field(
        default=None,
        description="True: Server-Sent Events, one for each image as soon as it is ready.",
    )
    partial_images: Annotated[int, Field(ge=0, le=3)] | None = Field(
        default=None,
        description="Accepted, without effect: the models make an image in one pass, so that there "
        "are no partial images.",
    )
    background: str | None = Field(default=None, description=_IGNORED)
    complexity: str | None = Field(default=None, description=_IGNORED)
    moderation: str | None = Field(default=None, description=_IGNORED)
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = Field(
        default=None, description=_IGNORED
    )
    quality: str | None = Field(default=None, description=_IGNORED)
    safety_identifier: str | None = Field(default=None, description=_IGNORED)


class ImagesRequest(StreamedRequest):
    """The body that `client.images.generate` sends; `seed` and `truncation` go in `extra_body`."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"model": "cgan-fashion", "prompt": "sneaker", "n": 2}]},
    )

    prompt: str = Field(
        min_length=1,
        max_length=_MAX_PROMPT_LENGTH,
        description="For a text-to-image model: a description of the image, of at most "
        f"{MAX_PROMPT:,} characters. For a class-conditional model: a class, by name "
        "(case-insensitive) or by index. For other models: a seed. Decimal digits are the seed "
        "itself; other text is hashed to a seed.",
    )
    response_format: Literal["b64_json", "url"] | None = Field(
        default=None,
        description="Default: b64_json. With url, the response has the URL of each image, which is "
        "generated when the URL is requested; nothing is stored.",
    )
    seed: Seed | None = Field(
        default=None,
        description=f"{_SEED}prompt, or random for a class-conditional or text-to-image model.",
    )
    truncation: TruncationField | None = Field(
        default=None, description="Extension, as in `/v1/generate`."
    )
    style: str | None = Field(default=None, description=_IGNORED)


# The fields of a form are text, from which numbers and booleans are parsed.
_FORM = ConfigDict(extra="forbid")


class ImageEditRequest(StreamedRequest):
    """The form that `client.images.edit` sends; `direction` goes in `extra_body`."""

    model_config = _FORM

    image: str | Files | None = Field(
        default=None,
        description="A PNG, JPEG or WebP file, or several: each of them is edited.",
    )
    mask: str | Files | None = Field(
        default=None,
        description="For models that inpaint: a file in the size of the image, whose fully "
        "transparent pixels are the area to fill. Default: the transparent pixels of the image.",
    )
    prompt: str | None = Field(
        default=None,
        max_length=_MAX_PROMPT_LENGTH,
        description="For a model with several directions: the name of a direction "
        "(case-insensitive). Other models make no use of it, and the response says so.",
    )
    direction: str | None = Field(
        default=None, description="Extension. Takes precedence over the prompt."
    )
    input_fidelity: str | None = Field(default=None, description=_IGNORED)


class ImageVariationRequest(OutputRequest):
    """The form that `client.images.create_variation` sends; extensions go in `extra_body`."""

    model_config = _FORM

    image: str | Files | None = Field(default=None, description="A PNG, JPEG or WebP file.")
    seed: Seed | None = Field(default=None, description=f"{_SEED}image.")
    strength: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = Field(
        default=DEFAULT_STRENGTH,
        description="Extension. How far each image moves from the given one toward its seed: near "
        "0, all are alike; 1 is the image of the seed.",
    )
    class_: ClassSelector | None = Field(
        default=None,
        alias="class",
        description="Extension. The class of the image, by name or index. Default: the class whose "
        "image is most like it.",
    )


class OpenAIImage(BaseModel):
    """One image, with the parameters that reproduce it."""

    model_config = ConfigDict(extra="allow")

    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str | None = Field(
        default=None, description="The class or the direction that the prompt names."
    )
    size: str
    seed: int | None = None
    class_: str | None = Field(default=None, alias="class")
    truncation: float | None = None


class TokenUsage(BaseModel):
    """Tokens. Always zero: the models have none."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    input_tokens_details: dict[str, int] = {"image_tokens": 0, "text_tokens": 0}
    output_tokens_details: dict[str, int] = {"image_tokens": 0, "text_tokens": 0}


class ImagesResponse(BaseModel):
    """Images in the order of their seeds, or of the given images."""

    created: int
    output_format: str
    size: str = Field(description="`auto` for images of several sizes.")
    resized_from: str | None = Field(
        default=None, description="The size that the model generated, if it was resampled."
    )
    background: str
    model: str
    version: str
    digest: str
    prompt: str | None = Field(
        default=None, description="For edits: what the prompt selected, `direction` or `nothing`."
    )
    variation: dict[str, Any] | None = Field(
        default=None,
        description="For variations: the `method`, `inversion` or `nearest-seed`, and how near it "
        "came to the given image.",
    )
    data: list[OpenAIImage]
    usage: TokenUsage


class OpenAIError(BaseModel):
    """An error in the format of OpenAI's API."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIErrorBody(BaseModel):
    """The body of an error response."""

    error: OpenAIError


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": OpenAIErrorBody, "description": text}
    for status, text in {
        400: INVALID_REQUEST,
        404: "No such model",
        429: "The queue is full: see Retry-After",
        503: "Not ready: see Retry-After",
        504: "The deadline has passed",
    }.items()
}
