"""`POST /v1/admin/…`: what only the operator may do."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel

from service.api.answers import PROBLEMS
from service.api.errors import Problem
from service.api.schemas import ProblemDocument
from service.runtime.catalog import Entry
from service.runtime.engine import Engine


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


def router(engine: Engine, require_admin: Callable[..., Any]) -> APIRouter:
    """Return the routes, each behind the dependency `require_admin`."""
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


async def loopback_only(request: Request) -> None:
    """Let in who is on this machine, without a proxy between. Raises Problem (403).

    A browser on this machine is not its operator: what a page from elsewhere sends has an Origin.
    """
    proxied = {"forwarded", "x-forwarded-for", "x-real-ip", "via", "origin"}
    host = request.client.host if request.client else ""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local or proxied & set(request.headers):
        raise Problem(
            403, "forbidden", "Not for this client", "this is for clients on the machine itself"
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
