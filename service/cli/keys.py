"""`ganymede keys`: creates, lists and revokes the API keys of a service."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from service.api_keys import KeysError, PriorityName, add_key, parse_expiry, read_keys, revoke_key
from service.cli.options import JsonOption
from service.settings import load_settings

app = typer.Typer(
    help="Create, list and revoke API keys.",
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
NameArgument = Annotated[str, typer.Argument(help="The key's owner or purpose.")]


@app.command()
def add(
    name: NameArgument,
    admin: Annotated[
        bool, typer.Option("--admin", help="Give the key access to /v1/admin.")
    ] = False,
    pixels_per_minute: Annotated[
        int | None,
        typer.Option(
            help="Generated pixels per minute for this key. Default: the limit of the service.",
            show_default=False,
            metavar="N",
        ),
    ] = None,
    max_priority: Annotated[
        PriorityName | None,
        typer.Option(
            help="The highest priority that requests with this key may ask for. Default: the "
            "maximum of the service.",
            show_default=False,
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            help="A time from now (90m, 12h, 30d, 2w) or a date in UTC (2030-01-31); default: "
            "never.",
            show_default=False,
            metavar="WHEN",
        ),
    ] = None,
    keys: KeysOption = None,
) -> None:
    """Create a key and print it. The file holds only its hash, so it cannot be shown again.

    A running service accepts it immediately.

    Example: ganymede keys add dashboard --pixels-per-minute 5000000 --expires 90d --keys keys.json
    """
    key = add_key(
        _keys_file(keys),
        name,
        admin=admin,
        pixels_per_minute=pixels_per_minute,
        max_priority=max_priority,
        expires=parse_expiry(expires) if expires is not None else None,
    )
    typer.echo(key)


@app.command("list")
def list_keys(as_json: JsonOption = False, keys: KeysOption = None) -> None:
    """List the keys: name, id, rate limit, priority and expiry, but not the keys themselves.

    Example: ganymede keys list --keys keys.json
    """
    listed = read_keys(_keys_file(keys))
    now = datetime.now(UTC)
    if as_json:
        rows = [
            key.model_dump(mode="json", exclude={"sha256"}) | {"expired": key.has_expired(now)}
            for key in listed
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table(
        "name", "id", "admin", "pixels per minute", "max priority", "created", "expires", box=None
    )
    for key in listed:
        expires = key.expires.isoformat(" ", "minutes") if key.expires else ""
        table.add_row(
            key.name,
            key.id,
            "yes" if key.admin else "",
            f"{key.pixels_per_minute:,}" if key.pixels_per_minute else "",
            key.max_priority or "",
            key.created.isoformat(" ", "minutes"),
            f"{expires} (expired)" if key.has_expired(now) else expires,
        )
    Console().print(table)


@app.command()
def revoke(name: NameArgument, keys: KeysOption = None) -> None:
    """Revoke a key. A running service rejects it immediately.

    Example: ganymede keys revoke dashboard --keys keys.json
    """
    revoke_key(_keys_file(keys), name)
    typer.echo(f"{name} is revoked")


def _keys_file(option: Path | None) -> Path:
    path = option or load_settings().keys
    if path is None:
        raise KeysError("give the file of keys as --keys FILE or GANYMEDE_KEYS")
    return path
