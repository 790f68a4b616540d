"""`POST /v1/mix-styles`: pictures whose layers follow different sources."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Header, Request
from fastapi.responses import Response

from service.api import answers, wishes
from service.api.answers import Picture
from service.api.errors import invalid
from service.api.negotiation import Form, negotiate
from service.api.running import running
from service.api.schemas import MixStylesRequest, MixStylesResponse
from service.api.wishes import MixWish, Source
from service.runtime.engine import Engine
from service.runtime.images import mixing_grid
from service.runtime.manifest import MAPPING, SYNTHESIS
from service.runtime.model import Model
from service.runtime.scheduler import JobTooLarge, Rows
from service.runtime.sessions import Array
from service.runtime.styles import mix
from service.settings import Settings


def router(engine: Engine, settings: Settings, find: Callable[[str], Model]) -> APIRouter:
    """Return the routes; `find` gives the loaded model of a name."""
    routes = APIRouter(tags=["generate"])

    @routes.post(
        "/v1/mix-styles",
        summary="Pictures from the styles of two",
        response_model=MixStylesResponse,
        responses=answers.ANSWERS,
    )
    async def mix_styles(
        body: MixStylesRequest, request: Request, accept: Annotated[str | None, Header()] = None
    ) -> Response:
        model = find(body.model)
        wish = wishes.to_mix_styles(body, model, settings.max_images)
        form = negotiate(body.format, accept, 1)
        job = _Mix(model, wish, form)
        async with running(engine, request, settings.deadline_s) as run:
            try:
                w = await run.through(model, MAPPING, job.feeds(), job.mixed)
                return await run.through(model, SYNTHESIS, {"w": w}, job.answer)
            except JobTooLarge as error:
                message = f"the request is larger than the queue: {error}"
                raise invalid("rows", message) from error

    return routes


class _Mix:
    """One request: every distinct source is mapped once, and in a grid shown as it is too."""

    def __init__(self, model: Model, wish: MixWish, form: Form) -> None:
        """Raises Problem (422) for a grid that no file of its format can hold."""
        self._model = model
        self._wish = wish
        self._form = form
        self._sources = list(dict.fromkeys([*wish.rows, *wish.columns]))
        place = {source: i for i, source in enumerate(self._sources)}
        # Where the sources of the rows and of the columns are among those that are mapped.
        self._rows = [place[source] for source in wish.rows]
        self._columns = [place[source] for source in wish.columns]
        self._is_grid = form.container == "image" and len(wish.rows) * len(wish.columns) > 1
        if self._is_grid:
            self._assert_that_a_file_holds_it()

    def feeds(self) -> Rows:
        """Return what is to be mapped."""
        seeds = [source.seed for source in self._sources]
        truncation = self._wish.truncation
        return self._model.feeds(
            seeds,
            _class_indices(self._sources),
            None if truncation is None else [truncation] * len(seeds),
        )

    def mixed(self, outputs: Rows) -> Array:
        """Return the styles of all pictures: in a grid the sources' own come first."""
        w = outputs["w"]
        mixed = mix(w[self._rows], w[self._columns], self._wish.layers)
        # One job, so that the sources' pictures share batches with the mixed ones.
        return np.concatenate([w, mixed]) if self._is_grid else mixed

    def answer(self, outputs: Rows) -> Response:
        """Wrap the pictures."""
        pixels = outputs["pixels"]
        if not self._is_grid:
            return answers.answer(
                self._model, self._pictures(), pixels, self._form, self._headers()
            )
        own, mixed = np.split(pixels, [len(self._sources)])
        grid = mixing_grid(columns=own[self._columns], rows=own[self._rows], mixed=mixed)
        picture = Picture(self._grid_parameters(), "grid")
        return answers.answer(self._model, [picture], grid[None], self._form, self._headers())

    def _headers(self) -> dict[str, str]:
        wish = self._wish
        return answers.headers(
            self._model,
            rows=[source.seed for source in wish.rows],
            columns=[source.seed for source in wish.columns],
            layers=wish.layers,
            row_classes=_class_indices(wish.rows),
            column_classes=_class_indices(wish.columns),
            truncation=None if wish.truncation is None else [wish.truncation],
        )

    def _pictures(self) -> list[Picture]:
        """How each of the mixed pictures is made, in row-major order."""
        return [
            Picture(
                {"row": row.seed, "column": column.seed, "layers": list(self._wish.layers)}
                | self._class_names(row_class=row, column_class=column)
                | self._truncation(),
                name=f"row-{row.seed}-column-{column.seed}",
            )
            for row in self._wish.rows
            for column in self._wish.columns
        ]

    def _grid_parameters(self) -> dict[str, Any]:
        wish = self._wish
        parameters: dict[str, Any] = {
            "rows": [source.seed for source in wish.rows],
            "columns": [source.seed for source in wish.columns],
            "layers": list(wish.layers),
        }
        if self._model.manifest.classes:
            parameters["row_classes"] = [self._class_name(source) for source in wish.rows]
            parameters["column_classes"] = [self._class_name(source) for source in wish.columns]
        return parameters | self._truncation()

    def _class_names(self, **sources: Source) -> dict[str, str]:
        names = {field: self._class_name(source) for field, source in sources.items()}
        return {field: name for field, name in names.items() if name is not None}

    def _class_name(self, source: Source) -> str | None:
        index = source.class_index
        return None if index is None else self._model.manifest.classes[index]

    def _truncation(self) -> dict[str, float]:
        return {} if self._wish.truncation is None else {"truncation": self._wish.truncation}

    def _assert_that_a_file_holds_it(self) -> None:
        image = self._model.manifest.image
        height = image.height * (len(self._rows) + 1)
        width = image.width * (len(self._columns) + 1)
        longest = self._form.image.longest_side
        if max(height, width) > longest:
            raise invalid(
                "format",
                f"the grid has {width} × {height} pixels, and {self._form.image} holds "
                f"{longest} a side; take fewer rows or columns, or png, zip or npy",
            )


def _class_indices(sources: Sequence[Source]) -> list[int] | None:
    """Return the classes of `sources`, or None for a model without classes."""
    indices = [source.class_index for source in sources if source.class_index is not None]
    return indices or None
