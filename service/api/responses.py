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
from service.runtime.images import encoding
from service.runtime.images.encoding import Pixels
from service.runtime.latent.sources import Floats, LatentSource, encode_floats
from service.runtime.models.model import Model

# Characters: proxies and clients refuse an answer whose headers are too long, each at a size of its
# own. The seeds of 256 pictures fit.
_LONGEST_HEADER = 4000
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
    # What comes back beside the picture, by name: in JSON as text, in an archive as NPY.
    beside: Mapping[str, Floats] = field(default_factory=dict)


def identity(model: Model) -> dict[str, Any]:
    """Return what makes a model the one that it is, as answers and files say it."""
    return {
        "model": model.manifest.name,
        "version": model.manifest.version,
        "digest": model.digest,
    }


def headers(model: Model, **parameters: Iterable[object] | None) -> dict[str, str]:
    """Return the headers of an answer by `model`: lists by name, without those that are None, and
    those that are too long.
    """
    joined = {
        f"x-ganymede-{name.replace('_', '-')}": ",".join(map(str, values))
        for name, values in parameters.items()
        if values is not None
    }
    said = {name: text for name, text in joined.items() if len(text) <= _LONGEST_HEADER}
    return {
        "x-ganymede-model": f"{model.manifest.name}@{model.manifest.version}",
        "x-ganymede-digest": model.digest,
        **said,
    }


def of_sources(model: Model, sources: Sequence[LatentSource]) -> dict[str, str]:
    """Return the headers of an answer whose pictures come from `sources`, a value for each.

    Latents are too long for a header: `z` or `w` stands where one was given.
    """
    said: dict[str, Iterable[object] | None] = {"seed": [short(source) for source in sources]}
    if model.manifest.classes:
        said["class"] = [class_text(source) for source in sources]
    if any(source.truncation is not None for source in sources):
        said["truncation"] = [
            "" if source.truncation is None else source.truncation for source in sources
        ]
    return headers(model, **said)


def short(source: LatentSource) -> object:
    """Return the seed of a source, else `z` or `w`."""
    return source.name if source.seed is None else source.seed


def class_text(source: LatentSource) -> str:
    """Return the class by index, or a blend as ``0:0.25+3:0.75``; nothing for a w."""
    match list((source.classes or {}).items()):
        case []:
            return ""
        case [(index, _)]:
            return str(index)
        case blend:
            return "+".join(f"{index}:{weight:.6g}" for index, weight in blend)


def answer(
    model: Model, pictures: Sequence[Picture], pixels: Pixels, form: Form, said: Mapping[str, str]
) -> Response:
    """Wrap `pixels` ``[N, H, W, C]``, with a header for each of `said`.

    The form `image` is for one picture, and takes the first.
    """
    if form.container == "npy":
        return Response(encoding.encode_npy(pixels), 200, said, "application/x-npy")
    files = [
        encoded(model, picture, each, form) for picture, each in zip(pictures, pixels, strict=True)
    ]
    return wrapped(model, pictures, files, form, said)


def encoded(model: Model, picture: Picture, pixels: Pixels, form: Form) -> bytes:
    """Return the file of one picture ``[H, W, C]``, which says how it was made."""
    return encoding.encode(pixels, form.image, {**identity(model), **picture.parameters})


def wrapped(
    model: Model,
    pictures: Sequence[Picture],
    files: Sequence[bytes],
    form: Form,
    said: Mapping[str, str],
) -> Response:
    """Wrap files of pictures, with a header for each of `said`; `form` is not npy."""
    if form.container == "image":
        return Response(files[0], 200, said, form.image.media_type)
    if form.container == "zip":
        width = len(str(len(files) - 1))
        names = [
            f"{picture.folder}{i:0{width}}-{picture.name}" for i, picture in enumerate(pictures)
        ]
        entries = []
        for name, picture, file in zip(names, pictures, files, strict=True):
            entries.append((f"{name}.{form.image.extension}", file))
            entries += [
                (f"{name}.{beside}.npy", encoding.encode_npy(values))
                for beside, values in picture.beside.items()
            ]
        archive = encoding.pack_zip(entries)
        return Response(archive, 200, said, "application/zip")
    document = identity(model) | {
        "images": [
            {
                **picture.parameters,
                **{name: encode_floats(values) for name, values in picture.beside.items()},
                "media_type": form.image.media_type,
                "data": base64.b64encode(file).decode(),
            }
            for picture, file in zip(pictures, files, strict=True)
        ],
    }
    return Response(json.dumps(document), 200, said, "application/json")
