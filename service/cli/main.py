"""The `ganymede` command.

Serving's verbs live here. Every other part of Ganymede adds its own through the entry point group
``ganymede.commands``, and is imported when its verb, or all of them, are asked for; whatever is
slow to import (PyTorch, BentoML) waits for the verb to run.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import tempfile
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup
from typer.main import get_command

from service import __version__
from service.cli.options import with_settings
from service.runtime.errors import UserError
from service.runtime.files import replacing
from service.settings import Settings, is_loopback, load_settings

# What all verbs have in common. Plain errors of one line, that logs and scripts can read, rather
# than boxes.
_MANNERS: dict[str, Any] = {
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}
_GROUP = "ganymede.commands"
# Verbs of the service itself, by where they are.
_OWN = {"keys": "service.cli.keys:app", "sample": "service.cli.sample:sample"}


class _Verbs(TyperGroup):
    """The verbs of this module, and others that are imported when they are asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all verbs: serving's, then the others by name."""
        others = {*_OWN, *entry_points(group=_GROUP).names}
        return [*super().list_commands(ctx), *sorted(others)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a verb, imported now; None where there is none of that name."""
        if (command := super().get_command(ctx, cmd_name)) is not None:
            return command
        if cmd_name in _OWN:
            found = EntryPoint(cmd_name, _OWN[cmd_name], _GROUP)
        else:
            named = entry_points(group=_GROUP, name=cmd_name)
            if not named:
                return None
            (found, *_) = named
        verb = found.load()
        if not isinstance(verb, typer.Typer):
            alone = typer.Typer(add_completion=False, **_MANNERS)
            alone.command(cmd_name)(verb)
            verb = alone
        self.add_command(get_command(verb), cmd_name)
        return super().get_command(ctx, cmd_name)


app = typer.Typer(
    name="ganymede",
    cls=_Verbs,
    help="Train GAN generators, export them, and serve them over HTTP.",
    no_args_is_help=True,
    **_MANNERS,
)

# What the base installation leaves out, by the extra that brings it.
_EXTRAS = {
    "train": ("torch", "onnx", "onnxscript", "tensorboard", "yaml"),
    "quality": ("scipy", "sklearn", "optuna"),
}
# What nobody can mend in the code: a disk that is full, a quota that is used up, or a limit on the
# size of a file.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

ModelsOption = Annotated[
    Path | None,
    typer.Option(help="The model repository.  [default: ./models]", show_default=False),
]


def _say_version(asked: bool) -> None:
    """Print the version and end. It is that of the package, which takes its own from there."""
    if asked:
        typer.echo(f"ganymede {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", callback=_say_version),
    ] = False,
) -> None:
    """Take the options that come before a verb."""


@app.command()
@with_settings
def serve(
    host: Annotated[
        str,
        typer.Option(
            help="The address to listen on. One that other machines reach needs --keys, or "
            "--insecure."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 3000,
    config: Annotated[
        Path | None,
        typer.Option(
            help="A TOML file of settings, named as the flags below with _ for -. Flags go before "
            "the environment, which goes before the file.  [env: GANYMEDE_CONFIG]",
            show_default=False,
            metavar="FILE",
        ),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Load what changes in the model repository: --watch-s 5."),
    ] = False,
    first_key: Annotated[
        bool,
        typer.Option(
            "--first-key", help="Where --keys is not there yet, make it with one key; print that."
        ),
    ] = False,
    **flags: object,
) -> None:
    """Serve the models over HTTP until stopped.

    Example: ganymede serve --port 8000 --models ./models --provider cpu
    """
    given = {name: value for name, value in flags.items() if value is not None}
    if watch:
        given.setdefault("watch_s", 5.0)
    settings = load_settings(given, config)
    if not settings.models.is_dir():
        raise UserError(f"--models: no such folder: {settings.models}")
    address = _address(host)
    _assert_free(address, port)
    _assert_guarded(settings, host, address, first_key=first_key)
    # The service runs in a process of BentoML's, and reads its settings from the environment.
    environment = {
        # A log line is out when it is written: none is left for the interpreter's end, which would
        # take a log that is full for a failure of its own.
        "PYTHONUNBUFFERED": "1",
        **os.environ,
        "BENTOML_DO_NOT_TRACK": os.environ.get("BENTOML_DO_NOT_TRACK", "True"),
        "BENTOML_HOME": _bentoml_home(),
    }
    for name, value in settings.to_environment().items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    code = str(Path(__file__).parents[2])
    command = [sys.executable, "-m", "bentoml", "serve", "service.app:Ganymede"]
    options = ["--host", address, "--port", str(port), "--working-dir", code]
    os.execve(sys.executable, [*command, *options], environment)  # noqa: S606 - our own interpreter


@app.command()
def models(
    models: ModelsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """List the models and verify them: digests, manifests, and one run of each on the CPU.

    Exits with 1 when one of them cannot be served.

    Example: ganymede models --models ./models --json
    """
    from service.runtime.models.catalog import Catalog, State
    from service.runtime.onnx.sessions import Provider, plan_for

    folder = _settings(models).models
    if not folder.is_dir():
        raise UserError(f"--models: no such folder: {folder}")
    catalog = Catalog(folder, Provider.CPU, plan_for(Provider.CPU))
    catalog.load()
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
        table = Table("model", "version", "task", "image", "state", box=None)
        for entry in catalog.entries:
            image = entry.manifest.image if entry.manifest else None
            table.add_row(
                entry.name,
                entry.version,
                entry.manifest.task if entry.manifest else "",
                f"{image.width}×{image.height}×{image.channels}" if image else "",
                entry.state + (f": {entry.reason}" if entry.reason else ""),
            )
        Console().print(table)
    if any(entry.state is State.FAILED for entry in catalog.entries):
        raise typer.Exit(1)


@app.command()
def reproduce(
    files: Annotated[
        list[Path], typer.Argument(help="Pictures and animations that a Ganymede made.")
    ],
    models: ModelsOption = None,
    out: Annotated[
        Path | None, typer.Option(help="A folder for what was made again.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Make pictures again from what their files say of themselves, on the CPU, and compare.

    Exits with 1 when one of them differs. A picture made by CUDA may differ in a last bit.

    Example: ganymede reproduce a.png --models ./models
    """
    from service.offline.reproduce import reproduce as again

    folder = _settings(models).models
    results = [again(file, folder) for file in files]
    if out is not None:
        for result in results:
            with replacing(out / result.file.name) as path:
                path.write_bytes(result.remade)
    if as_json:
        typer.echo(json.dumps([result.as_json() for result in results], indent=2))
    else:
        for result in results:
            typer.echo(f"{result.file}: {result.summary}")
    if not all(result.equal for result in results):
        raise typer.Exit(1)


def _bentoml_home() -> str:
    """Return where BentoML keeps its state, which serving does not need and BentoML insists on.

    That is its own choice where it can be written, else a folder among the temporary files.
    """
    told = Path(os.environ.get("BENTOML_HOME") or "~/bentoml")
    try:
        told = told.expanduser()
        told.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # Read-only, or a user without a home.
        pass
    else:
        if os.access(told, os.W_OK | os.X_OK):
            return str(told)
    return str(Path(tempfile.gettempdir()) / f"bentoml-{os.getuid()}")


def _address(host: str) -> str:
    """Return the address that a name stands for, the one that is listened on. Raises UserError."""
    try:
        found = socket.getaddrinfo(host or "?", None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--host: {host!r} is no address of this machine: {reason}") from error
    # Clients try IPv4 too when a name has both.
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    return str(found[0][4][0])


def _assert_free(address: str, port: int) -> None:
    """Say in one line what BentoML would say in a stack trace."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            reason = "is in use" if error.errno == errno.EADDRINUSE else str(error)
            raise UserError(f"cannot listen on {address}, port {port}: {reason}") from error


def _assert_guarded(settings: Settings, host: str, address: str, *, first_key: bool) -> None:
    """Raise UserError where everyone could come in and nobody has said so, or nobody could."""
    from service.api_keys import add_key, read_keys

    if settings.requires_keys and settings.keys is not None:
        if first_key and not settings.keys.exists():
            secret = add_key(settings.keys, "first")
            typer.echo(
                f"There were no keys, so this one was made, and is shown this once: {secret}\n"
                f"Use it as: curl -H 'Authorization: Bearer {secret}' …",
                err=True,
            )
        if not read_keys(settings.keys):
            raise UserError(
                f"there are no keys in {settings.keys}, so nobody could come in; make one: "
                f"ganymede keys add NAME --keys {settings.keys}"
            )
    elif not settings.insecure and not is_loopback(address):
        raise UserError(
            f"other machines reach {host}, and no keys are asked for: give --keys FILE (made by "
            "ganymede keys add NAME --keys FILE; $GANYMEDE_KEYS), or say --insecure "
            "($GANYMEDE_INSECURE=1) to let everyone in"
        )


def _settings(models: Path | None) -> Settings:
    return load_settings({"models": models} if models else {})


def main() -> None:
    """Run the command; what is missing or wrong is one line, never a stack trace."""
    try:
        app()
    except UserError as error:
        _fail(f"{error.label}{error}", error.exit_code)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"Error: {where}{error.strerror}", 1)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        extra = next((name for name, modules in _EXTRAS.items() if missing in modules), None)
        if extra is None:
            raise
        _fail(
            f"Error: this needs {error.name}, which the base installation leaves out: "
            f"pip install 'ganymede[{extra}]'",
            1,
        )


def _fail(line: str, code: int) -> NoReturn:
    typer.echo(line, err=True)
    _let_go_of_output()
    sys.exit(code)


def _let_go_of_output() -> None:
    """Give up what cannot be written, which the interpreter would try again at its end, and then
    end with a code of its own.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())
