"""`ganymede pull`: fetches a public model, and imports it."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.runtime.errors import UserError
from service.settings import address_of

if TYPE_CHECKING:
    from service.pull.cache import Fetching

_MAX_BYTES = "20GB"


def pull(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME|ADDRESS]",
            help="A model of the catalog, or an address: https://…, s3://BUCKET/FILE, "
            "hf://OWNER/NAME[@REVISION]/FILE or pypi:NAME==VERSION/FILE, with #sha256=DIGITS if "
            "it is known. Without it, the catalog is listed.",
            show_default=False,
        ),
    ] = None,
    import_options: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[-- IMPORT OPTIONS]",
            help="Options of ganymede import, after --.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the model.  [default: the name in the catalog, or from the file name]",
            show_default=False,
        ),
    ] = None,
    models: Annotated[
        Path, typer.Option(help="Model repository to write to.", envvar="GANYMEDE_MODELS")
    ] = Path("models"),
    version: Annotated[
        str | None,
        typer.Option(
            help="Version of the model.  [default: the next free number]", show_default=False
        ),
    ] = None,
    license_: Annotated[
        str | None,
        typer.Option(
            "--license",
            help="License of the weights, for the model card.  [default: as in the catalog]",
            show_default=False,
        ),
    ] = None,
    member: Annotated[
        str | None,
        typer.Option(help="The checkpoint in an archive that contains several."),
    ] = None,
    accept_license: Annotated[
        bool,
        typer.Option(
            "--accept-license", help="Accept the conditions of the license, without a question."
        ),
    ] = False,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes",
            help="Accept the conditions of the license and files without a known checksum, without "
            "a question.",
        ),
    ] = False,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Download again, although the cache has the files.")
    ] = False,
    max_bytes: Annotated[
        str, typer.Option(metavar="BYTES", help="Largest download, in bytes or with a unit.")
    ] = _MAX_BYTES,
    digest: Annotated[
        bool,
        typer.Option(
            "--digest",
            help="Print the digest that pins an address for ganymede serve --models, and write no "
            "model.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Fetch a public model and add it to the model repository; without a name, list the catalog.

    Downloads continue after an interruption, are verified and cached. Checkpoints are imported as
    by ganymede import; archives and folders of models are added as they are.

    Example: ganymede pull realesrgan-x4 --models ./models
    """
    from service.cli.pull.catalog_text import ask_consent, list_catalog, show_entry
    from service.cli.pull.request import PullRequest
    from service.pull.catalog import find_model
    from service.pull.locations import Location, is_location

    if model is None:
        list_catalog(as_json=as_json)
        return
    if digest:
        _print_digest(model, _fetching(max_bytes, refresh=refresh), as_json=as_json)
        return
    if address_of(models) is not None:
        raise UserError(f"--models {models}: expected a folder to write to, not an address")
    fetching = _fetching(max_bytes, refresh=refresh)
    with redirect_stdout(sys.stderr if as_json else sys.stdout):
        request = PullRequest(
            models, name, version, license_, member, tuple(import_options or ()), fetching
        )
        if is_location(model):
            folders = request.pull_address(Location.parse(model))
        else:
            entry = find_model(model)
            show_entry(entry)
            ask_consent(entry, accept_license=accept_license or yes, accept_unverified=yes)
            folders = request.pull_entry(entry)
    if as_json:
        rows = [{"name": f.parent.name, "version": f.name, "folder": str(f)} for f in folders]
        typer.echo(json.dumps(rows, indent=2))


def _fetching(max_bytes: str, *, refresh: bool) -> Fetching:
    """Return how files are fetched, with progress and messages on standard error."""
    from pydantic import ByteSize, TypeAdapter, ValidationError

    from service.pull.cache import Fetching

    try:
        limit = int(TypeAdapter(ByteSize).validate_python(max_bytes))
    except ValidationError as error:
        raise UserError(f"--max-bytes {max_bytes}: expected a number with a unit: 20GB") from error
    return Fetching(
        limit, refresh, show_progress=True, report=lambda text: typer.echo(text, err=True)
    )


def _print_digest(address: str, fetching: Fetching, *, as_json: bool) -> None:
    from service.pull.locations import Location
    from service.pull.repositories import current_digest

    location = Location.parse(address)
    checksum = current_digest(location, fetching)
    pinned = f"{location}#sha256={checksum.value}"
    typer.echo(json.dumps({"sha256": checksum.value, "address": pinned}) if as_json else pinned)
