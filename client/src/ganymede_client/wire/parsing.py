"""Parses responses. Every function raises UnexpectedResponse for one that it does not expect."""

from __future__ import annotations

import base64
import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any, TypeVar

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from ganymede_client.errors import UnexpectedResponse
from ganymede_client.images import (
    Animation,
    Image,
    Images,
    read_animation,
    read_image,
)
from ganymede_client.outputs.audio import Audio
from ganymede_client.provenance import NotReadable
from ganymede_client.wire.calls import Reply

T = TypeVar("T")


def document(reply: Reply) -> Any:
    """Parse JSON."""
    try:
        return json.loads(reply.content)
    except ValueError as error:
        raise _unexpected(reply, "expected JSON") from error


def parsed(parse: Callable[[Any], T]) -> Callable[[Reply], T]:
    """Return a parser of JSON that converts the document by `parse`."""

    def convert(reply: Reply) -> T:
        content = document(reply)
        try:
            return parse(content)
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise _unexpected(reply, f"the JSON is not as expected: {error!r}") from error

    return convert


def image(reply: Reply) -> Image:
    """Parse a single image."""
    try:
        return read_image(reply.content, reply.base_url, reply.request_id)
    except NotReadable as error:
        raise _unexpected(reply, str(error)) from error


def audio(reply: Reply) -> list[Audio]:
    """Parse audio: a single file, or JSON with base64."""
    if reply.media_type.startswith("audio/"):
        try:
            rate = int(reply.headers["x-ganymede-sample-rate"])
            text = reply.content.partition(b"ganymede ")[2].decode(errors="replace")
            parameters = json.JSONDecoder().raw_decode(text)[0]
        except (LookupError, ValueError) as error:
            raise _unexpected(reply, f"the audio has no provenance: {error!r}") from error
        return [Audio(reply.content, reply.media_type, rate, parameters)]
    return parsed(_audio_of)(reply)


def _audio_of(content: Any) -> list[Audio]:
    identity = {name: content[name] for name in ("model", "version", "digest")}
    return [
        Audio(
            base64.b64decode(each["data"]),
            each["media_type"],
            content["sample_rate"],
            identity | {k: v for k, v in each.items() if k not in ("data", "media_type")},
        )
        for each in content["audio"]
    ]


def plain_image(reply: Reply) -> PIL.Image.Image:
    """Parse an image without provenance."""
    try:
        opened = PIL.Image.open(io.BytesIO(reply.content))
        opened.load()
    except (OSError, ValueError, SyntaxError) as error:
        raise _unexpected(reply, f"the image cannot be read: {error}") from error
    return opened


def images(reply: Reply, columns: int | None = None) -> Images:
    """Parse images: an archive, a single image, or JSON with base64."""
    try:
        if reply.media_type == "application/zip":
            parsed_images = _from_zip(reply)
        elif reply.media_type == "application/json":
            parsed_images = [
                read_image(base64.b64decode(each["data"]), reply.base_url, reply.request_id)
                for each in document(reply)["images"]
            ]
        else:
            parsed_images = [read_image(reply.content, reply.base_url, reply.request_id)]
        scores = reply.headers.get("x-ganymede-score", "")
        for each, score in zip(parsed_images, scores.split(",") if scores else [], strict=False):
            each.score = float(score)
        return Images(parsed_images, columns)
    except (NotReadable, zipfile.BadZipFile, LookupError, TypeError, ValueError) as error:
        raise _unexpected(reply, f"expected images: {error}") from error


def animation(reply: Reply) -> Animation:
    """Parse an animation."""
    try:
        return read_animation(reply.content, reply.media_type, reply.base_url, reply.request_id)
    except NotReadable as error:
        raise _unexpected(reply, str(error)) from error


def openai_images(reply: Reply) -> Images:
    """Parse images in the format of OpenAI's API."""
    try:
        files = [base64.b64decode(each["b64_json"]) for each in document(reply)["data"]]
        return Images(read_image(file, reply.base_url, reply.request_id) for file in files)
    except (NotReadable, LookupError, TypeError, ValueError) as error:
        raise _unexpected(reply, f"expected images: {error}") from error


def text(reply: Reply) -> str:
    """Return the body as text."""
    return reply.content.decode("utf-8", "replace")


_DTYPES = {"FP32": "<f4", "INT64": "<i8", "UINT8": "u1"}


def tensors(reply: Reply) -> dict[str, NDArray[Any]]:
    """Parse the tensors of the Open Inference Protocol, with binary data."""
    try:
        end = int(reply.headers.get("inference-header-content-length", len(reply.content)))
        offset, arrays = end, {}
        for output in json.loads(reply.content[:end])["outputs"]:
            dtype, shape = np.dtype(_DTYPES[output["datatype"]]), output["shape"]
            size = output.get("parameters", {}).get("binary_data_size")
            if size is None:
                arrays[output["name"]] = np.array(output["data"], dtype).reshape(shape)
            else:
                blob = reply.content[offset : offset + size]
                arrays[output["name"]] = np.frombuffer(blob, dtype).reshape(shape).copy()
                offset += size
    except (LookupError, TypeError, ValueError) as error:
        raise _unexpected(reply, f"expected tensors: {error!r}") from error
    return arrays


def _from_zip(reply: Reply) -> list[Image]:
    """Return the images of an archive. The arrays of an image follow it."""
    pending: list[tuple[str, bytes, dict[str, NDArray[Any]]]] = []
    with zipfile.ZipFile(io.BytesIO(reply.content)) as archive:
        for entry in archive.infolist():
            content, path = archive.read(entry), PurePosixPath(entry.filename)
            if path.suffix == ".npy":
                array = np.load(io.BytesIO(content), allow_pickle=False)
                pending[-1][2][PurePosixPath(path.stem).suffix.lstrip(".")] = array
            else:
                # Entries are numbered, so that they sort.
                name = re.sub(r"^\d+-", "", path.stem)
                pending.append((name, content, {}))
    return [
        read_image(content, reply.base_url, reply.request_id, name=name, arrays=arrays)
        for name, content, arrays in pending
    ]


def _unexpected(reply: Reply, reason: str) -> UnexpectedResponse:
    request = f" (request {reply.request_id})" if reply.request_id else ""
    return UnexpectedResponse(
        f"unexpected response of {reply.base_url}, status {reply.status}, "
        f"{reply.media_type or 'no media type'}: {reason}{request}"
    )
