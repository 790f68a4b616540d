"""Field types that several requests share, and their conversion to the runtime's types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.runtime import request_fields
from service.runtime.latent.editing import MAX_AMOUNT
from service.runtime.latent.seeds import MAX_SEED
from service.runtime.models.parts.latent import StyleGroup
from service.runtime.ranking import Method, Selection

Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
# Above any limit that an operator may set; the actual limit is a setting.
MAX_LISTED_IMAGES = 10_000
# More than any model has.
MAX_STYLE_LAYERS = 256
MAX_LATENT_VALUES = 2**16
# A class by name or index.
ClassSelector = str | Annotated[int, Field(ge=0)]
# A layer by index, or all layers of a group.
LayerSelector = StyleGroup | Annotated[int, Field(ge=0)]
# Layers, or weights by layer.
LayersField = (
    LayerSelector
    | Annotated[
        list[LayerSelector], Field(min_length=1, max_length=MAX_STYLE_LAYERS, fail_fast=True)
    ]
    | Annotated[
        dict[str, Annotated[float, Field(ge=0, le=1)]],
        Field(min_length=1, max_length=MAX_STYLE_LAYERS, fail_fast=True),
    ]
)
# A step along a direction.
AmountField = Annotated[float, Field(ge=-MAX_AMOUNT, le=MAX_AMOUNT, allow_inf_nan=False)]
# Steps along directions by name. More directions than any image needs.
MAX_DIRECTIONS = 100
AmountsField = Annotated[
    dict[str, AmountField], Field(min_length=1, max_length=MAX_DIRECTIONS, fail_fast=True)
]
TruncationField = Annotated[float, Field(allow_inf_nan=False)]
Format = Literal["png", "jpeg", "webp", "npy", "zip", "json"]
AudioFileFormat = Literal["wav", "flac", "png", "npy", "zip", "json"]
AnimationFormat = Literal["webp", "gif", "png", "zip", "npy", "mp4", "webm"]
Weight = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
# Weights of classes by name or, as text, by index.
ClassWeightsField = Annotated[
    dict[str, Weight], Field(min_length=1, max_length=MAX_LISTED_IMAGES, fail_fast=True)
]

_Value = Annotated[float, Field(allow_inf_nan=False)]
_Row = Annotated[list[_Value], Field(min_length=1, max_length=MAX_LATENT_VALUES, fail_fast=True)]
_Base64 = Annotated[str, Field(max_length=8 * MAX_LATENT_VALUES)]
# A list of floats, or little-endian float32 in base64, the form in which responses contain it.
LatentField = _Base64 | _Row
# One item for each output. Validation stops at the first bad item: checking a million of them would
# take seconds.
Seeds = Annotated[list[Seed], Field(min_length=1, max_length=MAX_LISTED_IMAGES, fail_fast=True)]
Latents = Annotated[
    list[LatentField], Field(min_length=1, max_length=MAX_LISTED_IMAGES, fail_fast=True)
]
# The class of all outputs, weights from which each is drawn, or a class for each output.
ClassesField = (
    ClassSelector
    | ClassWeightsField
    | Annotated[list[ClassSelector], Field(max_length=MAX_LISTED_IMAGES, fail_fast=True)]
)
# Files in base64, at least one.
Files = Annotated[list[str], Field(min_length=1, max_length=MAX_LISTED_IMAGES, fail_fast=True)]
# One row for each layer, or one row for all layers.
StylesField = (
    _Base64
    | _Row
    | Annotated[list[_Row], Field(min_length=1, max_length=MAX_STYLE_LAYERS, fail_fast=True)]
)

STRICT = ConfigDict(extra="forbid", strict=True)
# Unknown members of one object that are reported; see `RequestModel`.
_MAX_UNKNOWN_MEMBERS = 20
TRUNCATION = (
    "How far the image is moved toward the average image, in the range that the model's manifest "
    "states. Default: the model's default."
)
CLASS = (
    "A class by name or index, or an object that maps class names to weights, from which the class "
    "of each image is drawn. The same seed always draws the same class."
)
BLEND = "Weights of classes by name. The image is a blend of these classes."
TRANSFORM = (
    "Translation, rotation and scale of the image, for models that support it (StyleGAN3): an "
    "object, or the 3×3 matrix that maps a position in the image to the position in the scene that "
    "appears there."
)
MODEL = "`name`, or `name@version`."
PROMPT = (
    "A description of the image, for a text-to-image model. A prompt with more tokens than its "
    "text encoder takes is truncated, and a header says so. An empty prompt is valid."
)
FORMAT = (
    "Takes precedence over the Accept header. A single image is returned as a file (png, jpeg, "
    "webp); several images are returned as JSON with base64, unless zip or npy is requested."
)


# Whether files get Content Credentials.
CredentialField = bool | None
C2PA = (
    "Sign the files of the images with Content Credentials (C2PA): png, jpeg and webp, also in "
    "json and zip. The server must have a certificate. Default: as the server is configured."
)


class ModelIdentity(BaseModel):
    """The model that a response comes from."""

    model: str
    version: str
    digest: str


class RequestModel(BaseModel):
    """A request, or an object in one. Unknown members are errors.

    Lists and dictionaries in requests have the option `fail_fast`, and only the first unknown
    members are reported: building an error for each of a million values would take seconds.
    """

    @model_validator(mode="before")
    @classmethod
    def _limit_unknown_members(cls, value: object) -> object:
        if not isinstance(value, dict) or len(value) <= len(cls.model_fields):
            return value
        known = {field.alias or name for name, field in cls.model_fields.items()}
        unknown = [name for name in value if name not in known]
        if len(unknown) <= _MAX_UNKNOWN_MEMBERS:
            return value
        dropped = set(unknown[_MAX_UNKNOWN_MEMBERS:])
        return {name: member for name, member in value.items() if name not in dropped}


RANK = (
    "Generate more images than requested, and keep this share of them, the best by the score of "
    "the model's discriminator: 0.25 keeps the best quarter. Image i keeps its class. An object "
    "also selects the method: `rank`, or `rejection` for discriminator rejection sampling. The "
    "candidates have consecutive seeds; the response has the seeds of the images that are kept."
)


class RankRequest(RequestModel):
    """The share of the candidates to keep, and the method that selects them."""

    model_config = STRICT

    share: Annotated[float, Field(allow_inf_nan=False)] = Field(description="From 0.001 to 1.")
    method: Method = "rank"


# A share, or a share with a method.
RankField = Annotated[float, Field(allow_inf_nan=False)] | RankRequest


def selection_value(rank: RankField | None) -> Selection | None:
    """Return a selection in the form that the runtime validates."""
    if isinstance(rank, RankRequest):
        return Selection(rank.share, rank.method)
    return None if rank is None else Selection(rank)


class Motion(RequestModel):
    """How an image is transformed: scaled and rotated about its center, then translated."""

    model_config = STRICT

    translate: Annotated[list[_Value], Field(min_length=2, max_length=2, fail_fast=True)] = Field(
        default=[0.0, 0.0],
        description="To the right and down, in fractions of the image's side length.",
    )
    rotate: _Value = Field(default=0.0, description="Degrees, counterclockwise.")
    scale: Annotated[float, Field(gt=0.01, le=100, allow_inf_nan=False)] = 1.0


_Matrix = Annotated[
    list[Annotated[list[_Value], Field(min_length=3, max_length=3, fail_fast=True)]],
    Field(min_length=3, max_length=3, fail_fast=True),
]
TransformField = Motion | _Matrix


class SourceRequest(RequestModel):
    """The source of one image: one of `seed`, `z` and `w`, with its class and truncation."""

    model_config = STRICT

    seed: Seed | None = None
    z: LatentField | None = Field(
        default=None, description="A latent: floats, or float32 in base64."
    )
    w: StylesField | None = Field(
        default=None,
        description="Styles: one row for each layer, or one row for all; floats, or float32 in "
        "base64. Class and truncation are already part of w and cannot be combined with it.",
    )
    class_: ClassSelector | ClassWeightsField | None = Field(
        default=None, alias="class", description=CLASS
    )
    blend: ClassWeightsField | None = Field(default=None, description=BLEND)
    truncation: TruncationField | None = Field(default=None, description=TRUNCATION)
    transform: TransformField | None = Field(
        default=None, description=f"{TRANSFORM} Only for /v1/generate."
    )

    def fields(self) -> request_fields.SourceFields:
        """Return the fields in the form that the runtime validates."""
        return request_fields.SourceFields(
            self.seed,
            self.z,
            self.w,
            self.class_,
            self.blend,
            self.truncation,
            transform_value(self.transform),
        )


# A seed, or a complete source.
SourceOrSeed = Seed | SourceRequest
SourceList = Annotated[
    list[SourceOrSeed], Field(min_length=1, max_length=MAX_LISTED_IMAGES, fail_fast=True)
]


def source_fields(sources: Sequence[SourceOrSeed]) -> list[request_fields.SourceFields]:
    """Return the fields of each source; a number is a seed."""
    return [
        request_fields.SourceFields(source) if isinstance(source, int) else source.fields()
        for source in sources
    ]


def transform_value(transform: TransformField | None) -> request_fields.TransformValue | None:
    """Return a transform in the form that the runtime validates."""
    if isinstance(transform, Motion):
        return request_fields.MotionValue(transform.translate, transform.rotate, transform.scale)
    return transform
