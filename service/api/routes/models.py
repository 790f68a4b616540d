"""`GET /v1/models`: the models of the service, their state and their preview images."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.responses import Response

from service.api import responses
from service.api.problems import Problem, not_ready
from service.api.routes import head_requests
from service.api.schemas.models import ModelCard, ModelDetail, ModelList
from service.api.schemas.problems import ProblemDocument
from service.api.state import state_of
from service.runtime.files import open_regular
from service.runtime.models.catalog import Catalog, Entry
from service.runtime.models.manifest import MANIFEST_FILE, PREVIEW_FILE, Manifest
from service.runtime.models.parts.tasks import OUTPUT_PARTS
from service.runtime.scheduling.engine import Engine

router = APIRouter(tags=["models"])

_PREVIEW_TYPE = "image/webp"
_IMAGE_FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": {_PREVIEW_TYPE: {"schema": {"type": "string", "format": "binary"}}}},
    304: {"description": "Not modified"},
    **responses.PROBLEMS,
}


@head_requests.get(router, "/v1/models", summary="List models", response_model_exclude_none=True)
async def models(request: Request) -> ModelList:
    """List the default version of every model."""
    catalog = _catalog(state_of(request).engine)
    entries = [catalog.default(name) for name in catalog.names()]
    return ModelList(data=[ModelCard(**_card(catalog, entry)) for entry in entries])


@head_requests.get(
    router,
    "/v1/models/{name}",
    summary="One model with its manifest",
    response_model_exclude_none=True,
    responses={404: {"model": ProblemDocument}},
)
async def model(name: str, request: Request) -> ModelDetail:
    """Describe one model. `name@version` selects a version."""
    catalog = _catalog(state_of(request).engine)
    entry = catalog.entry(name)
    manifest = entry.manifest and entry.manifest.model_dump(mode="json", exclude_none=True)
    return ModelDetail(**_card(catalog, entry), manifest=manifest)


@head_requests.get(
    router,
    "/v1/models/{name}/preview.webp",
    summary="Get the preview image of a model",
    response_class=Response,
    responses=_IMAGE_FILE,
)
def preview(
    name: str, request: Request, if_none_match: Annotated[str | None, Header()] = None
) -> Response:
    """Return the sample grid in the model folder. `name@version` selects a version."""
    catalog = _catalog(state_of(request).engine)
    entry = catalog.entry(name)
    return _image_file(catalog, entry, PREVIEW_FILE, "preview", if_none_match)


@head_requests.get(
    router,
    "/v1/models/{name}/directions/{direction}.webp",
    summary="Get the image of a direction",
    response_class=Response,
    responses=_IMAGE_FILE,
)
def direction_strip(
    name: str,
    direction: str,
    request: Request,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Return images of the same seeds along a direction. `name@version` selects a version."""
    catalog = _catalog(state_of(request).engine)
    entry = catalog.entry(name)
    items = entry.manifest.directions.items if entry.manifest and entry.manifest.directions else ()
    item = next((each for each in items if each.name == direction), None)
    if item is None:
        known = ", ".join(each.name for each in items) or "none"
        raise Problem(
            404,
            "direction-not-found",
            "Direction not found",
            f"{entry.id} has no direction {direction[:50]!r}; available: {known}",
        )
    return _image_file(catalog, entry, item.strip, f"image of {direction}", if_none_match)


def _image_file(
    catalog: Catalog, entry: Entry, file_name: str | None, what: str, if_none_match: str | None
) -> Response:
    """Return a WebP file of a model folder. Raises Problem (404) if it is missing."""
    message = f"the folder of {entry.id} has no {what}"
    if file_name is None:
        raise Problem(404, "file-not-found", "File not found", message)
    try:
        with open_regular(catalog.folder / entry.name / entry.version / file_name) as file:
            content = file.read()
    except OSError as error:
        raise Problem(404, "file-not-found", "File not found", message) from error
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"etag": etag, "cache-control": "public, max-age=60"}
    if responses.is_not_modified(etag, if_none_match):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=_PREVIEW_TYPE)


def _catalog(engine: Engine) -> Catalog:
    if engine.catalog is None:
        raise not_ready(engine.reason or engine.state)
    return engine.catalog


def _card(catalog: Catalog, entry: Entry) -> dict[str, Any]:
    card: dict[str, Any] = {
        "id": entry.name,
        "created": _created(catalog, entry),
        "owned_by": "ganymede",
        "name": entry.name,
        "version": entry.version,
        "state": entry.state,
        "reason": entry.reason,
        "versions": [
            {"version": e.version, "state": e.state, "reason": e.reason}
            for e in catalog.versions(entry.name)
        ],
    }
    if entry.manifest:
        manifest = entry.manifest
        truncation = manifest.latent.truncation if manifest.latent else None
        card |= {
            "digest": manifest.digest,
            "task": manifest.task,
            "summary": manifest.summary,
            "classes": list(manifest.classes),
            "truncation": truncation and truncation.model_dump(),
            "styles": manifest.styles and manifest.styles.model_dump(mode="json"),
            "transform": manifest.takes_transform,
            "discriminator": manifest.discriminator
            and manifest.discriminator.model_dump(mode="json", exclude_none=True),
            **{
                name: part and part.model_dump(mode="json")
                for name in (*OUTPUT_PARTS, "text_input")
                for part in [getattr(manifest, name)]
            },
            "directions": _directions(manifest),
            "encoder": manifest.encoder
            and manifest.encoder.model_dump(
                mode="json", include={"passes", "figures"}, exclude_none=True
            ),
        }
    if entry.model:
        plan = entry.model.plan
        card["provider"] = entry.model.provider
        card["plan"] = {
            "workers": plan.workers,
            "threads": plan.threads,
            "max_rows": plan.max_rows,
            "source": plan.source,
        }
        if plan.alone:
            card["plan"]["alone"] = plan.alone
        if plan.buckets:
            card["plan"]["buckets"] = list(plan.buckets)
        card["golden"] = entry.golden
        card["loaded"] = entry.model.loaded
        card["memory_bytes"] = entry.model.memory_bytes or None
    return card


def _directions(manifest: Manifest) -> list[dict[str, Any]] | None:
    """Describe the directions of a model."""
    if manifest.directions is None:
        return None
    base = f"/v1/models/{manifest.name}@{manifest.version}/directions"
    return [
        item.model_dump(mode="json")
        | {"strip": f"{base}/{item.name}.webp" if item.strip is not None else None}
        for item in manifest.directions.items
    ]


def _created(catalog: Catalog, entry: Entry) -> int:
    """Return when the manifest was written, in Unix time. OpenAI's clients expect the field."""
    try:
        path = catalog.folder / entry.name / entry.version / MANIFEST_FILE
        return int(path.stat().st_mtime)
    except OSError:
        return 0
