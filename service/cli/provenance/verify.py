"""`ganymede verify`: what an image, a video or audio is, and what of it can be proven."""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import Annotated

import typer

from service.cli.options import JsonOption, ModelsOption, models_folder
from service.runtime.errors import UserError


def verify(
    files: Annotated[
        list[Path], typer.Argument(help="Images, videos, WAV and FLAC files of any origin.")
    ],
    models: ModelsOption = None,
    trust: Annotated[
        Path | None,
        typer.Option(
            help="Certificates in PEM that are trusted to issue the certificates of signers. "
            "Without them, no signer is trusted.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """State what files are: their mark, credential and parameters, and what of it is proven.

    An image or audio of Ganymede is generated again by its model and compared. Marks and parameters
    prove nothing by themselves: anybody can add or remove them.

    Exits with 0 if every file is verified, 1 if a file contradicts its statements, 2 if a file
    cannot be read, and 3 if nothing is proven about a file; with several files, the first of 2, 1,
    3 that applies.

    Example: ganymede verify image.png --models ./models
    """
    from service.offline.verification.verify import Verdict, Verification
    from service.offline.verification.verify import verify as verify_file
    from service.runtime.progress import stage_progress

    folder = models_folder(models)
    anchors = None if trust is None else _read_anchors(trust)
    results: list[Verification] = []
    with stage_progress() as show:
        for file in files:
            show("verifying", len(results), len(files))
            results.append(verify_file(file, folder, anchors))
        show("verifying", len(results), len(files))
    if as_json:
        typer.echo(json.dumps([result.as_json() for result in results], indent=2))
    else:
        for result in results:
            typer.echo("\n".join(result.lines))
    verdicts = {result.verdict for result in results}
    for verdict, code in (
        (Verdict.UNREADABLE, 2),
        (Verdict.CONTRADICTED, 1),
        (Verdict.UNPROVEN, 3),
    ):
        if verdict in verdicts:
            raise typer.Exit(code)


def _read_anchors(path: Path) -> str:
    """Return the certificates of a file in PEM. Raises UserError."""
    try:
        text = path.read_text("ascii")
    except OSError as error:
        raise UserError(f"--trust: {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        text = ""
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise UserError(f"--trust: {path} is not a file of certificates in PEM")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError) as error:
        raise UserError(f"--trust: {path} has a damaged certificate: {error}") from error
    return text
