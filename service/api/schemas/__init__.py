"""What requests and answers look like."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.runtime.latent.seeds import MAX_SEED
from service.runtime.models.manifest import StyleGroup

Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
# Beyond what any operator may allow; the maximum in force is a setting.
MOST_IMAGES = 10_000
# More than any model has.
MOST_STYLE_LAYERS = 256
MOST_VALUES = 2**16
# A class by its name or its index.
ClassSelector = str | Annotated[int, Field(ge=0)]
# A layer by its index, or all layers of a group.
LayerSelector = StyleGroup | Annotated[int, Field(ge=0)]
TruncationField = Annotated[float, Field(allow_inf_nan=False)]
Format = Literal["png", "jpeg", "webp", "npy", "zip", "json"]
AnimationFormat = Literal["webp", "gif", "png", "zip", "npy"]
Weight = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
# Weights of classes by name or, as text, by index.
ClassWeightsField = Annotated[dict[str, Weight], Field(min_length=1, max_length=MOST_IMAGES)]

_Value = Annotated[float, Field(allow_inf_nan=False)]
_Row = Annotated[list[_Value], Field(min_length=1, max_length=MOST_VALUES, fail_fast=True)]
_Text = Annotated[str, Field(max_length=8 * MOST_VALUES)]
# Float values in a list, or float32, little-endian, in base64, as answers and files have them.
LatentField = _Text | _Row
# One row for each layer, or one row for all of them.
StylesField = (
    _Text
    | _Row
    | Annotated[list[_Row], Field(min_length=1, max_length=MOST_STYLE_LAYERS, fail_fast=True)]
)


class Motion(BaseModel):
    """How a picture is moved and turned: made larger, turned about its middle, and then moved."""

    model_config = ConfigDict(extra="forbid", strict=True)

    translate: Annotated[list[_Value], Field(min_length=2, max_length=2)] = Field(
        default=[0.0, 0.0], description="To the right and down, in shares of the picture's side."
    )
    rotate: _Value = Field(default=0.0, description="Degrees, against the clock.")
    scale: Annotated[float, Field(gt=0.01, le=100, allow_inf_nan=False)] = 1.0


_Rows = Annotated[
    list[Annotated[list[_Value], Field(min_length=3, max_length=3)]],
    Field(min_length=3, max_length=3),
]
TransformField = Motion | _Rows

_TRANSFORM = (
    "Where the picture lies, for a model that takes it (StyleGAN3): how it is moved and turned, or "
    "the 3×3 matrix from a place in the picture to the place whose content is shown there."
)
_TRUNCATION = (
    "How far the picture is drawn towards the average one, in the range that the model states; "
    "its default when not said."
)
_CLASS = (
    "A class by name or index, or an object of weights by name, from which the class of each "
    "picture is drawn: the same class for the same seed."
)
_BLEND = "Weights of classes by name: the picture is between these classes."
_STRICT = ConfigDict(extra="forbid", strict=True)


class SourceRequest(BaseModel):
    """What a picture comes from: one of `seed`, `z` and `w`, and what goes with it."""

    model_config = _STRICT

    seed: Seed | None = None
    z: LatentField | None = Field(
        default=None, description="A latent: floats, or float32 in base64."
    )
    w: StylesField | None = Field(
        default=None,
        description="Styles: a row for each layer, or one for all; floats, or float32 in base64. "
        "They are past class and truncation, so neither goes with them.",
    )
    class_: ClassSelector | ClassWeightsField | None = Field(
        default=None, alias="class", description=_CLASS
    )
    blend: ClassWeightsField | None = Field(default=None, description=_BLEND)
    truncation: TruncationField | None = Field(default=None, description=_TRUNCATION)
    transform: TransformField | None = Field(
        default=None, description=f"{_TRANSFORM} Of /v1/generate alone."
    )


# A seed, or a whole source.
SourceOrSeed = Seed | SourceRequest
SourceList = Annotated[
    list[SourceOrSeed], Field(min_length=1, max_length=MOST_IMAGES, fail_fast=True)
]


class GenerateRequest(BaseModel):
    """Pictures from seeds or latents: `n` from `seed` on, or one for each of a list.

    One of `seed`, `seeds`, `z`, `w` and `images` says where they come from; random seeds when none
    does.
    """

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"model": "dcgan-fashion", "n": 4, "seed": 7}]},
    )

    model: str = Field(description="`name`, or `name@version`.")
    n: int | None = Field(default=None, ge=1, description="How many pictures; 1 when not said.")
    seed: Seed | None = Field(
        default=None,
        description="Picture i has seed + i. Drawn at random when no source is said.",
    )
    # The first bad seed is enough to refuse the request; a million of them would take seconds.
    seeds: Annotated[list[Seed], Field(min_length=1, max_length=MOST_IMAGES, fail_fast=True)] | (
        None
    ) = None
    z: Annotated[list[LatentField], Field(min_length=1, max_length=MOST_IMAGES, fail_fast=True)] | (
        None
    ) = Field(default=None, description="Latents: each a list of floats, or float32 in base64.")
    w: Annotated[list[StylesField], Field(min_length=1, max_length=MOST_IMAGES, fail_fast=True)] | (
        None
    ) = Field(
        default=None,
        description="Styles, for a model that has them: each a row of floats for each layer, or "
        "one row for all, or float32 in base64.",
    )
    images: (
        Annotated[list[SourceRequest], Field(min_length=1, max_length=MOST_IMAGES, fail_fast=True)]
        | None
    ) = Field(
        default=None,
        description="A source for each picture. What one does not say of class and truncation is "
        "as the request says.",
    )
    class_: ClassSelector | ClassWeightsField | list[ClassSelector] | None = Field(
        default=None,
        alias="class",
        description=f"{_CLASS} Or a list, one for each picture. Seed s has class s modulo their "
        "number when none is said.",
    )
    blend: ClassWeightsField | None = Field(default=None, description=_BLEND)
    truncation: (
        TruncationField
        | Annotated[list[TruncationField], Field(max_length=MOST_IMAGES, fail_fast=True)]
        | None
    ) = Field(default=None, description=f"{_TRUNCATION} One, or as many as there are pictures.")
    transform: TransformField | None = Field(
        default=None, description=f"{_TRANSFORM} Of all pictures that say none themselves."
    )
    return_: Annotated[list[Literal["z", "w"]], Field(max_length=2)] = Field(
        default=[],
        alias="return",
        description="What else comes back of each picture, in JSON as float32 in base64, in a ZIP "
        "as NPY: its latent z, and for a model with styles its w.",
    )
    format: Format | None = Field(
        default=None,
        description="Goes before the Accept header. One picture comes as itself (png, jpeg, webp); "
        "several come as JSON with base64, unless zip or npy is asked for.",
    )


class SampleClassesRequest(BaseModel):
    """Pictures by class: so many of each that `classes` names, `per_class` of every class, or `n`
    of a `blend`.
    """

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
    blend: ClassWeightsField | None = Field(default=None, description=_BLEND)
    n: int | None = Field(
        default=None, ge=1, description="How many pictures of a blend; 1 when not said."
    )
    seed: Seed | None = Field(
        default=None, description="Picture i has seed + i, over all classes in their order."
    )
    truncation: TruncationField | None = Field(default=None, description=_TRUNCATION)
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
                    "model": "stylegan2-flowers",
                    "rows": [1, 2],
                    "columns": [5, 6, 7],
                    "layers": "coarse",
                    "format": "png",
                }
            ]
        },
    )

    model: str = Field(description="`name`, or `name@version`: one that has styles.")
    rows: SourceList = Field(description="The styles that stay: seeds, or whole sources.")
    columns: SourceList = Field(
        description="The styles that `layers` takes over: seeds, or whole sources."
    )
    layers: (
        StyleGroup
        | Annotated[
            list[LayerSelector], Field(min_length=1, max_length=MOST_STYLE_LAYERS, fail_fast=True)
        ]
        | Annotated[
            dict[str, Annotated[float, Field(ge=0, le=1)]],
            Field(min_length=1, max_length=MOST_STYLE_LAYERS),
        ]
    ) = Field(
        default="coarse",
        description="The layers that follow the columns: a group, a list of groups and indices, or "
        "an object from groups and indices to weights, 0 the row's style and 1 the column's.",
    )
    class_: ClassSelector | ClassWeightsField | None = Field(
        default=None,
        alias="class",
        description=f"{_CLASS} Of all sources that say nothing themselves. Seed s has class s "
        "modulo their number when none is said at all.",
    )
    truncation: TruncationField | None = Field(
        default=None, description=f"{_TRUNCATION} Of all sources that say nothing themselves."
    )
    format: Format | None = Field(
        default=None,
        description="Goes before the Accept header. png, jpeg and webp give one picture: of one "
        "row and one column the mixed one, else the grid, with the columns' own pictures above it "
        "and the rows' to its left. json, zip and npy give the mixed ones in row-major order.",
    )


class InterpolateRequest(BaseModel):
    """A walk through latent space: frames from source to source, evenly spaced."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {"model": "dcgan-fashion", "sources": [1, 2, 3], "frames": 24, "format": "webp"}
            ]
        },
    )

    model: str = Field(description="`name`, or `name@version`.")
    sources: Annotated[
        list[SourceOrSeed], Field(min_length=2, max_length=MOST_IMAGES, fail_fast=True)
    ] = Field(description="What the walk goes through: seeds, or whole sources.")
    frames: int = Field(default=60, ge=2, description="How many, from the first to the last.")
    space: Literal["z", "w"] | None = Field(
        default=None,
        description="z, or w for a model with styles, which is its default: steps in w look even.",
    )
    path: Literal["linear", "spherical"] | None = Field(
        default=None,
        description="spherical keeps to the length that latents have, and is the default in z; "
        "linear is the default in w.",
    )
    loop: bool = Field(default=False, description="Whether the walk goes back to the first source.")
    class_: ClassSelector | None = Field(
        default=None, alias="class", description="Of all sources that say nothing themselves."
    )
    truncation: TruncationField | None = Field(default=None, description=_TRUNCATION)
    fps: Annotated[float, Field(ge=1, le=60)] = Field(
        default=24.0, description="Frames a second of an animation."
    )
    format: AnimationFormat | None = Field(
        default=None,
        description="webp, gif and png are animations (WebP when nothing is said); zip holds a PNG "
        "for each frame, npy an array of all.",
    )


