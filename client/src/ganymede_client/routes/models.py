"""The models of the service."""

from __future__ import annotations

import PIL.Image

from ganymede_client.records import Model, record
from ganymede_client.wire import parsing
from ganymede_client.wire.calls import Call, Request, route, segment


@route("GET", "/v1/models")
def models() -> Call[list[Model]]:
    """List the default version of every model."""
    parse = parsing.parsed(lambda content: [record(Model, each) for each in content["data"]])
    return Call(Request("GET", "/v1/models"), parse)


@route("GET", "/v1/models/{name}", names={"model": "name"})
def model(model: str) -> Call[Model]:
    """Describe one model, ``name`` or ``name@version``, with its manifest."""
    request = Request("GET", f"/v1/models/{segment(model)}")
    return Call(request, parsing.parsed(lambda content: record(Model, content)))


@route(
    "GET",
    "/v1/models/{name}/preview.webp",
    names={"model": "name"},
    left_out={"if-none-match": "nothing is stored that could be asked for again"},
)
def preview(model: str) -> Call[PIL.Image.Image]:
    """Get the preview image of a model, ``name`` or ``name@version``: a grid of samples."""
    return Call(Request("GET", f"/v1/models/{segment(model)}/preview.webp"), parsing.plain_image)
