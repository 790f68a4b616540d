"""The service's settings: flags of the command, else the environment (``GANYMEDE_…``), else a file.

The file is TOML, ``--config FILE`` or ``$GANYMEDE_CONFIG``, with the names of the fields as its
keys. What none of the three says has its default.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ByteSize, Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from service.logs import LogFormat
from service.runtime.errors import UserError
from service.runtime.files import cache_folder
from service.runtime.onnx.provider_option import ProviderOption

PREFIX = "GANYMEDE_"
CONFIG = f"{PREFIX}CONFIG"


class SettingsError(UserError):
    """A setting cannot be used; the message says which, and what was expected."""


def _models_folder() -> Path:
    """``models`` here, else the one beside the code: that of a checkout, a container, a Bento."""
    here = Path("models")
    return here if here.is_dir() else Path(__file__).parent.parent / "models"


class Settings(BaseSettings):
    """What an operator may set. Every name stands in the environment with ``GANYMEDE_`` before."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="forbid")

    models: Path = Field(
        default_factory=_models_folder, description="The model repository: <name>/<version>/."
    )
    provider: ProviderOption = Field(
        default="auto",
        description="auto takes CUDA when it is there. cuda is not ready without it.",
    )
    max_images: Annotated[int, Field(gt=0, le=10_000)] = Field(
        default=256, description="Images in one request; more are refused with 422."
    )
    max_frames: Annotated[int, Field(ge=2, le=10_000)] = Field(
        default=600, description="Frames of one walk; more are refused with 422."
    )
    queue_pixels: Annotated[int, Field(gt=0)] = Field(
        default=2**28,
        description="Pixels waiting or being made at a time, beyond which requests get 429. "
        "A low bound refuses work instead of letting it wait too long.",
    )
    deadline_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=30.0, description="Seconds after which a request gets 504 and its work is dropped."
    )
    plan: Literal["measure", "default"] = Field(
        default="measure",
        description="How a model's workers, threads and rows are found where none are set.",
    )
    workers: Annotated[int, Field(ge=0, le=1024)] = Field(
        default=0, description="Batches that run at a time; 0 finds it out."
    )
    threads: Annotated[int, Field(ge=0, le=1024)] = Field(
        default=0, description="Threads of one run; 0 finds it out."
    )
    max_rows: Annotated[int, Field(ge=0, le=4096)] = Field(
        default=0, description="Pictures in one run; 0 finds it out."
    )
    memory_budget: Annotated[ByteSize, Field(gt=0)] | None = Field(
        default=None,
        description="Memory that models may take, in bytes or as 2GiB. Those beyond it are loaded "
        "when they are asked for, in place of those that were used the longest time ago.",
    )
    watch_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=0.0,
        description="Seconds between two looks at the model repository, whose changes are then "
        "loaded; 0 never looks.",
    )
    drain_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=20.0, description="Seconds that accepted work has to end when the service stops."
    )
    hang_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=120.0,
        description="Seconds after which one run counts as hung, and the process is replaced.",
    )
    keys: Path | None = Field(
        default=None,
        description="The file of keys, as ganymede keys writes it. With it every request needs one "
        "of them; it is read again when it changes.",
    )
    insecure: bool = Field(
        default=False,
        description="Ask nobody for a key, on any address and whatever keys says.",
    )
    open_paths: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("/", "/healthz", "/docs", "/docs/*", "/openapi.json"),
        description="Paths that need no key, with commas between; /* at the end stands for all "
        "below. Never those under /v1 and /v2.",
    )
    pixels_per_minute: Annotated[int, Field(gt=0)] | None = Field(
        default=None,
        description="Pixels that a key without an allowance of its own may have made in a minute, "
        "beyond which requests get 429; where no keys are asked for, each client address.",
    )
    max_body_bytes: Annotated[int, Field(gt=0)] = Field(
        default=16 * 2**20, description="Bytes of a request's body; more are refused with 413."
    )
    max_json_depth: Annotated[int, Field(gt=0, le=200)] = Field(
        default=32,
        description="Arrays and objects within each other in JSON; more are refused with 400.",
    )
    max_header_bytes: Annotated[int, Field(ge=1024)] = Field(
        default=32 * 2**10,
        description="Bytes of a request's line and headers; more are refused with 431.",
    )
    max_upload_pixels: Annotated[int, Field(gt=0)] = Field(
        default=2**24,
        description="Pixels of an uploaded picture, counted before it is decoded; more are refused "
        "with 422.",
    )
    body_timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=30.0,
        description="Seconds in which a request's headers, and then its body, must have come; a "
        "body that takes longer gets 408.",
    )
    write_timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=30.0,
        description="Seconds in which a client must take 1 MiB of its answer, or all that is left "
        "of it; else the connection is cut.",
    )
    jobs: Path = Field(
        default_factory=lambda: cache_folder("jobs"),
        description="The folder where jobs, and what they make, are kept.",
    )
    max_job_images: Annotated[int, Field(gt=0)] = Field(
        default=1_000_000, description="Pictures of one job; more are refused with 422."
    )
    log_format: LogFormat | None = Field(
        default=None, description="json or text; text on a terminal and json elsewhere when unset."
    )
    log_requests: bool = Field(default=True, description="Write a line for every request.")

    @field_validator("open_paths", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return [path for each in value.split(",") if (path := each.strip())]
        return value

    @field_validator("open_paths")
    @classmethod
    def _never_the_api(cls, paths: tuple[str, ...]) -> tuple[str, ...]:
        for path in paths:
            first = path.split("/")[1:2]
            if not path.startswith("/") or first in (["v1"], ["v2"], ["*"]):
                raise ValueError(f"{path!r} cannot be open")
        return paths

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic-settings names them
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags go before the environment, which goes before the file."""
        return init_settings, env_settings, _File(settings_cls)

    @property
    def requires_keys(self) -> bool:
        """True if a client needs an API key."""
        return self.keys is not None and not self.insecure

    def to_environment(self) -> dict[str, str | None]:
        """Return the variables that give another process these settings; None is for unsetting.

        Paths become absolute, for the other process may run elsewhere.
        """
        variables: dict[str, str | None] = {CONFIG: None}
        for name in type(self).model_fields:
            variables[f"{PREFIX}{name.upper()}"] = _as_text(getattr(self, name))
        return variables


def load_settings(flags: dict[str, Any] | None = None, config: Path | None = None) -> Settings:
    """Return the settings in force. `config` goes before ``$GANYMEDE_CONFIG``.

    Raises SettingsError with one line for whatever is wrong.
    """
    before = os.environ.get(CONFIG)
    if config is not None:
        os.environ[CONFIG] = str(config)
    try:
        return Settings(**(flags or {}))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"][:1])
        message = str(problem["msg"]).removeprefix("Value error, ")
        raise SettingsError(f"{where}: {message}") from error
    finally:
        if config is not None:
            os.environ.pop(CONFIG)
            if before is not None:
                os.environ[CONFIG] = before


@lru_cache(maxsize=4096)
def is_loopback(host: str) -> bool:
    """True if `host` is an IP address of this machine only; False for names."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


class _File(PydanticBaseSettingsSource):
    """The TOML file of ``$GANYMEDE_CONFIG``."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # `__call__` reads all fields at once.

    def __call__(self) -> dict[str, Any]:
        name = os.environ.get(CONFIG)
        if not name:
            return {}
        path = Path(name)
        try:
            said = tomllib.loads(path.read_text("utf-8"))
        except OSError as error:
            raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path} is not TOML: {error}") from error
        fields = self.settings_cls.model_fields
        for key in said:
            if key not in fields:
                near = difflib.get_close_matches(key, fields, n=1)
                hint = (
                    f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(fields)}"
                )
                raise SettingsError(f"{path}: no setting {key!r}{hint}")
        return said


def _as_text(value: object) -> str | None:
    match value:
        case None:
            return None
        case bool():
            return "1" if value else "0"
        case Path():
            return str(value.absolute())
        case tuple() | list():
            # An empty text would stand for nothing said, and nothing said for the default.
            return ",".join(map(str, value)) or ","
        case ByteSize():
            return str(int(value))
        case _:
            return str(value)