class GeneratedImage(BaseModel):
    """One picture in base64, with what is needed to make it again."""

    seed: int | None = None
    z: str | None = Field(default=None, description="float32 in base64, where given or asked for.")
    w: str | None = Field(default=None, description="float32 in base64, where given or asked for.")
    class_: str | None = Field(default=None, alias="class")
    blend: dict[str, float] | None = None
    truncation: float | None = None
    transform: list[list[float]] | None = None
    media_type: str
    data: str = Field(description="base64")


class GenerateResponse(BaseModel):
    """Pictures in the order of their sources."""

    model: str
    version: str
    digest: str
    images: list[GeneratedImage]


class UsedSource(BaseModel):
    """Where a picture comes from, made definite."""

    seed: int | None = None
    z: str | None = None
    w: str | None = None
    class_: str | None = Field(default=None, alias="class")
    blend: dict[str, float] | None = None
    truncation: float | None = None


class MixedImage(BaseModel):
    """One picture in base64: the styles of `row`, but of `layers` those of `column`."""

    row: UsedSource
    column: UsedSource
    layers: list[int] | dict[str, float]
    media_type: str
    data: str = Field(description="base64")


class MixStylesResponse(BaseModel):
    """Pictures in row-major order."""

    model: str
    version: str
    digest: str
    images: list[MixedImage]


