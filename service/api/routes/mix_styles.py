"""`POST /v1/mix-styles`: pictures whose layers follow different sources."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Header, Request
from fastapi.responses import Response

from service.api import request_parsing, responses
from service.api.execution import request_execution
from service.api.negotiation import Form, negotiate
from service.api.problems import invalid
from service.api.responses import Picture
from service.api.schemas import MixStylesRequest, MixStylesResponse
from service.runtime.images.encoding import mixing_grid
from service.runtime.latent.style_mixing import StyleMixing, mix_styles
from service.runtime.models.manifest import SYNTHESIS
from service.runtime.models.model import Model
from service.runtime.onnx.sessions import Array
from service.runtime.scheduling.batches import Rows
from service.runtime.scheduling.engine import Engine
from service.runtime.scheduling.scheduler import JobTooLarge
from service.settings import Settings


def router(engine: Engine, settings: Settings, find: Callable[[str], Model]) -> APIRouter:
    """Return the routes; `find` gives the loaded model of a name."""
    routes = APIRouter(tags=["generate"])

    @routes.post(
        "/v1/mix-styles",
        summary="Pictures from the styles of two",
        response_model=MixStylesResponse,
        responses=responses.ANSWERS,
    )
    async def mix_styles(
        body: MixStylesRequest, request: Request, accept: Annotated[str | None, Header()] = None
    ) -> Response:
        model = find(body.model)
        wish = request_parsing.to_mix_styles(body, model, settings.max_images)
        form = negotiate(body.format, accept, 1)
        job = _Mix(model, wish, form)
        async with request_execution(engine, request, settings.deadline_s) as run:
            try:
                w = await run.styles(model, [*wish.rows, *wish.columns])
                return await run.through(model, SYNTHESIS, {"w": job.mixed(w)}, job.answer)
            except JobTooLarge as error:
                message = f"the request is larger than the queue: {error}"
                raise invalid("rows", message) from error

    return routes


class _Mix:
    """One request: its pictures, or a grid that shows every distinct source as it is too."""

    def __init__(self, model: Model, wish: StyleMixing, form: Form) -> None:
        """Raises Problem (422) for a grid that no file of its format can hold."""
        self._model = model
        self._wish = wish
        self._form = form
        sources = [*wish.rows, *wish.columns]
        # Where each distinct source comes first, and which of those each source is.
        first: dict[object, int] = {}
        for i, source in enumerate(sources):
            first.setdefault(source.key, i)
        self._distinct = list(first.values())
        place = {key: i for i, key in enumerate(first)}
        self._own = [place[source.key] for source in sources]
        self._is_grid = form.container == "image" and len(wish.rows) * len(wish.columns) > 1
        if self._is_grid:
            self._assert_that_a_file_holds_it()

    def mixed(self, w: Array) -> Array:
        """Return the styles of all pictures, from those of all rows and then all columns.

        In a grid the distinct sources' own come first.
        """
        rows, columns = np.split(w, [len(self._wish.rows)])
        mixed = mix_styles(rows, columns, self._wish.layers)
        # One job, so that the sources' pictures share batches with the mixed ones.
        return np.concatenate([w[self._distinct], mixed]) if self._is_grid else mixed

    def answer(self, outputs: Rows) -> Response:
        """Wrap the pictures."""
        pixels = outputs["pixels"]
        if not self._is_grid:
            return responses.answer(
                self._model, self._pictures(), pixels, self._form, self._headers()
            )
        own, mixed = np.split(pixels, [len(self._distinct)])
        rows, columns = np.split(own[self._own], [len(self._wish.rows)])
        grid = mixing_grid(columns=columns, rows=rows, mixed=mixed)
        picture = Picture(self._wish.grid_parameters(self._model.manifest), "grid")
        return responses.answer(self._model, [picture], grid[None], self._form, self._headers())

    def _headers(self) -> dict[str, str]:
        wish = self._wish
        said: dict[str, Any] = {
            "rows": [responses.short(source) for source in wish.rows],
            "columns": [responses.short(source) for source in wish.columns],
            "layers": [
                layer if weight == 1 else f"{layer}:{weight:.6g}"
                for layer, weight in wish.layers.items()
            ],
        }
        if self._model.manifest.classes:
            said["row_classes"] = [responses.class_text(source) for source in wish.rows]
            said["column_classes"] = [responses.class_text(source) for source in wish.columns]
        return responses.headers(self._model, **said)

    def _pictures(self) -> list[Picture]:
        """How each of the mixed pictures is made, in row-major order."""
        return [
            Picture(
                StyleMixing((row,), (column,), self._wish.layers).parameters(self._model.manifest),
                name=f"row-{responses.short(row)}-column-{responses.short(column)}",
            )
            for row in self._wish.rows
            for column in self._wish.columns
        ]

    def _assert_that_a_file_holds_it(self) -> None:
        image = self._model.manifest.image
        height = image.height * (len(self._wish.rows) + 1)
        width = image.width * (len(self._wish.columns) + 1)
        longest = self._form.image.longest_side
        if max(height, width) > longest:
            raise invalid(
                "format",
                f"the grid has {width} × {height} pixels, and {self._form.image} holds "
                f"{longest} a side; take fewer rows or columns, or png, zip or npy",
            )
