"""`ganymede doctor`: checks the installation, the machine and the models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service import __version__
from service.cli.options import JsonOption

if TYPE_CHECKING:
    from service.doctor.findings import Finding

_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}


def doctor(
    models: Annotated[
        Path | None,
        typer.Option(help="The model repository.  [default: ./models]", show_default=False),
    ] = None,
    provider: Annotated[
        str | None,
        typer.Option(
            metavar="auto|cuda|cpu",
            help="The provider that serve will get.  [default: auto]",
            show_default=False,
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="The address that serve will get.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="The port that serve will get.")
    ] = 3000,
    config: Annotated[
        Path | None,
        typer.Option(
            help="The file of settings that serve will get.  [env: GANYMEDE_CONFIG]",
            show_default=False,
            metavar="FILE",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check the installation, the machine and the models, and say what to do about each trouble.

    Needs no GPU, no training libraries and no working model, and changes nothing. Exits with 1 if
    something does not work; warnings are about what may fail later.

    Example: ganymede doctor --models ./models --provider cuda
    """
    from service.doctor.examination import examine
    from service.doctor.findings import Status
    from service.runtime.progress import stage_progress

    given = {"models": models, "provider": provider}
    flags = {name: value for name, value in given.items() if value is not None}
    findings = []
    with stage_progress() as show:
        for finding in examine(dict(flags), host, port, show, config):
            findings.append(finding)
            if not as_json:
                _print(finding)
    counts = {status: sum(each.status is status for each in findings) for status in Status}
    if as_json:
        content = {
            "version": __version__,
            "ok": not counts[Status.ERROR],
            "findings": [finding.to_json() for finding in findings],
        }
        typer.echo(json.dumps(content, indent=2))
    else:
        typer.echo(_verdict(counts[Status.ERROR], counts[Status.WARNING]))
    if counts[Status.ERROR]:
        raise typer.Exit(1)


def _print(finding: Finding) -> None:
    from rich.console import Console
    from rich.text import Text

    from service.doctor.findings import Status

    # Texts, because names of files may look like markup or contain control characters.
    line = Text()
    line.append(f"{finding.status.value:<8}", style=_STYLES[finding.status])
    line.append(f"{finding.check:<16} ", style="bold")
    line.append(_printable(finding.text))
    console = Console(highlight=False)
    console.print(line, soft_wrap=True)
    if finding.status is not Status.OK and finding.advice:
        console.print(Text(f"{'':<8}{'':<16} → {_printable(finding.advice)}"), soft_wrap=True)


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text)


def _verdict(errors: int, warnings: int) -> str:
    if not errors and not warnings:
        return "Everything works."
    counts = [(errors, "error"), (warnings, "warning")]
    listed = ", ".join(f"{count} {name}{'s' * (count > 1)}" for count, name in counts if count)
    return f"{listed}. " + ("Something does not work." if errors else "The service works.")
