"""What a server logs when it starts and when it is ready.

Programs get the fields of one line; people on a terminal get what a newcomer needs: the address of
the playground, the models, and what runs them. Imports nothing slow: `ganymede serve` uses it, too.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from service import __version__, logs
from service.settings import Settings, is_loopback

if TYPE_CHECKING:
    from service.runtime.scheduling.engine import Engine

log = logging.getLogger("ganymede.server")

# Names that are listed; further ones are counted.
_MAX_NAMES = 6


def log_start(settings: Settings) -> None:
    """Log that the server starts, which takes seconds, and minutes with large models."""
    fields = {"version": __version__, "folder": str(settings.models)}
    text = f"Ganymede {__version__} loads the models in {settings.models} (Ctrl+C stops it)"
    logs.event(log, "starting", fields, text)


def log_ready(url: str, engine: Engine, settings: Settings, processes: int) -> None:
    """Log that `processes` processes serve the engine's models."""
    from service.runtime.models.catalog import State  # noqa: PLC0415 - imports ONNX Runtime
    from service.runtime.onnx.sessions import cuda_unavailable_reason  # noqa: PLC0415

    catalog = engine.catalog
    entries = catalog.entries if catalog else ()
    ready = [entry for entry in entries if entry.state is State.READY]
    failed = [entry for entry in entries if entry.state is State.FAILED]
    provider = str(engine.provider)
    fields = {
        "url": url,
        "models": len(ready),
        "failed": len(failed),
        "provider": provider,
        "processes": processes,
    }
    if provider == "cpu" and engine.provider_option == "auto":
        provider = f"cpu; no GPU is used: {cuda_unavailable_reason()}"
    rows = [
        ("playground", url),
        ("API", f"{url}docs"),
        ("models", f"{len(ready)}: {_listed([entry.name for entry in ready])}"),
        *(("failed", f"{entry.id}: {entry.reason}") for entry in failed[:_MAX_NAMES]),
        ("provider", provider),
        ("processes", str(processes)),
        ("access", _access(settings, url)),
    ]
    lines = ["", f"Ganymede {__version__} is ready.", ""]
    lines += [f"  {name:<11} {text}" for name, text in rows]
    logs.event(log, "serving", fields, "\n".join([*lines, ""]))


def _listed(names: list[str]) -> str:
    distinct = list(dict.fromkeys(names))
    more = len(distinct) - _MAX_NAMES
    return ", ".join(distinct[:_MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def _access(settings: Settings, url: str) -> str:
    """Return who may send requests."""
    if settings.requires_keys:
        return f"requests need a key of {settings.keys}"
    host = url.partition("//")[2].rpartition(":")[0].strip("[]")
    # Without keys, and unless it is told otherwise, a service refuses the requests of others.
    if is_loopback(host) or not settings.insecure:
        return "programs on this machine, without a key"
    return "every machine that reaches this one, without a key"
