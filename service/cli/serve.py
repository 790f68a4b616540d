"""`ganymede serve`: serves the models over HTTP, and over gRPC if it has a port."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Annotated

import typer

from service import logs
from service.addresses import assert_port_free, resolve
from service.announcement import log_start
from service.cli.options import local_models, with_settings
from service.host.bentoml_launch import exec_server
from service.runtime.errors import UserError
from service.settings import Settings, address_of, is_loopback, load_settings

log = logging.getLogger("ganymede.pull")


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
    if address_of(settings.models) is None and not settings.models.is_dir():
        raise UserError(f"--models: no such folder: {settings.models}")
    _assert_can_sign(settings)
    address = resolve(host)
    assert_port_free(address, port)
    if settings.grpc_port is not None:
        _assert_grpc(settings.grpc_port, address, port)
    _assert_access_control(settings, host, address, first_key=first_key)
    _assert_webhooks(settings)
    logs.configure(settings.log_format)
    models = local_models(settings, log.info)
    settings = settings.model_copy(update={"models": models})
    log_start(settings)
    exec_server(settings, address, port)


def _assert_can_sign(settings: Settings) -> None:
    """Check the certificate and the key that sign Content Credentials. Raises UserError."""
    certificate, key, required = (
        settings.c2pa_certificate,
        settings.c2pa_key,
        settings.c2pa_default,
    )
    if certificate or key or required:
        from service.runtime.credentials.signing import create_signer

        create_signer(certificate, key, required=required)


def _assert_grpc(grpc_port: int, address: str, port: int) -> None:
    """Raise UserError if gRPC cannot be served on its port."""
    if importlib.util.find_spec("grpc") is None:
        raise UserError("--grpc-port: gRPC is not installed; pip install 'ganymede[grpc]' adds it")
    if grpc_port == port:
        raise UserError(f"--grpc-port: {port} is the port of HTTP; expected another one")
    assert_port_free(address, grpc_port)


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


def _assert_webhooks(settings: Settings) -> None:
    """Raise UserError if webhooks are permitted and cannot be signed."""
    from service.webhooks.signing import read_secrets

    if not settings.webhook_hosts:
        return
    if settings.webhook_secrets is None:
        raise UserError(
            "--webhook-hosts requires --webhook-secrets FILE ($GANYMEDE_WEBHOOK_SECRETS); create "
            'the file: echo "whsec_$(openssl rand -base64 32)" > FILE'
        )
    read_secrets(settings.webhook_secrets)
