"""Pictures as an answer: a file, JSON, an archive or an array, each saying how it was made."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi.responses import Response

from service.api.negotiation import Form
from service.api.schemas import ProblemDocument
from service.runtime import images
from service.runtime.images import Pixels
from service.runtime.model import Model

_BINARY = {"schema": {"type": "string", "format": "binary"}}
# What the schema says of the answers, by status.
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": ProblemDocument, "description": text}
    for status, text in {
        404: "No such model",
        422: "A field cannot be used",
        429: "The queue is full: see Retry-After",
        503: "Not ready: see Retry-After",
        504: "The deadline passed",
    }.items()
}
IMAGE_CONTENT = {"image/png": _BINARY, "image/jpeg": _BINARY, "image/webp": _BINARY}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "content": IMAGE_CONTENT | {"application/zip": _BINARY, "application/x-npy": _BINARY},
    },
    **PROBLEMS,
}


@dataclass(frozen=True)
class Picture:
    """What makes one picture again, beside the model; and what its file in an archive is called.

    `name` has no extension, and gets the picture's number before it.
    """

    parameters: Mapping[str, Any]
    name: str
    folder: str = field(default="")


def identity(model: Model) -> dict[str, Any]:
    """Return what makes a model the one that it is, as answers and files say it."""
    return {
        "model": model.manifest.name,
        "version": model.manifest.version,
        "digest": model.digest,
    }


def headers(model: Model, **parameters: Iterable[object] | None) -> dict[str, str]:
    """Return the headers of an answer by `model`: lists by name, without those that are None."""
    said = {
        f"x-ganymede-{name.replace('_', '-')}": ",".join(map(str, values))
        for name, values in parameters.items()
        if values is not None
    }
    return {
        "x-ganymede-model": f"{model.manifest.name}@{model.manifest.version}",
        "x-ganymede-digest": model.digest,
        **said,
    }


def answer(
    model: Model, pictures: Sequence[Picture], pixels: Pixels, form: Form, said: Mapping[str, str]
) -> Response:
    """Wrap `pixels` ``[N, H, W, C]``, with a header for each of `said`.

    The form `image` is for one picture, and takes the first.
    """
    if form.container == "npy":
        return Response(images.encode_npy(pixels), 200, said, "application/x-npy")
    files = [
        images.encode(each, form.image, {**identity(model), **picture.parameters})
        for picture, each in zip(pictures, pixels, strict=True)
    ]
    if form.container == "image":
        return Response(files[0], 200, said, form.image.media_type)
    if form.container == "zip":
        width = len(str(len(files) - 1))
        names = [
            f"{picture.folder}{i:0{width}}-{picture.name}.{form.image.extension}"
            for i, picture in enumerate(pictures)
        ]
        archive = images.pack_zip(list(zip(names, files, strict=True)))
        return Response(archive, 200, said, "application/zip")
    document = identity(model) | {
        "images": [
            {
                **picture.parameters,
                "media_type": form.image.media_type,
                "data": base64.b64encode(file).decode(),
            }
            for picture, file in zip(pictures, files, strict=True)
        ],
    }
    return Response(json.dumps(document), 200, said, "application/json")
