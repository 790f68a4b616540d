"""Options that several subcommands share, and a flag for every setting of the service."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from pydantic import ByteSize
from pydantic.fields import FieldInfo

from service.runtime.errors import UserError
from service.runtime.request_fields import InvalidRequest
from service.settings import PREFIX, Settings, address_of, load_settings

if TYPE_CHECKING:
    from service.runtime.models.model import Model

Command = TypeVar("Command", bound=Callable[..., None])

ModelsOption = Annotated[
    Path | None,
    typer.Option(help="The model repository.  [default: ./models]", show_default=False),
]
ProviderOption = Annotated[
    str | None,
    typer.Option(
        metavar="auto|cuda|cpu",
        help="Execution provider.  [default: auto]  [env: GANYMEDE_PROVIDER]",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]

# Bytes of a model, or of a repository of models.
MAX_DOWNLOAD = 20 * 10**9

# Shown in place of defaults that depend on where the service runs.
_SHOWN_DEFAULTS = {"models": "./models", "jobs": "~/.cache/ganymede/jobs", "jobs_keep": "30d"}
# Settings that take more than their type shows.
_OWN_METAVARS = {"jobs_keep": "DURATION", "processes": "N|auto", "cors_origins": "ORIGIN"}
# Settings with several values whose flag sets one, and is repeated.
_REPEATED_FLAGS = {"cors_origins": "--cors-origin"}
_METAVARS = {int: "N", float: "SECONDS", Path: "PATH", ByteSize: "BYTES"}


def models_folder(models: Path | None) -> Path:
    """Return the model repository: `models`, or the folder in the settings.

    A repository at an address is fetched first. Raises UserError if it does not exist.
    """
    settings = load_settings({"models": models} if models else {})
    return local_models(settings, lambda text: typer.echo(text, err=True))


def local_models(settings: Settings, report: Callable[[str], object]) -> Path:
    """Return the folder of the model repository, which is fetched if it is an address.

    `report` is called with messages for the user. Raises UserError.
    """
    address = address_of(settings.models)
    if address is None:
        if not settings.models.is_dir():
            raise UserError(f"--models: no such folder: {settings.models}")
        return settings.models
    from service.pull.cache import Fetching
    from service.pull.locations import Location
    from service.pull.repositories import fetch_repository

    return fetch_repository(
        Location.parse(address), Fetching(MAX_DOWNLOAD, show_progress=True, report=report)
    )


def loaded_model(
    name: str, models: Path | None, provider: str | None, *, workers: int = 0, measure: bool = True
) -> Model:
    """Load a model from the repository `models`, by default the one in the settings.

    `workers` batches run in parallel; 0 measures the best number, unless `measure` is false. Raises
    UserError.
    """
    from service.runtime.models.catalog import find_model
    from service.runtime.onnx.execution_plans import Planner, PlanOptions, cache_file
    from service.runtime.onnx.sessions import pick_provider

    overrides: dict[str, Any] = {"models": models, "provider": provider}
    settings = load_settings(
        {option: value for option, value in overrides.items() if value is not None}
    )
    # Parallel batches share the cores, so each gets one thread unless the settings specify more.
    threads = settings.threads or 1 if workers else settings.threads
    plan_options = PlanOptions(
        workers, threads, settings.max_rows, settings.plan == "measure" and measure
    )
    planner = Planner(pick_provider(settings.provider), plan_options, cache_file())
    folder = local_models(settings, lambda text: typer.echo(text, err=True))
    return find_model(folder, name, planner)


@contextmanager
def errors_by_flag(flags: Mapping[str, str] = MappingProxyType({})) -> Iterator[None]:
    """Report an invalid field by the flag that sets it; `flags` are those with other names."""
    try:
        yield
    except InvalidRequest as error:
        field = error.field.partition(".")[0]
        flag = flags.get(field, field.replace("_", "-"))
        # The model is an argument, and not a flag.
        name = "MODEL" if flag == "model" else f"--{flag}"
        raise UserError(f"{name}: {error.message}") from error


def with_settings(command: Command) -> Command:
    """Add a flag for every setting to `command`, which takes them as keyword arguments.

    The values are passed on unparsed, and None for flags that are not given. `Settings` parses and
    validates them.
    """
    signature = inspect.signature(command, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    own_names = {parameter.name for parameter in own}
    flags = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_flag(name, field)
        )
        for name, field in Settings.model_fields.items()
        if name not in own_names
    ]
    command.__signature__ = signature.replace(parameters=[*own, *flags])  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in [*own, *flags]}
    return command


def shown_default(name: str, field: FieldInfo) -> str:
    """Return the default of a setting as a user would type it."""
    if name in _SHOWN_DEFAULTS:
        return _SHOWN_DEFAULTS[name]
    default = field.get_default()
    match default:
        case None | False:
            return ""
        case tuple():
            return ",".join(default)
        case _:
            return f"{default:g}" if isinstance(default, float) else str(default)


def flag_of(name: str) -> str:
    """Return the flag of a setting."""
    return _REPEATED_FLAGS.get(name) or f"--{name.replace('_', '-')}"


def _flag(name: str, field: FieldInfo) -> Any:
    default = shown_default(name, field)
    text = (field.description or "") + (f"  [default: {default}]" if default else "")
    text += f"  [env: {PREFIX}{name.upper()}]"
    option = flag_of(name)
    if field.annotation is bool:
        return Annotated[
            bool | None,
            typer.Option(f"{option}/--no-{option[2:]}", help=text, show_default=False),
        ]
    metavar = _OWN_METAVARS.get(name) or _metavar(field)
    if name in _REPEATED_FLAGS:
        option_type = typer.Option(option, help=text, show_default=False, metavar=metavar)
        return Annotated[list[str] | None, option_type]
    return Annotated[
        str | None, typer.Option(option, help=text, show_default=False, metavar=metavar)
    ]


def _metavar(field: FieldInfo) -> str:
    types_ = [field.annotation]
    if get_origin(field.annotation) in (Union, types.UnionType):
        types_ = [each for each in get_args(field.annotation) if each is not types.NoneType]
    type_ = types_[0]
    if get_origin(type_) is Annotated:
        type_ = get_args(type_)[0]
    if get_origin(type_) is Literal:
        return "|".join(map(str, get_args(type_)))
    return _METAVARS.get(type_, "TEXT")  # type: ignore[arg-type]