class ImageToImageResult(BaseModel):
    """One picture in base64: what was made of which input."""

    task: str
    direction: str | None = None
    input: str = Field(description="SHA-256 of the picture that went in, as it was understood.")
    mask: str | None = Field(default=None, description="The same of the mask.")
    source: dict[str, Any] | None = Field(
        default=None, description="How the picture that went in was made, where a model made it."
    )
    media_type: str
    data: str = Field(description="base64")


class ImageToImageResponse(BaseModel):
    """Pictures in the order of those that went in."""

    model: str
    version: str
    digest: str
    images: list[ImageToImageResult]


class ProblemDocument(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] = []
    request_id: str | None = Field(default=None, description="The header X-Request-Id says it too.")


class ModelPlan(BaseModel):
    """How a model is run: so many batches at a time, each of so many threads and rows at most."""

    workers: int
    threads: int
    max_rows: int
    alone: int | None = Field(
        default=None, description="Threads of a batch that has the machine to itself, where more."
    )
    buckets: list[int] | None = None
    source: Literal["measured", "cached", "set", "default"]


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
    plan: ModelPlan | None = None
    golden: Literal["exact", "near"] | None = None
    # With a budget of memory: whether it is loaded, or will be when it is asked for; and what it
    # took when it was last loaded.
    loaded: bool | None = None
    memory_bytes: int | None = None
    digest: str | None = None
    task: str | None = None
    summary: str | None = None
    classes: list[str] = []
    truncation: dict[str, float] | None = None
    styles: dict[str, Any] | None = None
    transform: bool = Field(
        default=False, description="Whether its pictures can be moved and turned."
    )
    image: dict[str, int] | None = None
    versions: list[dict[str, str | None]] = []


class ModelList(BaseModel):
    """All models, each at the version that its bare name means."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class ModelDetail(ModelCard):
    """One model, with its whole manifest."""

    manifest: dict[str, Any] | None = None
