"""`POST /v1/mix-styles`: images whose layers take the styles of different sources."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from service.api import responses
from service.api.execution import request_execution
from service.api.middleware.json_bodies import body_size, process
from service.api.negotiation import accept_header, negotiate, with_credentials
from service.api.problems import invalid
from service.api.responses import ImageRecord
from service.api.routes.latent.grids import check_grid_size
from service.api.schemas.fields import source_fields
from service.api.schemas.mix_styles import MixStylesRequest, MixStylesResponse
from service.api.state import state_of
from service.runtime import requests
from service.runtime.generation import mixing_grid_plan, mixing_plan
from service.runtime.images.encoding import Pixels
from service.runtime.latent.style_mixing import StyleMixing
from service.runtime.models.model import Model
from service.runtime.scheduling.errors import JobTooLarge

router = APIRouter(tags=["generate"])


@router.post(
    "/v1/mix-styles",
    summary="Mix the styles of images",
    response_model=MixStylesResponse,
    responses=responses.IMAGE_RESPONSES,
)
async def mix_styles(body: MixStylesRequest, request: Request) -> Response:
    """Mix the styles of every row with the styles of every column."""
    state = state_of(request)
    model = state.find_model(body.model)
    mixing = await process(
        body_size(request),
        lambda: requests.style_mixing(
            model.manifest,
            max_images=state.settings.max_images,
            rows=source_fields(body.rows),
            columns=source_fields(body.columns),
            layers=body.layers,
            class_=body.class_,
            truncation=body.truncation,
        ),
    )
    output = negotiate(body.format, accept_header(request), 1)
    output = with_credentials(output, body.c2pa, state)
    is_grid = output.container == "image" and len(mixing.rows) * len(mixing.columns) > 1
    if is_grid:
        rows, columns = len(mixing.rows) + 1, len(mixing.columns) + 1
        check_grid_size(model.manifest.image_spec, rows, columns, output)
    headers = _headers(model, mixing)
    records = [_grid_record(model, mixing)] if is_grid else _records(model, mixing)

    def respond(pixels: Pixels) -> Response:
        images = pixels[None] if is_grid else pixels
        return responses.image_response(model, records, images, output, headers)

    async with request_execution(state.engine, request, state.settings.deadline_s) as execution:
        cache = execution.style_cache(model)
        if is_grid:
            plan = mixing_grid_plan(model.manifest, mixing, cache)
        else:
            plan = mixing_plan(model.manifest, [mixing], cache)
        try:
            return await execution.execute(model, plan, respond, long=output.signed)
        except JobTooLarge as error:
            message = f"the request is larger than the queue: {error}"
            raise invalid("rows", message) from error


def _headers(model: Model, mixing: StyleMixing) -> dict[str, str]:
    lists: dict[str, list[object]] = {
        "rows": [responses.source_label(source) for source in mixing.rows],
        "columns": [responses.source_label(source) for source in mixing.columns],
        "layers": [*responses.layer_labels(mixing.layers)],
    }
    if model.manifest.classes:
        lists["row_classes"] = [responses.class_label(source) for source in mixing.rows]
        lists["column_classes"] = [responses.class_label(source) for source in mixing.columns]
    return responses.headers(model, **lists)


def _grid_record(model: Model, mixing: StyleMixing) -> ImageRecord:
    return ImageRecord(mixing.grid_parameters(model.manifest), "grid")


def _records(model: Model, mixing: StyleMixing) -> list[ImageRecord]:
    """Return the record of each mixed image, in row-major order."""
    return [
        ImageRecord(
            StyleMixing((row,), (column,), mixing.layers).parameters(model.manifest),
            name=f"row-{responses.source_label(row)}-column-{responses.source_label(column)}",
        )
        for row in mixing.rows
        for column in mixing.columns
    ]
