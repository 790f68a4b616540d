"""`/v1/admin`: routes for administrators."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel

from service.api.middleware.authentication import require_admin
from service.api.responses import PROBLEMS
from service.api.schemas.problems import ProblemDocument
from service.api.state import state_of
from service.runtime.models.catalog import Entry


class ReloadedModel(BaseModel):
    """One version of a model after a reload."""

    id: str
    digest: str | None = None
    reason: str | None = None


class ReloadResponse(BaseModel):
    """Models by outcome. A model that `failed` keeps serving its previous files, if any."""

    loaded: list[ReloadedModel]
    kept: list[ReloadedModel]
    failed: list[ReloadedModel]
    removed: list[ReloadedModel]


router = APIRouter(
    tags=["operations"],
    dependencies=[Depends(require_admin)],
    responses={
        403: {"model": ProblemDocument, "description": "The caller is not an administrator"},
        503: PROBLEMS[503],
    },
)


# Not a coroutine, because loading would block the event loop.
@router.post(
    "/v1/admin/reload",
    summary="Load changes in the model repository",
    response_model_exclude_none=True,
)
def reload(request: Request) -> ReloadResponse:
    """Load new and changed models, and unload those that were removed."""
    changes = state_of(request).engine.reload()
    return ReloadResponse(
        loaded=_models(changes.loaded),
        kept=_models(changes.kept),
        failed=_models(changes.failed),
        removed=_models(changes.removed),
    )


def _models(entries: tuple[Entry, ...]) -> list[ReloadedModel]:
    return [
        ReloadedModel(
            id=entry.id,
            digest=entry.manifest.digest if entry.manifest else None,
            reason=entry.reason,
        )
        for entry in entries
    ]
