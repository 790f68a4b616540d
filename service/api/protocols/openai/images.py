"""Images in the responses of OpenAI's API: their size and encoding, JSON and events."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from fastapi import Request
from fastapi.responses import Response

from service.api import responses
from service.api.negotiation import OutputFormat, with_credentials
from service.api.problem_formats import openai_error
from service.api.problems import invalid
from service.api.protocols.openai.schemas import OutputRequest, StreamedRequest, TokenUsage
from service.api.responses import ImageRecord
from service.api.server_sent_events import encode_event, event_response, stream_problem
from service.api.state import ServiceState, UploadTooLarge
from service.runtime.images import encoding
from service.runtime.images.encoding import ImageFormat, MetadataTooLarge, Pixels
from service.runtime.models.model import Model
from service.runtime.requests import MAX_RESIZED_SIDE

Size = tuple[int, int]
EventKind = Literal["image_generation", "image_edit"]

_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")


@dataclass(frozen=True)
class OutputImage:
    """One encoded image of a response.

    Attributes:
        parameters: what reproduces it, besides the model; they are also in the file.
        size: width and height in pixels.
        generated_size: the same before resampling.
        transparent: whether the file has an alpha channel.
        fields: further fields in JSON, which are not in the file.
    """

    file: bytes
    parameters: Mapping[str, Any]
    size: Size
    generated_size: Size
    transparent: bool
    fields: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the fields of the image in JSON."""
        content = base64.b64encode(self.file).decode()
        return {
            "b64_json": content,
            "size": size_text(self.size),
            **self.parameters,
            **self.fields,
        }


@dataclass(frozen=True)
class Output:
    """How the images of a response are made from the pixels of `model`.

    They are resampled to `size` (width and height) unless it is None, and encoded, and signed, as
    `file` states.
    """

    model: Model
    file: OutputFormat
    size: Size | None

    @property
    def format(self) -> ImageFormat:
        """The format of the files."""
        return self.file.image

    @property
    def takes_long(self) -> bool:
        """Whether `encode` may take long even for small images."""
        return self.file.signed or self.size is not None

    def encode(
        self, pixels: Pixels, parameters: Mapping[str, Any], fields: Mapping[str, Any] | None = None
    ) -> OutputImage:
        """Encode one image ``[H, W, C]``. Raises Problem (422)."""
        height, width = pixels.shape[:2]
        generated = (width, height)
        if self.size not in (None, generated):
            width, height = self.size or generated
            pixels = encoding.resized(pixels, width, height)
            parameters = {**parameters, "resized": [width, height]}
        if max(width, height) > self.format.longest_side:
            raise invalid(
                "output_format",
                f"{self.format} is limited to {self.format.longest_side:,} pixels per side, and "
                f"the image has {max(width, height):,}; use png",
            )
        try:
            record = ImageRecord(parameters, "image")
            file = responses.encode_image(self.model, record, pixels, self.file)
        except MetadataTooLarge as error:
            raise invalid("output_format", str(error)) from error
        has_alpha = pixels.shape[2] == 4 and self.format is not ImageFormat.JPEG
        return OutputImage(file, parameters, (width, height), generated, has_alpha, fields or {})

    def resampled_pixels(self, count: int) -> int:
        """Return how many pixels resampling adds to `count` images of a generator."""
        if self.size is None:
            return 0
        return count * max(0, self.size[0] * self.size[1] - self.model.manifest.image_spec.pixels)


def read_output(body: OutputRequest, model: Model, state: ServiceState) -> Output:
    """Return how the images that `body` requests are encoded. Raises Problem (422)."""
    file = OutputFormat("image", ImageFormat(body.output_format or ImageFormat.PNG))
    file = with_credentials(file, body.c2pa, state)
    return Output(model, file, _read_size(body.size, state.settings.max_upload_pixels))


def require_inline(body: OutputRequest, reason: str) -> None:
    """Raise Problem (422) if `body` requests addresses of images, which do not exist."""
    if body.response_format == "url":
        raise invalid("response_format", f"{reason}; use b64_json")


@contextmanager
def memory_for(state: ServiceState, output: Output, count: int) -> Iterator[None]:
    """Reserve memory for `count` images that are resampled. Raises Problem (422) and QueueFull."""
    pixels = count * output.size[0] * output.size[1] if output.size else 0
    try:
        state.upload_pixels.acquire(pixels)
    except UploadTooLarge as error:
        message = (
            f"the images have {pixels:,} pixels together, but the maximum is "
            f"{state.upload_pixels.limit:,}; request fewer or smaller images"
        )
        raise invalid("size", message) from error
    try:
        yield
    finally:
        state.upload_pixels.release(pixels)


