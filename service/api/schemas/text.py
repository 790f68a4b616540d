"""Requests and responses of `/v1/text` and `/v1/text-to-image`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.api.schemas.fields import (
    C2PA,
    FORMAT,
    MAX_LISTED_IMAGES,
    MODEL,
    PROMPT,
    TRUNCATION,
    CredentialField,
    Format,
    ModelIdentity,
    RequestModel,
    Seed,
    Seeds,
    TruncationField,
)
from service.runtime.text.requests import MAX_PREFIX, MAX_PROMPT, MAX_TEMPERATURE

TextFormat = Literal["json", "text", "events"]
Prompt = Annotated[str, Field(max_length=MAX_PROMPT)]
TemperatureField = Annotated[float, Field(ge=0, le=MAX_TEMPERATURE, allow_inf_nan=False)]


class TextRequest(RequestModel):
    """Texts: `n` of consecutive seeds, or one for each of `seeds`."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"model": "emoji-words", "n": 4, "seed": 7}]},
    )

    model: str = Field(description=MODEL)
    n: int | None = Field(default=None, ge=1, description="The number of texts. Default: 1.")
    seed: Seed | None = Field(default=None, description="Text i has seed + i. Default: random.")
    seeds: Seeds | None = None
    temperature: TemperatureField = Field(
        default=1.0,
        description="Divides the logits: below 1, likely tokens become more likely; 0 always takes "
        "the most likely one.",
    )
    prefix: Annotated[str, Field(max_length=MAX_PREFIX)] = Field(
        default="",
        description="The beginning of every text. Its characters or words must be in the model's "
        "vocabulary.",
    )
    max_length: int | None = Field(
        default=None,
        ge=1,
        description="Maximum number of tokens after the prefix. Default: that of the model, which "
        "is also the largest.",
    )
    format: TextFormat | None = Field(
        default=None,
        description="Takes precedence over the Accept header. json; text: plain text, one text per "
        "line; events: Server-Sent Events, a part of a text as soon as it is generated.",
    )


class GeneratedText(BaseModel):
    """One text, with the parameters that reproduce it."""

    seed: int
    temperature: float
    prefix: str
    max_length: int
    text: str = Field(description="With the prefix.")
    tokens: int = Field(description="The number of tokens after the prefix.")
    finish_reason: Literal["end", "length"] = Field(
        description="end: the model ended the text; length: it has `max_length` tokens."
    )


class TextResponse(ModelIdentity):
    """Texts in the order of their seeds."""

    texts: list[GeneratedText]


class TextToImageRequest(RequestModel):
    """Images of prompts: `n` images of each prompt, with consecutive seeds."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [{"model": "text2emoji", "prompt": "red heart", "n": 4, "seed": 7}]
        },
    )

    model: str = Field(description=MODEL)
    prompt: (
        Prompt
        | Annotated[list[Prompt], Field(min_length=1, max_length=MAX_LISTED_IMAGES, fail_fast=True)]
    ) = Field(description=f"{PROMPT} Or a list of prompts.")
    n: int | None = Field(
        default=None, ge=1, description="The number of images of each prompt. Default: 1."
    )
    seed: Seed | None = Field(
        default=None,
        description="Image i has seed + i, counted over all prompts in their order. Default: "
        "random.",
    )
    seeds: Seeds | None = Field(
        default=None, description="The seed of each image, instead of `seed`."
    )
    truncation: TruncationField | None = Field(default=None, description=TRUNCATION)
    format: Format | None = Field(default=None, description=FORMAT)
    c2pa: CredentialField = Field(default=None, description=C2PA)
