"""What requests and answers look like."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.runtime.latents import MAX_SEED
from service.runtime.manifest import StyleGroup

Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
# Beyond what any operator may allow; the maximum in force is a setting.
MOST_IMAGES = 10_000
# More than any model has.
MOST_STYLE_LAYERS = 256
# A class by its name or its index.
ClassWish = str | Annotated[int, Field(ge=0)]
# A layer by its index, or all layers of a group.
LayerWish = StyleGroup | Annotated[int, Field(ge=0)]
TruncationWish = Annotated[float, Field(allow_inf_nan=False)]
Format = Literal["png", "jpeg", "webp", "npy", "zip", "json"]

_TRUNCATION = (
    "How far the picture is drawn towards the average one, in the range that the model states; "
    "its default when not said."
)


class GenerateRequest(BaseModel):
    """Pictures from seeds: `n` from `seed` on, or one for each of `seeds`."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"model": "dcgan-fashion", "n": 4, "seed": 7}]},
    )

    model: str = Field(description="`name`, or `name@version`.")
    n: int | None = Field(default=None, ge=1, description="How many pictures; 1 when not said.")
    seed: Seed | None = Field(
        default=None,
        description="Picture i has seed + i. Drawn at random when neither seed nor seeds is said.",
    )
    # The first bad seed is enough to refuse the request; a million of them would take seconds.
    seeds: Annotated[list[Seed], Field(min_length=1, max_length=MOST_IMAGES, fail_fast=True)] | (
        None
    ) = None
    class_: ClassWish | list[ClassWish] | None = Field(
        default=None,
        alias="class",
        description="A class by name or index, or as many as there are pictures. Seed s has class "
        "s modulo their number when none is said.",
    )
    truncation: (
        TruncationWish
        | Annotated[list[TruncationWish], Field(max_length=MOST_IMAGES, fail_fast=True)]
        | None
    ) = Field(default=None, description=f"{_TRUNCATION} One, or as many as there are pictures.")
    format: Format | None = Field(
        default=None,
        description="Goes before the Accept header. One picture comes as itself (png, jpeg, webp); "
        "several come as JSON with base64, unless zip or npy is asked for.",
    )


class SampleClassesRequest(BaseModel):
    """Pictures by class: so many of each that `classes` names, or `per_class` of every class."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [{"model": "cgan-fashion", "classes": {"sneaker": 4, "bag": 2}, "seed": 7}]
        },
    )

    model: str = Field(description="`name`, or `name@version`.")
    classes: dict[str, Annotated[int, Field(ge=1)]] | None = Field(default=None, min_length=1)
    per_class: int | None = Field(default=None, ge=1)
    seed: Seed | None = Field(
        default=None, description="Picture i has seed + i, over all classes in their order."
    )
    truncation: TruncationWish | None = Field(default=None, description=_TRUNCATION)
    format: Format | None = Field(
        default=None, description="As of generate; a ZIP has a folder for each class."
    )


class MixStylesRequest(BaseModel):
    """Every picture of `rows` with some of its layers in the style of every one of `columns`."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "model": "flowers-stylegan2",
                    "rows": [1, 2],
                    "columns": [5, 6, 7],
                    "layers": "coarse",
                    "format": "png",
                }
            ]
        },
    )

    model: str = Field(description="`name`, or `name@version`: one that has styles.")
    rows: Annotated[list[Seed], Field(min_length=1, max_length=MOST_IMAGES, fail_fast=True)] = (
        Field(description="The seeds of the styles that stay.")
    )
    columns: Annotated[list[Seed], Field(min_length=1, max_length=MOST_IMAGES, fail_fast=True)] = (
        Field(description="The seeds of the styles that `layers` takes over.")
    )
    layers: (
        StyleGroup
        | Annotated[
            list[LayerWish], Field(min_length=1, max_length=MOST_STYLE_LAYERS, fail_fast=True)
        ]
    ) = Field(
        default="coarse",
        description="The layers that follow the columns: a group, or a list of groups and indices.",
    )
    class_: ClassWish | None = Field(
        default=None,
        alias="class",
        description="A class by name or index, of all sources for which none is said below. Seed s "
        "has class s modulo their number when none is said at all.",
    )
    row_classes: Annotated[list[ClassWish], Field(max_length=MOST_IMAGES, fail_fast=True)] | (
        None
    ) = Field(default=None, description="A class for each of `rows`.")
    column_classes: Annotated[list[ClassWish], Field(max_length=MOST_IMAGES, fail_fast=True)] | (
        None
    ) = Field(default=None, description="A class for each of `columns`.")
    truncation: TruncationWish | None = Field(default=None, description=_TRUNCATION)
    format: Format | None = Field(
        default=None,
        description="Goes before the Accept header. png, jpeg and webp give one picture: of one "
        "row and one column the mixed one, else the grid, with the columns' own pictures above it "
        "and the rows' to its left. json, zip and npy give the mixed ones in row-major order.",
    )


class GeneratedImage(BaseModel):
    """One picture in base64, with what is needed to make it again."""

    seed: int
    class_: str | None = Field(default=None, alias="class")
    truncation: float | None = None
    media_type: str
    data: str = Field(description="base64")


class GenerateResponse(BaseModel):
    """Pictures in the order of their seeds."""

    model: str
    version: str
    digest: str
    images: list[GeneratedImage]


class MixedImage(BaseModel):
    """One picture in base64: the styles of `row`, but of `layers` those of `column`."""

    row: int
    column: int
    layers: list[int]
    row_class: str | None = None
    column_class: str | None = None
    truncation: float | None = None
    media_type: str
    data: str = Field(description="base64")


class MixStylesResponse(BaseModel):
    """Pictures in row-major order."""

    model: str
    version: str
    digest: str
    images: list[MixedImage]


class ProblemDocument(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] = []


class ModelCard(BaseModel):
    """A model as OpenAI's clients read it, with our fields beside theirs."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    name: str
    version: str
    state: str
    reason: str | None = None
    provider: str | None = None
    plan: dict[str, int] | None = None
    digest: str | None = None
    task: str | None = None
    summary: str | None = None
    classes: list[str] = []
    truncation: dict[str, float] | None = None
    styles: dict[str, Any] | None = None
    image: dict[str, int] | None = None
    versions: list[dict[str, str | None]] = []


class ModelList(BaseModel):
    """All models, each at the version that its bare name means."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class ModelDetail(ModelCard):
    """One model, with its whole manifest."""

    manifest: dict[str, Any] | None = None
