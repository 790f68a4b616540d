"""Responses of `/v1/models`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field


class ModelPlan(BaseModel):
    """How a model is executed: parallel batches, threads per batch, and rows per batch."""

    workers: int
    threads: int
    max_rows: int
    alone: int | None = Field(
        default=None,
        description="Threads of a batch while no other batch runs, if more than `threads`.",
    )
    buckets: list[int] | None = None
    source: Literal["measured", "cached", "set", "default"]


class DirectionCard(BaseModel):
    """A named direction in latent space."""

    name: str
    space: Literal["w", "z"]
    method: str
    description: str
    layers: list[int] = Field(description="The style layers that it moves; empty in z.")
    strip: str | None = Field(
        default=None, description="The URL of an image that shows the direction."
    )
    figures: dict[str, Any] | None = Field(
        default=None,
        description="What a step of one unit changes: `effect`, and `drift` of what should stay; "
        "with those of random directions.",
    )


class EncoderCard(BaseModel):
    """The encoder of a model, for /v1/invert."""

    passes: int
    figures: list[dict[str, Any]] = Field(
        default=[], description="Distances of reconstructions, with those of simple baselines."
    )


class ModelCard(BaseModel):
    """A model in the form that OpenAI's clients read, with additional fields of Ganymede."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    name: str
    version: str
    state: str
    reason: str | None = None
    provider: str | None = None
    plan: ModelPlan | None = None
    golden: Literal["exact", "near"] | None = None
    # With a memory budget: whether the model is loaded (otherwise it is loaded on demand), and the
    # memory that it used when it was last loaded.
    loaded: bool | None = None
    memory_bytes: int | None = None
    digest: str | None = None
    task: str | None = None
    summary: str | None = None
    classes: list[str] = []
    truncation: dict[str, float] | None = None
    styles: dict[str, Any] | None = None
    transform: bool = Field(
        default=False, description="Whether its images can be translated, rotated and scaled."
    )
    discriminator: dict[str, Any] | None = Field(
        default=None,
        description="If present, requests can select images by its score, with `rank`. Contains "
        "the quality of the images that are kept, by method and share.",
    )
    image: dict[str, int] | None = None
    audio: dict[str, int] | None = Field(
        default=None, description="For a model of audio: `sample_rate` in Hz, and `samples`."
    )
    text: dict[str, Any] | None = Field(
        default=None, description="For a model of text: its vocabulary, unit and length."
    )
    text_encoder: dict[str, Any] | None = Field(
        default=None, description="For a text encoder: its tokenizer and dimension."
    )
    text_input: dict[str, Any] | None = Field(
        default=None, description="For text to image: the text encoder, by name and digest."
    )
    directions: list[DirectionCard] | None = Field(
        default=None, description="The directions for /v1/edit, if the model has them."
    )
    encoder: EncoderCard | None = Field(
        default=None, description="The encoder for /v1/invert, if the model has one."
    )
    versions: list[dict[str, str | None]] = []


class ModelList(BaseModel):
    """The default version of every model."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class ModelDetail(ModelCard):
    """One model, with its complete manifest."""

    manifest: dict[str, Any] | None = None
