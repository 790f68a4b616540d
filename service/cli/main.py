"""The `ganymede` command: finds its subcommands, and reports errors in one line.

A subcommand is imported when it is run, or when all of them are listed. Subcommands of other
packages are registered in the entry point group ``ganymede.commands``. Slow imports (PyTorch,
BentoML) are deferred until the subcommand runs.
"""

from __future__ import annotations

import errno
import os
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_command

from service import __version__, logs
from service.runtime.errors import UserError

# For all subcommands. Errors are plain lines instead of boxes, for logs and scripts.
_TYPER_OPTIONS: dict[str, Any] = {
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}
_GROUP = "ganymede.commands"
# The subcommands of this package, in the order in which they are listed.
_SUBCOMMANDS = {
    "serve": "service.cli.serve:serve",
    "models": "service.cli.models:models",
    "doctor": "service.cli.doctor:doctor",
    "pull": "service.cli.pull.command:pull",
    "verify": "service.cli.provenance.verify:verify",
    "reproduce": "service.cli.provenance.reproduce:reproduce",
    "keys": "service.cli.keys:app",
    "sample": "service.cli.sample:sample",
    "walk": "service.cli.walk:walk",
}
# Packages that the base installation leaves out, by the extra that installs them.
_EXTRAS = {
    "train": ("torch", "onnx", "onnxscript", "tensorboard", "yaml"),
    "quality": ("scipy", "sklearn", "optuna"),
}
# Errors that are not bugs: a full disk, an exceeded quota, a limit on the size of files.
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _SubcommandGroup(TyperGroup):
    """Imports subcommands when they are needed."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of all subcommands: first this package, then registered ones, sorted."""
        return [*_SUBCOMMANDS, *sorted(entry_points(group=_GROUP).names - _SUBCOMMANDS.keys())]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import and return a subcommand; None if it is unknown."""
        if (command := super().get_command(ctx, cmd_name)) is not None:
            return command
        if cmd_name in _SUBCOMMANDS:
            entry_point = EntryPoint(cmd_name, _SUBCOMMANDS[cmd_name], _GROUP)
        else:
            registered = entry_points(group=_GROUP, name=cmd_name)
            if not registered:
                return None
            (entry_point, *_) = registered
        loaded = entry_point.load()
        if not isinstance(loaded, typer.Typer):
            function, loaded = loaded, typer.Typer(add_completion=False, **_TYPER_OPTIONS)
            loaded.command(cmd_name)(function)
        self.add_command(get_command(loaded), cmd_name)
        return super().get_command(ctx, cmd_name)


app = typer.Typer(
    name="ganymede",
    cls=_SubcommandGroup,
    help="Train GAN generators, export them, and serve them over HTTP.",
    invoke_without_command=True,
    **_TYPER_OPTIONS,
)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"ganymede {__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - handled by its callback
        bool,
        typer.Option("--version", help="Show the version and exit.", callback=_print_version),
    ] = False,
) -> None:
    """Handle the options before the subcommand; without a subcommand, show what to do next."""
    if context.invoked_subcommand is None:
        from service.cli.welcome import find_repository, training_is_installed, welcome

        commands = context.command.list_commands(context)  # type: ignore[attr-defined]
        typer.echo(welcome(find_repository(), commands, training=training_is_installed()))


def main() -> None:
    """Run the command line. Expected errors are printed in one line, without a stack trace.

    Advice that takes several lines is printed below.
    """
    logs.configure_command()
    try:
        app()
    except UserError as error:
        advice = f"\n{error.advice}" if error.advice else ""
        _fail(f"{error.label}{error}{advice}", error.exit_code)
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"Error: {where}{error.strerror}", 1)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        extra = next((name for name, packages in _EXTRAS.items() if package in packages), None)
        if extra is None:
            raise
        _fail(
            f"Error: {error.name} is required and is not part of the base installation: "
            f"pip install 'ganymede[{extra}]'",
            1,
        )


def _fail(text: str, code: int) -> NoReturn:
    typer.echo(text, err=True)
    _discard_unwritable_output()
    sys.exit(code)


def _discard_unwritable_output() -> None:
    """Discard output that cannot be written.

    At its exit, the interpreter would try to write it again, fail, and change the exit status.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with Path(os.devnull).open("wb") as null:
                os.dup2(null.fileno(), stream.fileno())
