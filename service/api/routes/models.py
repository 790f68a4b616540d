"""`GET /v1/models`: the models of the service and their state."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from service.api.problems import not_ready
from service.api.routes import head_requests
from service.api.schemas.models import ModelCard, ModelDetail, ModelList
from service.api.schemas.problems import ProblemDocument
from service.api.state import state_of
from service.runtime.models.catalog import Catalog, Entry
from service.runtime.models.manifest import MANIFEST_FILE
from service.runtime.scheduling.engine import Engine

router = APIRouter(tags=["models"])


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
            "image": manifest.image.model_dump(),
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


def _created(catalog: Catalog, entry: Entry) -> int:
    """Return when the manifest was written, in Unix time. OpenAI's clients expect the field."""
    try:
        path = catalog.folder / entry.name / entry.version / MANIFEST_FILE
        return int(path.stat().st_mtime)
    except OSError:
        return 0
