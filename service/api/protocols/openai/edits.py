"""`POST /v1/images/edits`: OpenAI's edits, by image-to-image models.

With a mask, a model that inpaints fills it. Without one, the model does what it is for: it
translates, upscales or colorizes. OpenAI's masks are transparent where the image is edited; those
of `/v1/inpaint` are white there.

Prompts are not instructions. For a model with several directions, a prompt names the direction;
other models make no use of it, and the response says so.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from service.api import responses
from service.api.execution import RequestExecution, request_execution
from service.api.image_forms import UploadedFile, read_upload, upload_schema
from service.api.image_to_image.work import ImageToImageWork, InputImage, ReadyImage
from service.api.problems import invalid
from service.api.protocols.openai.images import (
    Output,
    OutputImage,
    images_response,
    memory_for,
    read_output,
    require_inline,
    stream_response,
    wants_stream,
)
from service.api.protocols.openai.schemas import ERRORS, ImageEditRequest, ImagesResponse
from service.api.state import ServiceState, state_of
from service.runtime import requests
from service.runtime.images.encoding import Pixels
from service.runtime.images.masks import MaskInput
from service.runtime.models.model import Model

router = APIRouter(tags=["images"])

_BINARY = {"type": "string", "format": "binary"}
_FORM = {
    "type": "object",
    "required": ["model", "image"],
    "properties": {
        "model": {"type": "string"},
        "image": {"type": "array", "items": _BINARY},
        "mask": _BINARY,
        "prompt": {"type": "string"},
        "direction": {"type": "string"},
        "size": {"type": "string"},
        "output_format": {"type": "string", "enum": ["png", "jpeg", "webp"]},
        "response_format": {"type": "string", "enum": ["b64_json"]},
        "stream": {"type": "boolean"},
        "c2pa": {"type": "boolean"},
    },
}


@router.post(
    "/v1/images/edits",
    summary="Edit images, for OpenAI's SDK",
    response_model=ImagesResponse,
    responses=ERRORS,
    openapi_extra=upload_schema(ImageEditRequest, _FORM),
)
async def edits(request: Request) -> Response:
    """Fill the transparent area of a mask, or translate, upscale or colorize images."""
    state = state_of(request)
    upload = await read_upload(
        request, ImageEditRequest, ("image", "mask"), state.settings.max_images
    )
    body, images, masks = upload.body, upload.files["image"], upload.files["mask"]
    model = _find_model(state, body.model)
    output = read_output(body, model, state)
    require_inline(body, "an edited image has no address, because no image is stored")
    is_stream = wants_stream(body)
    if not images:
        raise invalid("image", "missing: send at least one image")
    if (body.n or 1) != 1:
        name = model.manifest.name
        raise invalid("n", f"expected 1: {name} makes one image of each given one, always the same")
    direction, selected = read_direction(body.prompt, body.direction, model)
    mask = _mask(model, images, masks)
    fields: dict[str, Any] = {"prompt": selected}
    headers = responses.headers(
        model, prompt=[selected], direction=[direction] if direction is not None else None
    )
    async with AsyncExitStack() as stack:
        stack.enter_context(memory_for(state, output, len(images)))
        execution = await stack.enter_async_context(
            request_execution(state.engine, request, state.settings.deadline_s)
        )
        named = direction if selected == "direction" else None
        edited = _edited(execution, output, images, mask, (direction, named), state, is_stream)
        if is_stream:
            return await stream_response(
                request, stack, output, edited, "image_edit", headers, **fields
            )
        finished = [image async for image in edited]
        return images_response(output, finished, headers, **fields)


async def _edited(
    execution: RequestExecution,
    output: Output,
    images: Sequence[UploadedFile],
    mask: MaskInput | None,
    direction: tuple[str | None, str | None],
    state: ServiceState,
    is_stream: bool,
) -> AsyncGenerator[OutputImage, None]:
    """Yield the output of each image as soon as it is ready.

    `direction` is the direction, and the same if the prompt names it. Raises Problem, QueueFull and
    the errors of RequestExecution.run.
    """
    role, named = direction
    revised = {} if named is None else {"revised_prompt": named}
    finish = partial(_finish, output, revised)
    work = ImageToImageWork(output.model, role, execution, state, finish, long=output.takes_long)
    for number, file in enumerate(images):
        if is_stream and number > 0:
            # Each image has its own deadline, as the parts of other streams.
            execution.renew_deadline()
        source = InputImage(file.field, file.name, file.content)
        item = await work.add(source, mask, animated="refuse")
        generated = item.translation.output_pixels
        added = max(0, output.size[0] * output.size[1] - generated) if output.size else 0
        # So that an image that has been made is not refused.
        execution.reserve_pixels(generated + added)
        ((_, image),) = await work.run()
        execution.charge_resampled(added)
        yield image


def _finish(
    output: Output, revised: dict[str, Any], item: ReadyImage, pixels: Pixels
) -> OutputImage:
    return output.encode(pixels, item.record.parameters, revised)


def read_direction(
    prompt: str | None, direction: str | None, model: Model
) -> tuple[str | None, str]:
    """Return the direction of a model that has several, and what the prompt selected.

    The latter is ``direction`` or ``nothing``. `direction` takes precedence over the prompt. The
    result is that of `requests.direction_name`. Raises Problem (422) for a prompt that names no
    direction.
    """
    names = model.manifest.input.directions if model.manifest.input else ()
    if direction is not None or len(names) < 2 or not (prompt or "").strip():
        return requests.direction_name(model.manifest, direction), "nothing"
    assert prompt is not None  # noqa: S101 - checked above
    text = prompt.strip().casefold()
    found = next((name for name in names if name.casefold() == text), None)
    if found is None:
        raise invalid(
            "prompt",
            f"expected the name of a direction, got {prompt[:50]!r}; directions: "
            f"{', '.join(names)}",
        )
    return requests.direction_name(model.manifest, found), "direction"


def _find_model(state: ServiceState, name: str) -> Model:
    """Return an image-to-image model. Raises NotReady, ModelNotFound and Problem (422)."""
    model = state.find_any_model(name)
    if model.manifest.input is None:
        raise invalid(
            "model",
            f"{model.manifest.name} does not edit images: it generates them, see "
            "/v1/images/generations and /v1/images/variations",
        )
    return model


def _mask(
    model: Model, images: Sequence[UploadedFile], masks: Sequence[UploadedFile]
) -> MaskInput | None:
    """Return the mask of all images. Raises Problem (422)."""
    name = model.manifest.name
    if model.manifest.input is None or not model.manifest.input.masked:
        if masks:
            raise invalid("mask", f"{name} takes no mask: it edits the whole image")
        return None
    if len(masks) > 1:
        raise invalid("mask", f"expected one mask, got {len(masks)}")
    if masks and len(images) > 1:
        # OpenAI's API would edit the first image alone.
        raise invalid("mask", f"expected one image with a mask, got {len(images)}")
    return MaskInput(masks[0].content if masks else None, transparent=True)
