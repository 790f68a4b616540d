"""`POST /v1/edit`: images whose latents are moved along named directions."""

from __future__ import annotations

from dataclasses import replace

from fastapi import APIRouter, Request
from fastapi.responses import Response

from service.api import responses
from service.api.execution import request_execution
from service.api.middleware.json_bodies import body_size, process
from service.api.negotiation import OutputFormat, accept_header, negotiate, with_credentials
from service.api.problems import invalid
from service.api.responses import ImageRecord
from service.api.routes.generate import check_jpeg_metadata, listed_sources
from service.api.routes.latent.grids import check_grid_size
from service.api.schemas.edit import EditRequest, EditResponse
from service.api.state import state_of
from service.runtime import latent_requests
from service.runtime.files import shortened
from service.runtime.formatting import exact
from service.runtime.generation import edit_plan, image_plan
from service.runtime.images.encoding import Pixels, image_grid
from service.runtime.latent.editing import Edit, Editing
from service.runtime.latent.sources import Floats, LatentSource
from service.runtime.models.model import Model
from service.runtime.scheduling.errors import JobTooLarge

router = APIRouter(tags=["generate"])


@router.post(
    "/v1/edit",
    summary="Move images along directions",
    response_model=EditResponse,
    responses=responses.IMAGE_RESPONSES,
)
async def edit(body: EditRequest, request: Request) -> Response:
    """Move the latents of images along named directions."""
    state = state_of(request)
    model = state.find_model(body.model)
    editing = await process(
        body_size(request), lambda: _editing(body, model, state.settings.max_images)
    )
    rows, columns = editing.shape
    output = negotiate(body.format, accept_header(request), 1)
    output = with_credentials(output, body.c2pa, state)
    is_grid = output.container == "image" and rows * columns > 1
    if is_grid:
        check_grid_size(model.manifest.image_spec, rows, columns, output)
    check_jpeg_metadata(editing.sources, output)
    _check_returned_arrays(body, model, output)
    headers = _headers(model, editing)
    sources, edits = (list(each) for each in zip(*editing.items(), strict=True))
    records = [_record(model, editing, *each) for each in zip(sources, edits, strict=True)]

    def respond(pixels: Pixels) -> Response:
        if not is_grid:
            return responses.image_response(model, records, pixels, output, headers)
        record = ImageRecord(editing.grid_parameters(model.manifest), "grid")
        grid = image_grid(pixels, rows, columns)
        return responses.image_response(model, [record], grid[None], output, headers)

    async with request_execution(state.engine, request, state.settings.deadline_s) as execution:
        cache = execution.style_cache(model)
        plan = edit_plan(model.manifest, sources, edits, model.direction_vectors, cache)
        try:
            moved = await execution.execute(model, plan, lambda latents: latents)
            if body.return_:
                records = [
                    replace(record, arrays=_arrays(source))
                    for record, source in zip(records, moved, strict=True)
                ]
            plan_of_images = image_plan(model.manifest, moved)
            return await execution.execute(model, plan_of_images, respond, long=output.signed)
        except JobTooLarge as error:
            message = f"the request is larger than the queue: {error}"
            raise invalid("directions", message) from error


def _editing(body: EditRequest, model: Model, max_images: int) -> Editing:
    """Return the edits of a request. Raises InvalidRequest."""
    return latent_requests.editing(
        model.manifest,
        listed_sources(body, model, max_images),
        max_images=max_images,
        directions=body.directions,
        layers=body.layers,
    )


def _record(model: Model, editing: Editing, source: LatentSource, edit: Edit) -> ImageRecord:
    shown = editing.steps or edit.amounts
    steps = [f"{name}{edit.amounts[name]:+g}" for name in shown]
    parameters = editing.parameters(source, edit, model.manifest)
    return ImageRecord(parameters, shortened("-".join([source.name, *steps])))


def _headers(model: Model, editing: Editing) -> dict[str, str]:
    amounts = [
        f"{name}={':'.join(map(exact, each if isinstance(each, tuple) else (each,)))}"
        for name, each in editing.amounts.items()
    ]
    lists: dict[str, list[object]] = {
        "directions": [*amounts],
        "directions_sha256": [editing.directions_sha256],
    }
    if editing.layers is not None:
        lists["layers"] = [*responses.layer_labels(editing.layers)]
    return responses.source_headers(model, editing.sources) | responses.headers(model, **lists)


def _check_returned_arrays(body: EditRequest, model: Model, output: OutputFormat) -> None:
    """Raise Problem (422) if `return` contains an array that cannot be returned."""
    if not body.return_:
        return
    if output.container not in ("json", "zip"):
        raise invalid("return", "requires the format json or zip")
    space = model.manifest.latent_space_name
    if set(body.return_) != {space}:
        raise invalid(
            "return", f"the latent of an edited image of {model.manifest.name} is a {space}"
        )


def _arrays(source: LatentSource) -> dict[str, Floats]:
    """Return the latent of an edited image by name, which differs from that of its source."""
    latents = {"edited_z": source.z, "edited_w": source.w}
    return {name: each for name, each in latents.items() if each is not None}
