"""What comes in on the routes from picture to picture: forms with files, or JSON with base64."""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from service.api.field_errors import describe_field_errors
from service.api.problems import Problem, client_disconnected, invalid
from service.api.schemas import MOST_IMAGES, ClassSelector, Format, Seed, TruncationField

Box = Annotated[list[int], Field(min_length=4, max_length=4)]
Boxes = Annotated[list[Box], Field(min_length=1, max_length=1000)]
_Files = Annotated[list[str], Field(min_length=1, max_length=MOST_IMAGES, fail_fast=True)]

_JSON_FIELDS = ("boxes", "samples")


class SamplesRequest(BaseModel):
    """Pictures that another model makes, in place of uploaded ones."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    n: Annotated[int, Field(ge=1)] | None = None
    seed: Seed | None = None
    seeds: Annotated[list[Seed], Field(min_length=1, max_length=MOST_IMAGES, fail_fast=True)] | (
        None
    ) = None
    class_: ClassSelector | None = Field(default=None, alias="class")
    truncation: TruncationField | None = None


class ImageToImageRequest(BaseModel):
    """Pictures for a model that makes pictures of pictures."""

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

    model: str = Field(description="`name`, or `name@version`.")
    image: str | _Files | None = Field(
        default=None,
        description="PNG, JPEG or WebP, in base64: one, or a list. In a form the files themselves.",
    )
    mask: str | _Files | None = Field(
        default=None,
        description="For inpaint: white is to be filled. One for all pictures, or one for each.",
    )
    boxes: Boxes | None = Field(
        default=None,
        description="For inpaint, in place of a mask: what is to be filled, as [x, y, width, "
        "height] in pixels.",
    )
    samples: SamplesRequest | None = Field(
        default=None, description="Pictures that another model makes, in place of `image`."
    )
    direction: str | None = Field(
        default=None,
        description="Of a model that has several, which; its first when not said.",
    )
    animated: Literal["refuse", "first"] = Field(
        default="refuse", description="Whether of an animation the first frame is taken."
    )
    format: Format | None = Field(
        default=None,
        description="Goes before the Accept header. One picture comes as itself (png, jpeg, webp); "
        "several come as JSON with base64, unless zip or npy is asked for.",
    )


@dataclass(frozen=True)
class SentFile:
    """A file that was sent; `field` is where, and `name` what it is called, without its ending."""

    field: str
    name: str
    content: bytes


@dataclass(frozen=True)
class ImageToImageInput:
    """A request with its files."""

    body: ImageToImageRequest
    images: list[SentFile]
    masks: list[SentFile]


def described(masked: bool) -> dict[str, Any]:
    """Return what a route's OpenAPI says of its body."""
    schema = ImageToImageRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    binary = {"type": "string", "format": "binary"}
    form: dict[str, Any] = {
        "type": "object",
        "required": ["model", "image"],
        "properties": {
            "model": {"type": "string"},
            "image": {"type": "array", "items": binary},
            "direction": {"type": "string"},
            "animated": {"type": "string", "enum": ["refuse", "first"]},
            "format": {"type": "string", "enum": ["png", "jpeg", "webp", "npy", "zip", "json"]},
        },
    }
    if masked:
        form["properties"]["mask"] = {"type": "array", "items": binary}
        form["properties"]["boxes"] = {"type": "string", "description": "JSON: [[x, y, w, h], …]"}
    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": form},
                "application/json": {"schema": schema},
            },
        }
    }


async def read_request(request: Request, most: int) -> ImageToImageInput:
    """Read a request of at most `most` pictures. Raises Problem (400, 415, 422)."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == "multipart/form-data":
            return await _read_form(request, most)
        if kind == "application/json":
            return _read_json(await request.body(), most)
    except ClientDisconnect as error:
        raise client_disconnected() from error
    raise Problem(
        415,
        "media-type-not-supported",
        "The body is of a kind that is not read here",
        f"expected multipart/form-data or application/json, got {kind[:100] or 'nothing'!r}",
    )


class _InMemory(MultiPartParser):
    """Keeps files where the body's limit bounds them: not in a folder that may be full."""

    spool_max_size = 2**62


async def _read_form(request: Request, most: int) -> ImageToImageInput:
    parser = _InMemory(request.headers, request.stream(), max_files=2 * most, max_fields=20)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        raise Problem(
            400, "invalid-form", "The form cannot be read", str(error)[:200] or "it is broken"
        ) from error
    fields: dict[str, Any] = {}
    files: dict[str, list[SentFile]] = {"image": [], "mask": []}
    for key, value in form.multi_items():
        if isinstance(value, UploadFile):
            if key not in files:
                raise invalid(key[:50], "files come as image, or as mask")
            number = len(files[key])
            files[key].append(
                SentFile(f"{key}.{number}", _plain(value.filename), await value.read())
            )
        elif key in files:
            raise invalid(key, "expected a file: give it a filename")
        elif key in fields:
            raise invalid(key[:50], "is there twice")
        else:
            fields[key] = _from_json(key, value) if key in _JSON_FIELDS else value
    await form.close()
    return _checked(_validated(fields), files["image"], files["mask"], most)


def _read_json(body: bytes, most: int) -> ImageToImageInput:
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Problem(
            400, "invalid-json", "The body is not JSON", "the body cannot be parsed"
        ) from error
    wanted = _validated(given)
    return _checked(wanted, _decoded(wanted.image, "image"), _decoded(wanted.mask, "mask"), most)


def _validated(given: Any) -> ImageToImageRequest:
    try:
        return ImageToImageRequest.model_validate(given)
    except ValidationError as error:
        listed = error.errors(include_url=False, include_input=False, include_context=False)
        first = describe_field_errors(
            [{**each, "loc": ("body", *each["loc"])} for each in listed], given
        )[0]
        message = first["message"].removeprefix("Value error, ")
        raise invalid(first["field"][:100], message) from error


def _checked(
    body: ImageToImageRequest, images: list[SentFile], masks: list[SentFile], most: int
) -> ImageToImageInput:
    if bool(images) == (body.samples is not None):
        raise invalid("image", "give one or more pictures, or samples, and not both")
    if len(images) > most:
        raise invalid("image", f"expected 1 to {most} pictures, got {len(images)}")
    if masks and body.boxes:
        raise invalid("boxes", "give mask or boxes, not both")
    return ImageToImageInput(body, images, masks)


def _decoded(sent: str | list[str] | None, field: str) -> list[SentFile]:
    texts = [sent] if isinstance(sent, str) else sent or []
    files = []
    for i, text in enumerate(texts):
        try:
            # Browsers have pictures as data URLs.
            content = base64.b64decode(re.sub(r"^data:[^,]{0,100},", "", text), validate=True)
        except (binascii.Error, ValueError) as error:
            raise invalid(f"{field}.{i}", "expected base64") from error
        files.append(SentFile(f"{field}.{i}", field, content))
    return files


def _from_json(key: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise invalid(key, "expected JSON") from error


def _plain(name: str | None) -> str:
    """Return what a file is called, for the name of another one: no folders, no surprises."""
    stem = PurePosixPath((name or "").replace("\\", "/")).stem
    return re.sub(r"[^\w.-]+", "-", stem)[:60].lstrip(".-") or "image"
