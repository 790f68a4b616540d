"""`ganymede serve`: serves the models over HTTP."""

from __future__ import annotations

import errno
import socket
from pathlib import Path
from typing import Annotated

import typer

from service.cli.options import with_settings
from service.host.bentoml_launch import exec_server
from service.runtime.errors import UserError
from service.settings import Settings, is_loopback, load_settings


@with_settings
def serve(
    host: Annotated[
        str,
        typer.Option(
            help="The address to listen on. An address that other machines can reach requires "
            "--keys or --insecure."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")] = 3000,
    config: Annotated[
        Path | None,
        typer.Option(
            help="A TOML file of settings, named like the flags below, with _ instead of -. Flags "
            "take precedence over environment variables, and environment variables over the file.  "
            "[env: GANYMEDE_CONFIG]",
            show_default=False,
            metavar="FILE",
        ),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Reload models that change in the repository; same as --watch-s 5."
        ),
    ] = False,
    first_key: Annotated[
        bool,
        typer.Option(
            "--first-key",
            help="If the file of --keys does not exist, create it with one key and print the key.",
        ),
    ] = False,
    workers: Annotated[str | None, typer.Option("--workers", hidden=True)] = None,
    **flags: object,
) -> None:
    """Serve the models over HTTP until stopped.

    Example: ganymede serve --port 8000 --models ./models --provider cpu
    """
    options = {name: value for name, value in flags.items() if value is not None}
    if watch:
        options.setdefault("watch_s", 5.0)
    # An old name, for which `load_settings` names the new one.
    settings = load_settings(options | ({"workers": workers} if workers else {}), config)
    if not settings.models.is_dir():
        raise UserError(f"--models: no such folder: {settings.models}")
    address = _resolve(host)
    _assert_port_free(address, port)
    _assert_access_control(settings, host, address, first_key=first_key)
    exec_server(settings, address, port)


def _resolve(host: str) -> str:
    """Return the IP address of `host`. Raises UserError."""
    try:
        addresses = socket.getaddrinfo(host or "?", None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--host: {host!r} is not an address of this machine: {reason}") from error
    # If a name has both, prefer IPv4, which all clients try.
    addresses.sort(key=lambda entry: entry[0] != socket.AF_INET)
    return str(addresses[0][4][0])


def _assert_port_free(address: str, port: int) -> None:
    """Raise UserError if the port is in use, which BentoML would report with a stack trace."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            reason = "is in use" if error.errno == errno.EADDRINUSE else str(error)
            raise UserError(f"cannot listen on {address}, port {port}: {reason}") from error


def _assert_access_control(settings: Settings, host: str, address: str, *, first_key: bool) -> None:
    """Check access control, and create the first key if `first_key` is set and the file is missing.

    Raises UserError if other machines could connect without a key, or if the file has no keys.
    """
    from service.api_keys import add_key, read_keys

    if settings.requires_keys and settings.keys is not None:
        if first_key and not settings.keys.exists():
            key = add_key(settings.keys, "first")
            typer.echo(
                f"Created {settings.keys} with one key, which is shown only now: {key}\n"
                f"Use it as: curl -H 'Authorization: Bearer {key}' …",
                err=True,
            )
        if not read_keys(settings.keys):
            raise UserError(
                f"{settings.keys} has no keys, so no request would be accepted; create one: "
                f"ganymede keys add NAME --keys {settings.keys}"
            )
    elif not settings.insecure and not is_loopback(address):
        raise UserError(
            f"other machines can reach {host}, and no keys are required: give --keys FILE "
            "(created by ganymede keys add NAME --keys FILE; $GANYMEDE_KEYS), or --insecure "
            "($GANYMEDE_INSECURE=1) to accept every request"
        )