def images_response(
    output: Output, images: Sequence[OutputImage], headers: Mapping[str, str], **fields: Any
) -> Response:
    """Return all images in one response; `fields` are added to its JSON."""
    data = [image.as_json() for image in images]
    sizes = [image.size for image in images]
    generated = [image.generated_size for image in images]
    return json_response(output, data, sizes, generated, headers, images[0].transparent, **fields)


def json_response(
    output: Output,
    data: Sequence[Mapping[str, Any]],
    sizes: Sequence[Size],
    generated_sizes: Sequence[Size],
    headers: Mapping[str, str],
    transparent: bool,
    **fields: Any,
) -> Response:
    """Return the document of `data`, the JSON of each image."""
    resized_from = _common(generated_sizes) if generated_sizes != sizes else None
    document = {
        "created": int(time.time()),
        "output_format": output.format,
        "size": _common(sizes),
        **({"resized_from": resized_from} if resized_from else {}),
        "background": "transparent" if transparent else "opaque",
        **responses.identity(output.model),
        **fields,
        "data": data,
        "usage": _usage(),
    }
    changed = _resized_header(sizes, generated_sizes)
    return Response(
        json.dumps(document), 200, {**headers, **changed}, media_type="application/json"
    )


async def stream_response(
    request: Request,
    stack: AsyncExitStack,
    output: Output,
    images: AsyncGenerator[OutputImage, None],
    kind: EventKind,
    headers: Mapping[str, str],
    **fields: Any,
) -> Response:
    """Return the response that streams `images`, one event each.

    `stack` is closed at the end of the stream. An error before the first image is raised; a later
    one ends the stream as an event, in the format of OpenAI's errors.
    """
    stack.push_async_callback(images.aclose)
    first = await anext(images)
    changed = _resized_header([first.size], [first.generated_size])

    async def events() -> AsyncGenerator[bytes, None]:
        yield _completed(output, first, kind, fields)
        try:
            async for image in images:
                yield _completed(output, image, kind, fields)
        except Exception as error:  # noqa: BLE001 - reported to the client and the log
            problem = stream_problem(error, request.method, request.scope["path"])
            data = {"type": "error", "error": openai_error(problem)}
            yield encode_event(data, event="error")

    return event_response(events(), {**headers, **changed}, stack.pop_all())


def wants_stream(body: StreamedRequest) -> bool:
    """Return whether `body` requests a stream. Raises Problem (422) for a stream of addresses."""
    if body.stream:
        require_inline(body, "streams contain the images themselves")
    return bool(body.stream)


def size_text(size: Size) -> str:
    """Return ``256x128``."""
    return "{}x{}".format(*size)


def _completed(
    output: Output, image: OutputImage, kind: EventKind, fields: Mapping[str, Any]
) -> bytes:
    name = f"{kind}.completed"
    resized = image.size != image.generated_size
    data = {
        "type": name,
        "created_at": int(time.time()),
        "output_format": output.format,
        "quality": "auto",
        "background": "transparent" if image.transparent else "opaque",
        **({"resized_from": size_text(image.generated_size)} if resized else {}),
        **responses.identity(output.model),
        **fields,
        **image.as_json(),
        "usage": _usage(),
    }
    return encode_event(data, event=name)


def _read_size(text: str | None, max_pixels: int) -> Size | None:
    """Parse a size; None for the size of the model's images. Raises Problem (422)."""
    if text in (None, "auto"):
        return None
    match = _SIZE.fullmatch(text)
    if match is None:
        raise invalid("size", f"expected auto or WIDTHxHEIGHT in pixels, got {text[:50]!r}")
    width, height = map(int, match.groups())
    if max(width, height) > MAX_RESIZED_SIDE or width * height > max_pixels:
        raise invalid(
            "size",
            f"expected up to {MAX_RESIZED_SIDE:,} pixels per side and {max_pixels:,} in all, got "
            f"{text}",
        )
    return width, height


def _common(sizes: Sequence[Size]) -> str:
    return size_text(sizes[0]) if len(set(sizes)) == 1 else "auto"


def _resized_header(sizes: Sequence[Size], generated: Sequence[Size]) -> dict[str, str]:
    """Return the header ``X-Ganymede-Output-Resized: 28x28>256x256`` if images were resampled."""
    pairs = dict.fromkeys(
        f"{size_text(before)}>{size_text(after)}" if before != after else ""
        for before, after in zip(generated, sizes, strict=True)
    )
    text = ",".join(filter(None, pairs))
    return {"x-ganymede-output-resized": text} if text else {}


def _usage() -> dict[str, Any]:
    return TokenUsage().model_dump()
