"""Routes for operators: readiness, metrics and reloads."""

from __future__ import annotations

from typing import Any

from ganymede_client.errors import problem_from
from ganymede_client.records import Readiness, Reloaded, ReloadedModel, record
from ganymede_client.wire import parsing
from ganymede_client.wire.calls import Call, Reply, Request, route


@route("POST", "/v1/admin/reload")
def reload() -> Call[Reloaded]:
    """Load new and changed models, and unload removed ones. Needs the key of an administrator."""
    return Call(Request("POST", "/v1/admin/reload"), parsing.parsed(_reloaded))


@route("GET", "/metrics")
def metrics() -> Call[str]:
    """Return the metrics in Prometheus's text format."""
    return Call(Request("GET", "/metrics"), parsing.text)


@route("GET")  # BentoML's route, which is not in the document.
def readiness() -> Call[Readiness]:
    """Return whether the service accepts requests, and the reason if it does not."""
    return Call(Request("GET", "/readyz"), _readiness, accepts=frozenset([503]))


def _readiness(reply: Reply) -> Readiness:
    if reply.status == 503:
        return Readiness(False, getattr(problem_from(reply), "detail", None))
    return Readiness(True)


def _reloaded(content: dict[str, Any]) -> Reloaded:
    return Reloaded(
        **{
            outcome: [record(ReloadedModel, each) for each in content[outcome]]
            for outcome in ("loaded", "kept", "failed", "removed")
        }
    )
