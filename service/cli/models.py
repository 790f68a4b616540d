"""`ganymede models`: lists and verifies the models of a repository."""

from __future__ import annotations

import json

import typer
from rich.console import Console
from rich.table import Table

from service.cli.options import JsonOption, ModelsOption, models_folder


def models(models: ModelsOption = None, as_json: JsonOption = False) -> None:
    """List the models and verify them: digests, manifests, and one run of each on the CPU.

    Exits with 1 if a model cannot be served.

    Example: ganymede models --models ./models --json
    """
    from service.runtime.models.catalog import Catalog, State
    from service.runtime.onnx.sessions import Provider, plan_for
    from service.runtime.progress import stage_progress

    catalog = Catalog(models_folder(models), Provider.CPU, plan_for(Provider.CPU))
    with stage_progress() as show:
        catalog.load(lambda done, total: show("verifying models", done, total))
    if as_json:
        rows = [
            {
                "name": entry.name,
                "version": entry.version,
                "state": entry.state,
                "reason": entry.reason,
                "task": entry.manifest and entry.manifest.task,
                "digest": entry.manifest and entry.manifest.digest,
            }
            for entry in catalog.entries
        ]
        typer.echo(json.dumps(rows, indent=2))
    else:
        table = Table("model", "version", "task", "output", "state", box=None)
        for entry in catalog.entries:
            output = entry.manifest.output if entry.manifest else None
            table.add_row(
                entry.name,
                entry.version,
                entry.manifest.task if entry.manifest else "",
                output.summary if output else "",
                entry.state + (f": {entry.reason}" if entry.reason else ""),
            )
        Console().print(table)
    if any(entry.state is State.FAILED for entry in catalog.entries):
        raise typer.Exit(1)
