"""Reads the body of an image-to-image request: a form with files, or JSON with base64."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Generic, TypeVar

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from service.api.field_errors import describe_field_errors
from service.api.middleware.json_bodies import JsonLimits, assert_bounded, parse, process
from service.api.problems import Problem, client_disconnected, invalid, not_json
from service.api.schemas.fields import RequestModel
from service.api.schemas.image_to_image import ImageToImageRequest
from service.runtime.base64_text import decode_base64

Body = TypeVar("Body", bound=RequestModel)

# Form fields whose text is JSON, with what is expected.
_JSON_FIELDS = {"boxes": "JSON", "samples": "JSON", "c2pa": "true or false"}
# Maximum nesting depth of such a field. Valid values are at most three deep.
_MAX_FIELD_DEPTH = 16
_REFERENCE = "#/components/schemas/{model}"


@dataclass(frozen=True)
class UploadedFile:
    """A file of a request: its path in the request, its name without extension, its content."""

    field: str
    name: str
    content: bytes


@dataclass(frozen=True)
class UploadRequest(Generic[Body]):
    """A validated body, and the files of each file field."""

    body: Body
    files: Mapping[str, list[UploadedFile]]


@dataclass(frozen=True)
class ImageToImageInput:
    """A validated request and its files."""

    body: ImageToImageRequest
    images: list[UploadedFile]
    masks: list[UploadedFile]


def request_schemas() -> dict[str, Any]:
    """Return the OpenAPI schemas that `body_schema` refers to, by name."""
    schema = ImageToImageRequest.model_json_schema(ref_template=_REFERENCE)
    return dict(schema.get("$defs", {}))


def body_schema(has_mask: bool) -> dict[str, Any]:
    """Return the OpenAPI description of the body of an image-to-image route."""
    binary = {"type": "string", "format": "binary"}
    form: dict[str, Any] = {
        "type": "object",
        "required": ["model", "image"],
        "properties": {
            "model": {"type": "string"},
            "image": {"type": "array", "items": binary},
            "direction": {"type": "string"},
            "animated": {"type": "string", "enum": ["refuse", "first"]},
            "c2pa": {"type": "boolean"},
            "format": {"type": "string", "enum": ["png", "jpeg", "webp", "npy", "zip", "json"]},
        },
    }
    if has_mask:
        form["properties"]["mask"] = {"type": "array", "items": binary}
        form["properties"]["boxes"] = {"type": "string", "description": "JSON: [[x, y, w, h], …]"}
    return upload_schema(ImageToImageRequest, form)


def upload_schema(body: type[RequestModel], form: dict[str, Any]) -> dict[str, Any]:
    """Return the OpenAPI description of a body, in both media types; `form` describes the form."""
    schema = body.model_json_schema(ref_template=_REFERENCE)
    schema.pop("$defs", None)
    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": form},
                "application/json": {"schema": schema},
            },
        }
    }


async def read_request(request: Request, max_images: int) -> ImageToImageInput:
    """Read a request with up to `max_images` images. Raises Problem (400, 415, 422)."""
    upload = await read_upload(request, ImageToImageRequest, ("image", "mask"), max_images)
    body, images, masks = upload.body, upload.files["image"], upload.files["mask"]
    if bool(images) == (body.samples is not None):
        raise invalid("image", "give either images or samples")
    if masks and body.boxes:
        raise invalid("boxes", "give mask or boxes, not both")
    return ImageToImageInput(body, images, masks)


async def read_upload(
    request: Request, schema: type[Body], file_fields: Sequence[str], max_images: int
) -> UploadRequest[Body]:
    """Read a form with files, or JSON with base64, that `schema` describes.

    `file_fields` are the fields with files, first the images, of which there are at most
    `max_images`. Raises Problem (400, 415, 422).
    """
    upload = await _read_upload(request, schema, file_fields, max_images)
    images = upload.files[file_fields[0]]
    if len(images) > max_images:
        raise invalid(file_fields[0], f"expected 1 to {max_images} images, got {len(images)}")
    return upload


async def _read_upload(
    request: Request, schema: type[Body], file_fields: Sequence[str], max_images: int
) -> UploadRequest[Body]:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if media_type == "multipart/form-data":
            return await _read_form(request, schema, file_fields, max_images)
        if media_type == "application/json":
            body = await request.body()
            return await process(len(body), lambda: _read_json(body, schema, file_fields))
    except ClientDisconnect as error:
        raise client_disconnected() from error
    raise Problem(
        415,
        "media-type-not-supported",
        "The media type is not supported",
        f"expected multipart/form-data or application/json, got {media_type[:100] or 'nothing'!r}",
    )


class _InMemoryParser(MultiPartParser):
    """Keeps files in memory, bounded by the body limit, and not in a folder that may be full."""

    spool_max_size = 2**62


async def _read_form(
    request: Request, schema: type[Body], file_fields: Sequence[str], max_images: int
) -> UploadRequest[Body]:
    max_files = len(file_fields) * max_images
    parser = _InMemoryParser(request.headers, request.stream(), max_files=max_files, max_fields=20)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        raise Problem(
            400, "invalid-form", "The form is invalid", str(error)[:200] or "it cannot be parsed"
        ) from error
    fields: dict[str, str] = {}
    files: dict[str, list[UploadedFile]] = {name: [] for name in file_fields}
    for name, value in form.multi_items():
        # Some clients, such as OpenAI's, name the parts of a list so.
        key = name.removesuffix("[]")
        if isinstance(value, UploadFile):
            if key not in files:
                known = "field is" if len(files) == 1 else "fields are"
                names = " and ".join(files)
                raise invalid(key[:50], f"unexpected file: the file {known} {names}")
            number = len(files[key])
            files[key].append(
                UploadedFile(f"{key}.{number}", _safe_stem(value.filename), await value.read())
            )
        elif key in files:
            raise invalid(key, "expected a file: add a filename to this part")
        elif key in fields:
            raise invalid(key[:50], "is given twice")
        else:
            fields[key] = value
    await form.close()
    size = sum(map(len, fields.values()))
    body = await process(size, lambda: _validated_fields(fields, schema))
    return UploadRequest(body, files)


def _read_json(body: bytes, schema: type[Body], file_fields: Sequence[str]) -> UploadRequest[Body]:
    try:
        document = parse(body)
    except (ValueError, RecursionError) as error:
        raise not_json(error) from error
    validated = _validated(document, schema)
    files = {field: _decode_files(getattr(validated, field), field) for field in file_fields}
    return UploadRequest(validated, files)


def _validated(fields: Any, schema: type[Body]) -> Body:
    try:
        return schema.model_validate(fields)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False, include_context=False)
        first = describe_field_errors(
            [{**each, "loc": ("body", *each["loc"])} for each in errors], fields
        )[0]
        message = first["message"].removeprefix("Value error, ")
        raise invalid(first["field"][:100], message) from error


def _decode_files(value: str | list[str] | None, field: str) -> list[UploadedFile]:
    texts = [value] if isinstance(value, str) else value or []
    files = []
    for i, text in enumerate(texts):
        try:
            content = decode_base64(text)
        except ValueError as error:
            raise invalid(f"{field}.{i}", str(error)) from error
        files.append(UploadedFile(f"{field}.{i}", field, content))
    return files


def _validated_fields(fields: dict[str, str], schema: type[Body]) -> Body:
    return _validated(
        {
            key: _parse_json_field(key, text) if key in _JSON_FIELDS else text
            for key, text in fields.items()
        },
        schema,
    )


def _parse_json_field(key: str, text: str) -> Any:
    # Some charsets of a form can encode lone surrogates.
    data = text.encode("utf-8", "surrogatepass")
    assert_bounded(data, JsonLimits(_MAX_FIELD_DEPTH))
    try:
        return parse(data)
    except (ValueError, RecursionError) as error:
        raise invalid(key, f"expected {_JSON_FIELDS[key]}") from error


def _safe_stem(name: str | None) -> str:
    """Return the stem of an uploaded file's name, safe for use as a file name."""
    stem = PurePosixPath((name or "").replace("\\", "/")).stem
    return re.sub(r"[^\w.-]+", "-", stem)[:60].lstrip(".-") or "image"
