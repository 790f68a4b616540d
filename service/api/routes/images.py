"""`GET /v1/models/{name}/images/{seed}.{extension}`: every image of a latent space has a URL."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import Response

from service import __version__
from service.api import responses
from service.api.negotiation import OutputFormat, with_credentials
from service.api.problems import Problem
from service.api.routes import head_requests
from service.api.routes.generate import generate_response
from service.api.schemas.fields import C2PA, PROMPT
from service.api.state import state_of
from service.runtime import requests
from service.runtime.images.encoding import ImageFormat
from service.runtime.images.xmp import SourceType
from service.runtime.latent.seeds import MAX_SEED
from service.runtime.latent.sources import LatentSource
from service.runtime.models.model import Model
from service.runtime.text.requests import MAX_PROMPT, with_prompt

router = APIRouter(tags=["generate"])

_FORMATS = {
    "png": ImageFormat.PNG,
    "jpg": ImageFormat.JPEG,
    "jpeg": ImageFormat.JPEG,
    "webp": ImageFormat.WEBP,
}


@head_requests.get(
    router,
    "/v1/models/{name}/images/{seed}.{extension}",
    summary="Get the image of one seed",
    response_class=Response,
    responses={
        200: {"content": responses.IMAGE_CONTENT},
        304: {"description": "Not modified"},
        **responses.PROBLEMS,
    },
)
async def image(
    request: Request,
    name: str,
    seed: Annotated[int, Path(ge=0, le=MAX_SEED)],
    extension: str,
    version: Annotated[str | None, Query()] = None,
    class_: Annotated[str | None, Query(alias="class", description="A name or an index.")] = None,
    truncation: Annotated[float | None, Query(allow_inf_nan=False)] = None,
    prompt: Annotated[str | None, Query(max_length=MAX_PROMPT, description=PROMPT)] = None,
    c2pa: Annotated[bool | None, Query(description=C2PA)] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Return the image of one seed. The response is cacheable, and immutable for a version."""
    if (image_format := _FORMATS.get(extension)) is None:
        raise Problem(
            404,
            "format-not-found",
            "Format not found",
            f"no image format has the extension .{extension}; available: {', '.join(_FORMATS)}",
        )
    state = state_of(request)
    model = state.find_model(f"{name}@{version}" if version else name, "generate", "text-to-image")
    source = requests.image_source(model.manifest, seed=seed, class_=class_, truncation=truncation)
    source = with_prompt(model.manifest, source, prompt)
    output = with_credentials(OutputFormat("image", image_format), c2pa, state)
    is_immutable = version or "@" in name
    etag = _etag(model, source, image_format)
    headers = {
        # Two signed files of one image differ: the tag identifies the bytes before the signature.
        "etag": etag if output.signer is None else f"W/{etag}",
        # A name without a version may resolve to another version later.
        "cache-control": "public, max-age=31536000, immutable"
        if is_immutable
        else "public, max-age=60",
    }
    if responses.is_not_modified(etag, if_none_match):
        return Response(status_code=304, headers=headers)
    response = await generate_response(request, model, [source], output)
    response.headers.update(headers)
    return response


def _etag(model: Model, source: LatentSource, image_format: ImageFormat) -> str:
    """Return a hash of everything that determines the bytes of the file, including the encoder."""
    parameters = source.parameters(model.manifest)
    mark = SourceType.of(parameters)
    inputs = [__version__, responses.identity(model), parameters, image_format, mark]
    return f'"{hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:32]}"'
