"""Where an image comes from, as the metadata of its file states it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

import PIL.Image

# The keyword of the metadata that every file of the service contains.
_KEYWORD = "ganymede"
_IMAGE_DESCRIPTION = 0x010E
# An image has an address if these parameters determine it.
_IN_ADDRESS = frozenset(["seed", "class", "truncation"])
_SOURCE_FIELDS = ("seed", "z", "w", "class", "blend", "truncation", "transform")


class NotReadable(ValueError):
    """Content is no file of the service."""


@dataclass(frozen=True)
class Provenance:
    """Where an image comes from. Model and parameters reproduce it bit for bit, and two images with
    the same are equal; service and request are not compared.

    Attributes:
        name, version, digest: identify the model.
        parameters: what determines the image besides the model, as in the metadata of its file:
            seed, class, truncation, …
        base_url: the URL of the service.
        request_id: the ID of the request in the log of the service.
    """

    name: str
    version: str
    digest: str
    parameters: Mapping[str, Any]
    base_url: str = field(compare=False)
    request_id: str | None = field(default=None, compare=False)

    @property
    def model(self) -> str:
        """The model as ``name@version``, the form that requests accept."""
        return f"{self.name}@{self.version}"

    @property
    def seed(self) -> int | None:
        """The seed; None if the image has another source."""
        return self.parameters.get("seed")

    @property
    def class_(self) -> str | None:
        """The name of the class; None for a blend and for a model without classes."""
        return self.parameters.get("class")

    @property
    def truncation(self) -> float | None:
        """The truncation; None for a model that does not support it."""
        return self.parameters.get("truncation")

    @property
    def url(self) -> str | None:
        """The permanent address of the image; None unless seed and class determine it."""
        if self.seed is None or not self.parameters.keys() <= _IN_ADDRESS:
            return None
        return self.base_url + address(
            self.name, self.seed, "png", version=self.version, **_query(self.parameters)
        )

    def source(self, model: str) -> dict[str, Any]:
        """Return the source of the image, for another request to `model`.

        Raises ValueError if the image is from another model, or has no source of its own, such as a
        mixed or an edited image.
        """
        if model not in (self.name, self.model):
            raise ValueError(f"an image of {self.model} is no source for {model}")
        if "directions" in self.parameters:
            raise ValueError(
                "an edited image is no source: request its latent with return_, and give that"
            )
        if not self.parameters.keys() & {"seed", "z", "w"}:
            listed = ", ".join(self.parameters)
            raise ValueError(f"expected an image with a seed, z or w; this one has {listed}")
        return {name: self.parameters[name] for name in _SOURCE_FIELDS if name in self.parameters}

    @property
    def caption(self) -> str:
        """A short text for captions: the seed and the class, or the seeds of a mixed image."""
        if "row" in self.parameters:
            seeds = [self.parameters[source].get("seed", "w") for source in ("row", "column")]
            return f"{seeds[0]} × {seeds[1]}"
        return " ".join(str(part) for part in (self.seed, self.class_) if part is not None)

    def describe(self) -> str:
        """Return one line: ``dcgan-fashion@1, seed 7``."""
        shown = {
            "seed": f"seed {self.seed}",
            "class": self.class_,
            "truncation": f"truncation {self.truncation}",
            "task": self.parameters.get("task"),
            "direction": self.parameters.get("direction"),
        }
        if isinstance(amounts := self.parameters.get("directions"), Mapping):
            moves = [
                f"{name} {amount:g}" if isinstance(amount, float | int) else f"{name} {amount}"
                for name, amount in amounts.items()
            ]
            shown["directions"] = f"moved along {', '.join(moves)}"
        given = [str(text) for name, text in shown.items() if name in self.parameters]
        return ", ".join([self.model, *given])


def address(
    model: str,
    seed: int,
    extension: str = "png",
    *,
    version: str | None = None,
    class_: str | int | None = None,
    truncation: float | None = None,
) -> str:
    """Return the address of an image below the URL of the service."""
    parameters = {"version": version, "class": class_, "truncation": truncation}
    query = urlencode({name: value for name, value in parameters.items() if value is not None})
    path = f"/v1/models/{quote(model, safe='@')}/images/{int(seed)}.{quote(extension)}"
    return f"{path}?{query}" if query else path


def read_provenance(image: PIL.Image.Image, base_url: str, request_id: str | None) -> Provenance:
    """Read the metadata of a file that Pillow has opened. Raises NotReadable."""
    for text in _metadata(image):
        if not isinstance(text, str):
            continue
        with contextlib.suppress(ValueError, TypeError, KeyError):
            return _provenance(json.loads(text.removeprefix(_KEYWORD)), base_url, request_id)
    raise NotReadable("the image has no metadata of the service")


def read_video_provenance(file: bytes, base_url: str, request_id: str | None) -> Provenance:
    """Read the metadata of a video: a comment of JSON in ASCII. Raises NotReadable."""
    start = file.find(f"{_KEYWORD} {{".encode())
    if start >= 0:
        text = file[start + len(_KEYWORD) + 1 :].decode("latin-1")
        with contextlib.suppress(ValueError, TypeError, KeyError):
            document, _ = json.JSONDecoder().raw_decode(text)
            return _provenance(document, base_url, request_id)
    raise NotReadable("the video has no metadata of the service")


def _provenance(document: Any, base_url: str, request_id: str | None) -> Provenance:
    parameters = dict(document)
    name, version, digest = (parameters.pop(key) for key in ("model", "version", "digest"))
    return Provenance(name, version, digest, parameters, base_url, request_id)


def _metadata(image: PIL.Image.Image) -> Iterator[object]:
    """Yield the texts that may be the metadata, without decoding the pixels."""
    yield image.info.get(_KEYWORD)
    comment = image.info.get("comment")
    yield comment.decode("utf-8", "replace") if isinstance(comment, bytes) else comment
    if image.format != "PNG":
        yield image.getexif().get(_IMAGE_DESCRIPTION)


def _query(parameters: Mapping[str, Any]) -> dict[str, Any]:
    names = {"class": "class_", "truncation": "truncation"}
    return {names[name]: parameters[name] for name in names if name in parameters}
