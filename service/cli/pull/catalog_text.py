"""The catalog on the terminal: its list, one model with its license, and questions."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import typer

from service.runtime.errors import UserError

if TYPE_CHECKING:
    from service.pull.catalog import CatalogModel


def list_catalog(*, as_json: bool) -> None:
    """Print the models of the catalog, two lines each, or as JSON."""
    from service.pull.catalog import read_catalog
    from service.runtime.formatting import format_size

    catalog = list(read_catalog().values())
    if as_json:
        rows = [
            {**each.model_dump(mode="json"), "size": each.size, "check": each.check}
            for each in catalog
        ]
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    cells = [
        (
            each.name,
            each.image,
            format_size(each.size) if each.size else "",
            each.check,
            each.license.name + (" *" if each.license.conditions else ""),
        )
        for each in catalog
    ]
    # A name is never shortened, so that it can be copied.
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for each, row in zip(catalog, cells, strict=True):
        first, *others = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        line = "  ".join([typer.style(first, bold=True), *others])
        typer.echo(f"{line.rstrip()}\n    {each.title}. {each.preview}.")
    typer.echo(
        "\n* with conditions, which are shown before the download. check: how the download is "
        "verified; without one, ganymede asks first.\nnext: ganymede pull NAME"
    )


def show_entry(entry: CatalogModel) -> None:
    """Print a model of the catalog with its license, before it is downloaded."""
    from service.runtime.formatting import format_size

    rows = [("shows", entry.preview), ("published", entry.page)]
    for file in entry.files:
        checksum = (
            f"{file.checksum}, stated by {file.stated_by}"
            if file.checksum
            else "none: no public source states one"
        )
        rows += [("file", file.address), ("checksum", checksum)]
    rows.append(("size", format_size(entry.size) if entry.size else "not stated"))
    rows.append(("license", f"{entry.license.name}, {entry.license.url}"))
    if entry.license.conditions:
        rows.append(("conditions", entry.license.conditions))
    typer.echo(f"{entry.name}: {entry.title}")
    for label, text in rows:
        typer.echo(f"  {label:<11}{text}")


def ask_consent(entry: CatalogModel, *, accept_license: bool, accept_unverified: bool) -> None:
    """Ask for what the download needs consent to. Raises UserError if it is refused."""
    if entry.license.conditions and not accept_license:
        _confirm(
            "Accept the conditions of the license?",
            f"{entry.name}: the license has conditions",
            "--accept-license",
        )
    if entry.check == "none" and not accept_unverified:
        _confirm(
            "Download a file that cannot be verified?",
            f"{entry.name}: the checksum is unknown",
            "--yes",
        )


def _confirm(question: str, reason: str, flag: str) -> None:
    if not sys.stdin.isatty():
        raise UserError(f"{reason}; {flag} accepts that without a terminal")
    if not typer.confirm(question, default=False, err=True):
        raise UserError(f"{reason}, which was not accepted; nothing was downloaded")
