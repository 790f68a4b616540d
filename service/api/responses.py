"""Responses with images: a file, JSON, an archive or an array, each with its provenance."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import anyio
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from service.api.negotiation import OutputFormat
from service.api.schemas.problems import ProblemDocument
from service.runtime.images import encoding
from service.runtime.images.encoding import Pixels
from service.runtime.latent.layers import LayerWeights
from service.runtime.latent.sources import Floats, LatentSource, encode_floats
from service.runtime.models.model import Model
from service.runtime.outputs import encode_output

# Maximum characters of a header: proxies and clients refuse long headers, each with a different
# limit. The seeds of 256 images fit.
_MAX_HEADER_LENGTH = 4000
_BINARY = {"schema": {"type": "string", "format": "binary"}}
# OpenAPI descriptions of the responses, by status.
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": ProblemDocument, "description": text}
    for status, text in {
        404: "Model not found",
        422: "A field is invalid",
        429: "The queue is full: see Retry-After",
        503: "Not ready: see Retry-After",
        504: "The deadline has passed",
    }.items()
}
IMAGE_CONTENT = {"image/png": _BINARY, "image/jpeg": _BINARY, "image/webp": _BINARY}
AUDIO_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "content": dict.fromkeys(
            ("audio/wav", "audio/flac", "image/png", "application/zip", "application/x-npy"),
            _BINARY,
        ),
        "headers": {
            "X-Ganymede-Sample-Rate": {
                "description": "Samples per second, in Hz",
                "schema": {"type": "integer"},
            }
        },
    },
    **PROBLEMS,
}
IMAGE_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "content": IMAGE_CONTENT | {"application/zip": _BINARY, "application/x-npy": _BINARY},
    },
    **PROBLEMS,
}


class StreamedResponse(StreamingResponse):
    """A response in parts, which closes `parts` and then `held` when it ends.

    Also if the client disconnects before the first part: a generator that has not begun runs no
    ``finally``, and one that waits for its next step only when it is collected as garbage.
    """

    def __init__(
        self,
        parts: AsyncGenerator[bytes, None],
        headers: Mapping[str, str],
        media_type: str,
        held: AsyncExitStack | None = None,
    ) -> None:
        super().__init__(parts, 200, headers, media_type)
        self._parts = parts
        self._held = held or AsyncExitStack()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the parts."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            # After a disconnect, every wait of this task would be cancelled.
            with anyio.CancelScope(shield=True):
                async with self._held:
                    await self._parts.aclose()


@dataclass(frozen=True)
class ImageRecord:
    """What a response states about one image.

    Attributes:
        parameters: what reproduces the image, besides the model.
        name: its file name in an archive, without the number that precedes it and the extension.
        folder: its folder in an archive, with a trailing slash.
        fields: further fields in JSON. Files do not contain them, so that the file of an image
            does not depend on how it was selected.
        arrays: arrays returned with the image, by name: text in JSON, NPY files in an archive.
    """

    parameters: Mapping[str, Any]
    name: str
    folder: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Floats] = field(default_factory=dict)


def identity(model: Model) -> dict[str, Any]:
    """Return the fields that identify a model in responses and files."""
    return {
        "model": model.manifest.name,
        "version": model.manifest.version,
        "digest": model.digest,
    }


def headers(model: Model, **lists: Iterable[object] | None) -> dict[str, str]:
    """Return the headers that identify `model`, and one for each of `lists`, joined by commas.

    Lists that are None or too long for a header are left out.
    """
    joined = {
        f"x-ganymede-{name.replace('_', '-')}": ",".join(map(str, values))
        for name, values in lists.items()
        if values is not None
    }
    return {
        "x-ganymede-model": f"{model.manifest.name}@{model.manifest.version}",
        "x-ganymede-digest": model.digest,
        **{name: text for name, text in joined.items() if len(text) <= _MAX_HEADER_LENGTH},
    }


def is_not_modified(etag: str, if_none_match: str | None) -> bool:
    """True if the client has the file with this ETag, as its If-None-Match header states."""
    return if_none_match is not None and (if_none_match.strip() == "*" or etag in if_none_match)


def source_headers(model: Model, sources: Sequence[LatentSource]) -> dict[str, str]:
    """Return the headers of a response with one image per source."""
    lists: dict[str, Iterable[object] | None] = {
        "seed": [source_label(source) for source in sources]
    }
    if model.manifest.classes:
        lists["class"] = [class_label(source) for source in sources]
    if any(source.truncation is not None for source in sources):
        lists["truncation"] = [
            "" if source.truncation is None else source.truncation for source in sources
        ]
    if (audio := model.manifest.audio) is not None:
        lists["sample_rate"] = [audio.sample_rate]
    return headers(model, **lists)


def source_label(source: LatentSource) -> object:
    """Return the seed of a source; `z` or `w` for arrays, which are too long for a header."""
    return source.name if source.seed is None else source.seed


def encoded_latent(source: LatentSource) -> str:
    """Return the z or w of a source in base64; empty for a seed."""
    latent = source.z if source.w is None else source.w
    return "" if latent is None else encode_floats(latent)


def class_label(source: LatentSource) -> str:
    """Return the class index, or a blend as ``0:0.25+3:0.75``; empty for styles."""
    match list((source.classes or {}).items()):
        case []:
            return ""
        case [(index, _)]:
            return str(index)
        case blend:
            return "+".join(f"{index}:{weight:.6g}" for index, weight in blend)


def layer_labels(layers: LayerWeights) -> list[str]:
    """Return the layers as ``4``, or as ``4:0.5`` with a weight other than 1."""
    return [
        str(layer) if weight == 1 else f"{layer}:{weight:.6g}" for layer, weight in layers.items()
    ]


def image_response(
    model: Model,
    records: Sequence[ImageRecord],
    pixels: Pixels,
    output: OutputFormat,
    response_headers: Mapping[str, str],
) -> Response:
    """Encode and package images ``[N, H, W, C]`` or audio ``[N, T]``.

    The container `image` uses only the first.
    """
    if output.container == "npy":
        return Response(encoding.encode_npy(pixels), 200, response_headers, "application/x-npy")
    files = [
        encode_image(model, record, image, output)
        for record, image in zip(records, pixels, strict=True)
    ]
    return file_response(model, records, files, output, response_headers)


def encode_image(model: Model, record: ImageRecord, pixels: Pixels, output: OutputFormat) -> bytes:
    """Return the file of one image ``[H, W, C]`` or audio ``[T]``, with its provenance as metadata.

    It is signed if `output` states so.
    """
    provenance = {**identity(model), **record.parameters}
    file = encode_output(model.manifest, pixels, output.file, provenance)
    if output.signer is None:
        return file
    return output.signer.sign(file, output.image.media_type, provenance)


def file_response(
    model: Model,
    records: Sequence[ImageRecord],
    files: Sequence[bytes],
    output: OutputFormat,
    response_headers: Mapping[str, str],
) -> Response:
    """Package encoded images in any container except npy."""
    if output.container == "image":
        return Response(files[0], 200, response_headers, output.file.media_type)
    if output.container == "zip":
        archive = encoding.pack_zip(_archive_entries(records, files, output.file.extension))
        return Response(archive, 200, response_headers, "application/zip")
    document = identity(model)
    name = "images"
    if (audio := model.manifest.audio) is not None:
        document["sample_rate"], name = audio.sample_rate, "audio"
    document |= {
        name: [
            {
                **record.parameters,
                **record.fields,
                **{name: encode_floats(values) for name, values in record.arrays.items()},
                "media_type": output.file.media_type,
                "data": base64.b64encode(file).decode(),
            }
            for record, file in zip(records, files, strict=True)
        ],
    }
    return Response(json.dumps(document), 200, response_headers, "application/json")


def _archive_entries(
    records: Sequence[ImageRecord], files: Sequence[bytes], extension: str
) -> list[tuple[str, bytes]]:
    digits = len(str(len(files) - 1))
    entries = []
    for i, (record, file) in enumerate(zip(records, files, strict=True)):
        name = f"{record.folder}{i:0{digits}}-{record.name}"
        entries.append((f"{name}.{extension}", file))
        entries += [
            (f"{name}.{array}.npy", encoding.encode_npy(values))
            for array, values in record.arrays.items()
        ]
    return entries
