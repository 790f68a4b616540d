"""`POST /v1/admin/…`: what only the operator may do."""

from __future__ import annotations

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from service.api.middleware.authentication import require_admin
from service.api.responses import PROBLEMS
from service.api.schemas import ProblemDocument
from service.runtime.models.catalog import Entry
from service.runtime.scheduling.engine import Engine


class ReloadedModel(BaseModel):
    """One version of a model, and what became of it."""

    id: str
    digest: str | None = None
    reason: str | None = None


class ReloadResponse(BaseModel):
    """What a reload did. A model that `failed` serves on as it was, if it was served before."""

    loaded: list[ReloadedModel]
    kept: list[ReloadedModel]
    failed: list[ReloadedModel]
    removed: list[ReloadedModel]


def router(engine: Engine) -> APIRouter:
    """Return the routes, each for administrators alone."""
    routes = APIRouter(
        tags=["operations"],
        dependencies=[Depends(require_admin)],
        responses={
            403: {"model": ProblemDocument, "description": "Not for this client"},
            503: PROBLEMS[503],
        },
    )

    # Loading takes its time, so it is no coroutine: the event loop goes on meanwhile.
    @routes.post(
        "/v1/admin/reload",
        summary="Load what has changed in the model repository",
        response_model_exclude_none=True,
    )
    def reload() -> ReloadResponse:
        changes = engine.reload()
        return ReloadResponse(
            loaded=_models(changes.loaded),
            kept=_models(changes.kept),
            failed=_models(changes.failed),
            removed=_models(changes.removed),
        )

    return routes


def _models(entries: tuple[Entry, ...]) -> list[ReloadedModel]:
    return [
        ReloadedModel(
            id=entry.id,
            digest=entry.manifest.digest if entry.manifest else None,
            reason=entry.reason,
        )
        for entry in entries
    ]
