"""Requests and responses of `/v1/jobs`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.api.schemas.fields import (
    MAX_LISTED_IMAGES,
    RANK,
    AmountsField,
    ClassWeightsField,
    RankField,
    RequestModel,
    Seed,
    TruncationField,
)
from service.api.schemas.image_to_image import Boxes
from service.api.schemas.text import Prompt, TemperatureField
from service.offline.queue.table import JobState
from service.offline.queue.webhook_table import WebhookState
from service.runtime.text.requests import MAX_PREFIX
from service.url_prefixes import MAX_URL_LENGTH as MAX_LOCATION_LENGTH
from service.webhooks.targets import MAX_URL_LENGTH


class JobWebhookRequest(RequestModel):
    """A notification when the job has ended, signed by the Standard Webhooks specification."""

    url: Annotated[str, Field(max_length=MAX_URL_LENGTH, examples=["https://hooks.example.com/"])]


class JobRequest(RequestModel):
    """A job with the options of `ganymede sample`.

    It generates `count` images, sounds or texts with consecutive seeds, the first of which is
    `seed`, or those of a range of seeds A-B. For an image-to-image model, it has an output for each
    image at `input`, or in an uploaded archive.
    """

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"model": "cgan-fashion", "count": 200, "classes": "balanced"}]
        },
    )

    model: str
    count: Annotated[int, Field(ge=1)] | None = None
    seed: Seed | None = None
    seeds: Annotated[str, Field(pattern=r"^\d{1,12}-\d{1,12}$", examples=["0-999"])] | None = None
    classes: (
        Literal["balanced"]
        | Annotated[
            list[str | Annotated[int, Field(ge=0)]],
            Field(min_length=1, max_length=MAX_LISTED_IMAGES, fail_fast=True),
        ]
        | ClassWeightsField
        | None
    ) = Field(
        default=None,
        description="`balanced`, a list of classes to cycle through, or an object of weights from "
        "which the class of each seed is drawn.",
    )
    truncation: TruncationField | None = None
    mix: Annotated[str, Field(max_length=1000)] | None = Field(
        default=None,
        description="The layers that take the styles of a second seed, separated by commas: "
        "coarse, middle, fine, or indices.",
    )
    resize: Annotated[str, Field(max_length=20, examples=["64x64"])] | None = None
    directions: AmountsField | None = Field(
        default=None,
        description="Moves every image along directions of the model, as for /v1/edit.",
    )
    rank: RankField | None = Field(default=None, description=RANK)
    input: Annotated[str, Field(max_length=MAX_LOCATION_LENGTH)] | None = Field(
        default=None,
        description="For an image-to-image model: the URL of a folder of images, or of a ZIP "
        "archive or tar file of them, below one that the operator allows. In a form: the file.",
        examples=["s3://bucket/photos.zip"],
    )
    mask: Annotated[str, Field(max_length=MAX_LOCATION_LENGTH)] | None = Field(
        default=None,
        description="For inpaint: the URL of masks with the names of the images; white areas are "
        "filled. In a form: a ZIP archive or tar file.",
    )
    boxes: Boxes | None = Field(
        default=None,
        description="For inpaint, instead of masks: the areas to fill in every image, as [x, y, "
        "width, height] in pixels.",
    )
    prompts: (
        Annotated[list[Prompt], Field(min_length=1, max_length=MAX_LISTED_IMAGES, fail_fast=True)]
        | None
    ) = Field(
        default=None,
        description="For a text-to-image model: image i has prompt i, from the first again if "
        "`count` is larger. Default for `count`: the number of prompts.",
    )
    temperature: TemperatureField | None = Field(
        default=None,
        description="For a model of texts, as for /v1/text. Default: 1.",
    )
    prefix: Annotated[str, Field(max_length=MAX_PREFIX)] | None = Field(
        default=None, description="For a model of texts: the beginning of every text."
    )
    max_length: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="For a model of texts: the maximum number of tokens after the prefix. Default: "
        "that of the model, which is also the largest.",
    )
    direction: str | None = Field(
        default=None,
        description="The direction of translation, for a model with several. Default: its first.",
    )
    output: Annotated[str, Field(max_length=MAX_LOCATION_LENGTH)] | None = Field(
        default=None,
        description="The URL of the folder for the results, below one that the operator allows. "
        "Default: the service keeps them, and they are downloaded from it.",
        examples=["s3://bucket/results/flowers"],
    )
    format: Literal["webdataset", "parquet", "folder", "jsonl"] | None = Field(
        default=None,
        description="`folder`, one file for each image, only with `output`. `jsonl` for texts, and "
        "only for them. Default: `webdataset`, or `jsonl`.",
    )
    image: Literal["png", "jpeg", "webp"] = "png"
    audio: Literal["wav", "flac", "npy"] | None = Field(
        default=None, description="The files of a model that returns audio. Default: wav."
    )
    shard_size: Annotated[int, Field(ge=1, le=100_000)] | None = None
    webhook: JobWebhookRequest | None = Field(
        default=None,
        description="Where to send a signed notification when the job is done, has failed, or was "
        "cancelled. The operator sets the hosts that are permitted.",
    )


class JobFile(BaseModel):
    """A file of a job, to be downloaded from `url`."""

    name: str
    bytes: int
    url: str


class JobWebhookAnswer(BaseModel):
    """The webhook of a job. Times are in seconds since the epoch."""

    id: str = Field(description="The `webhook-id`, which is the same for all attempts.")
    url: str
    state: WebhookState
    attempts: int
    next_attempt: float | None = None
    delivered: float | None = None
    error: str | None = Field(default=None, description="Why the last attempt failed.")


class JobAnswer(BaseModel):
    """The state and progress of a job. Times are in seconds since the epoch."""

    id: str
    state: JobState
    model: str
    count: int
    images: int = Field(description="The images, sounds or texts that are complete.")
    failed: int
    bytes: int
    created: float
    started: float | None = None
    ended: float | None = None
    images_per_second: float | None = None
    eta_s: float | None = None
    error: str | None = Field(
        default=None, description="Why the job failed, or why it waits before it is tried again."
    )
    attempts: int = Field(
        default=0,
        description="How often the job was started without finishing a part of it since.",
    )
    expires: float | None = Field(
        default=None, description="When the job and its files will be deleted."
    )
    webhook: JobWebhookAnswer | None = None
    input: str | None = Field(
        default=None,
        description="Where the input images are, or `upload:` and the name of the uploaded file.",
    )
    output: str | None = Field(
        default=None,
        description="The URL of the folder with the results, which are not among `files` then.",
    )
    files: list[JobFile] = []


class JobList(BaseModel):
    """The jobs of the caller, newest first; for an administrator, all jobs."""

    data: list[JobAnswer]
    has_more: bool = False
    next: str | None = Field(default=None, description="The URL of the next page, if there is one.")
