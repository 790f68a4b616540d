"""`ganymede keys`: the keys that a service asks for."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from service.api_keys import KeysError, add_key, parse_expiry, read_keys, revoke_key
from service.settings import load_settings

app = typer.Typer(
    help="Make, list and revoke the keys that a service asks for.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

KeysOption = Annotated[
    Path | None,
    typer.Option(
        "--keys", help="The file of keys.  [env: GANYMEDE_KEYS]", show_default=False, metavar="FILE"
    ),
]
NameArgument = Annotated[str, typer.Argument(help="Whose key it is, or what it is for.")]


@app.command()
def add(
    name: NameArgument,
    admin: Annotated[bool, typer.Option("--admin", help="It may use /v1/admin too.")] = False,
    pixels_per_minute: Annotated[
        int | None,
        typer.Option(
            help="Pixels that it may have made in a minute; what the service says when not said.",
            show_default=False,
            metavar="N",
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            help="A time from now (90m, 12h, 30d, 2w) or a date (2030-01-31), in UTC; never when "
            "not said.",
            show_default=False,
            metavar="WHEN",
        ),
    ] = None,
    keys: KeysOption = None,
) -> None:
    """Make a key and print it: this once, for the file holds no more than its hash.

    A service that is running takes it at once.

    Example: ganymede keys add dashboard --pixels-per-minute 5000000 --expires 90d --keys keys.json
    """
    secret = add_key(
        _file(keys),
        name,
        admin=admin,
        pixels_per_minute=pixels_per_minute,
        expires=parse_expiry(expires) if expires is not None else None,
    )
    typer.echo(secret)


@app.command("list")
def list_keys(
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
    keys: KeysOption = None,
) -> None:
    """List the keys: all that is known of them, which is not the keys themselves.

    Example: ganymede keys list --keys keys.json
    """
    listed = read_keys(_file(keys))
    now = datetime.now(UTC)
    if as_json:
        rows = [
            key.model_dump(mode="json", exclude={"sha256"}) | {"expired": key.has_expired(now)}
            for key in listed
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("name", "id", "admin", "pixels a minute", "created", "expires", box=None)
    for key in listed:
        expires = key.expires.isoformat(" ", "minutes") if key.expires else ""
        table.add_row(
            key.name,
            key.id,
            "yes" if key.admin else "",
            f"{key.pixels_per_minute:,}" if key.pixels_per_minute else "",
            key.created.isoformat(" ", "minutes"),
            f"{expires}, past" if key.has_expired(now) else expires,
        )
    Console().print(table)


@app.command()
def revoke(name: NameArgument, keys: KeysOption = None) -> None:
    """Forget a key; a service that is running refuses it from its next request on.

    Example: ganymede keys revoke dashboard --keys keys.json
    """
    revoke_key(_file(keys), name)
    typer.echo(f"{name} is revoked")


def _file(given: Path | None) -> Path:
    path = given or load_settings().keys
    if path is None:
        raise KeysError("say which file: --keys FILE, or GANYMEDE_KEYS")
    return path
