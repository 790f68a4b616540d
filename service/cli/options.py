"""A command's flags for the settings: one for each, named as it is, so that none is forgotten."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from pydantic import ByteSize
from pydantic.fields import FieldInfo

from service.settings import PREFIX, Settings

Command = TypeVar("Command", bound=Callable[..., None])
# What depends on where the service runs.
_SHOWN = {"models": "./models", "jobs": "~/.cache/ganymede/jobs"}
_METAVARS = {int: "N", float: "SECONDS", Path: "PATH", ByteSize: "BYTES"}


def with_settings(command: Command) -> Command:
    """Give `command`, which takes keyword arguments, a flag for every setting.

    The values reach it as they were typed, None where they were not: what they mean, and whether
    they can be used, is for `Settings` to say.
    """
    signature = inspect.signature(command, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    taken = {parameter.name for parameter in own}
    flags = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_flag(name, field)
        )
        for name, field in Settings.model_fields.items()
        if name not in taken
    ]
    command.__signature__ = signature.replace(parameters=[*own, *flags])  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in [*own, *flags]}
    return command


def shown_default(name: str, field: FieldInfo) -> str:
    """Return the default of a setting as people type it."""
    if name in _SHOWN:
        return _SHOWN[name]
    default = field.get_default()
    match default:
        case None | False:
            return ""
        case tuple():
            return ",".join(default)
        case _:
            return f"{default:g}" if isinstance(default, float) else str(default)


def _flag(name: str, field: FieldInfo) -> Any:
    default = shown_default(name, field)
    text = (field.description or "") + (f"  [default: {default}]" if default else "")
    said = f"  [env: {PREFIX}{name.upper()}]"
    option = f"--{name.replace('_', '-')}"
    if field.annotation is bool:
        return Annotated[
            bool | None,
            typer.Option(f"{option}/--no-{option[2:]}", help=text + said, show_default=False),
        ]
    return Annotated[
        str | None,
        typer.Option(option, help=text + said, show_default=False, metavar=_metavar(field)),
    ]


def _metavar(field: FieldInfo) -> str:
    kinds = [field.annotation]
    if get_origin(field.annotation) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(field.annotation) if kind is not types.NoneType]
    kind = kinds[0]
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    return _METAVARS.get(kind, "TEXT")  # type: ignore[arg-type]
