"""The service's settings: from flags, environment variables (``GANYMEDE_…``) or a file.

Flags take precedence over variables, and variables over the file. The file is TOML, given as
``--config FILE`` or ``$GANYMEDE_CONFIG``, with the names of the fields as keys.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ByteSize, Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from service.api_keys import PriorityName, parse_duration
from service.logs import LogFormat
from service.origins import parse_origins
from service.runtime.errors import UserError
from service.runtime.files import cache_folder
from service.runtime.onnx.machine import ProviderOption
from service.url_prefixes import parse_prefixes
from service.webhooks.targets import PermittedTargets

PREFIX = "GANYMEDE_"
CONFIG = f"{PREFIX}CONFIG"
MAX_PROCESSES = 256
# Settings that have another name now, with what to tell a user of the old one.
_RENAMED = {
    "workers": "is now concurrent_batches; the number of processes is processes",
}


class SettingsError(UserError):
    """A setting is invalid. The message begins with the setting's name, or names the file."""


def _models_folder() -> Path:
    """Return ``./models`` if it exists, else the folder next to the code (checkout or Bento)."""
    here = Path("models")
    return here if here.is_dir() else Path(__file__).parent.parent / "models"


def address_of(models: Path) -> str | None:
    """Return the address in a setting that is an address instead of a folder, else None.

    A path has only one of the slashes after the scheme.
    """
    scheme, separator, rest = str(models).partition(":/")
    if not separator or not re.fullmatch(r"[a-z][a-z0-9]+", scheme) or models.is_dir():
        return None
    # The path of a file begins with a slash of its own.
    root = "/" if scheme == "file" else ""
    return f"{scheme}://{root}{rest.lstrip('/')}"


def _seconds(value: object) -> object:
    """Convert a duration (``30d``, ``12h``) to seconds; other values are left to pydantic."""
    duration = parse_duration(value) if isinstance(value, str) else None
    return value if duration is None else duration.total_seconds()


def _processes(value: object) -> object:
    """Convert a number of processes. Raises ValueError."""
    if value == "auto":
        return value
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_PROCESSES:
        raise ValueError(f"expected auto, or a number from 1 to {MAX_PROCESSES}, got {value!r}")
    return value


class Settings(BaseSettings):
    """What an operator can set: `max_images` is ``--max-images`` or ``GANYMEDE_MAX_IMAGES``."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="forbid")

    models: Path = Field(
        default_factory=_models_folder,
        description="The model repository, with folders NAME/VERSION: a folder, or an address that "
        "is fetched when the service starts, such as s3://BUCKET/models#sha256=DIGITS or "
        "hf://OWNER/NAME@COMMIT.",
    )
    provider: ProviderOption = Field(
        default="auto",
        description="auto uses CUDA if it is available. cuda requires CUDA: without it the service "
        "does not become ready.",
    )
    max_images: Annotated[int, Field(gt=0, le=10_000)] = Field(
        default=256, description="Images, sounds or texts per request; more get 422."
    )
    max_frames: Annotated[int, Field(ge=2, le=10_000)] = Field(
        default=600, description="Frames per interpolation; more get 422."
    )
    queue_pixels: Annotated[int, Field(gt=0)] = Field(
        default=2**28,
        description="Pixels that are queued or being generated at a time; requests beyond this "
        "limit get 429. A low limit refuses requests instead of letting them wait too long.",
    )
    deadline_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=30.0,
        description="Seconds after which a request gets 504 and its work is cancelled.",
    )
    grpc_port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        default=None,
        description="The port of the Open Inference Protocol over gRPC, on the same address as "
        "HTTP. Default: no gRPC.",
    )
    processes: Annotated[int | Literal["auto"], BeforeValidator(_processes)] = Field(
        default="auto",
        description="Processes that serve requests, each with all models and its share of the "
        "CPUs. auto starts as many as pay: more than one if the code around the inference, which "
        "uses at most one CPU in each process, would slow down the fastest model.",
    )
    plan: Literal["measure", "default"] = Field(
        default="measure",
        description="How unset concurrent batches, threads and rows are chosen: measure (benchmark "
        "each model once, cached) or default.",
    )
    concurrent_batches: Annotated[int, Field(ge=0, le=1024)] = Field(
        default=0,
        description="Batches that run in parallel in each process; 0 chooses automatically.",
    )
    threads: Annotated[int, Field(ge=0, le=1024)] = Field(
        default=0, description="Threads per run; 0 chooses automatically."
    )
    max_rows: Annotated[int, Field(ge=0, le=4096)] = Field(
        default=0, description="Maximum images per run; 0 chooses automatically."
    )
    memory_budget: Annotated[ByteSize, Field(gt=0)] | None = Field(
        default=None,
        description="Memory for models, in bytes or with a unit (2GiB), divided among the "
        "processes. Models that do not fit are loaded on demand, and replace the least recently "
        "used ones.",
    )
    watch_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=0.0,
        description="Seconds between checks of the model repository; changes are loaded. 0 "
        "disables the checks.",
    )
    drain_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=20.0, description="Seconds for accepted work to complete when the service stops."
    )
    hang_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=120.0,
        description="Seconds after which a run, or an event loop that stands still, counts as hung "
        "and the process is replaced.",
    )
    keys: Path | None = Field(
        default=None,
        description="A file of API keys, created by ganymede keys. If set, every request needs one "
        "of these keys, except on open paths. The file is read again when it changes.",
    )
    insecure: bool = Field(
        default=False,
        description="Accept requests without a key, on any address, even if keys is set.",
    )
    insecure_admin: bool = Field(
        default=False,
        description="Without keys, give administrator access to every program on this machine. A "
        "proxy on this machine that adds no headers gets it, too, with all of its clients.",
    )
    open_paths: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("/", "/playground/*", "/healthz", "/docs", "/docs/*", "/openapi.json"),
        description="Paths that need no key, separated by commas; a trailing /* includes all paths "
        "below. Paths under /v1, /v2 and /sdapi are not allowed.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Origins, such as https://app.example.com, whose web pages may read responses "
        "(CORS); * for all. Never with credentials of the browser: a page sends a key of its own. "
        "In the variable: separated by commas.",
    )
    pixels_per_minute: Annotated[int, Field(gt=0)] | None = Field(
        default=None,
        description="Rate limit in generated pixels per minute, for each key without a limit of "
        "its own, or for each client address if no keys are required; requests beyond this limit "
        "get 429.",
    )
    max_priority: PriorityName = Field(
        default="high",
        description="The highest priority that requests may ask for, for each key without a "
        "maximum of its own, or for everyone if no keys are required; more get 403.",
    )
    max_body_bytes: Annotated[int, Field(gt=0)] = Field(
        default=16 * 2**20, description="Bytes of a request body; more get 413."
    )
    max_json_depth: Annotated[int, Field(gt=0, le=200)] = Field(
        default=32,
        description="Nesting depth of JSON; deeper JSON gets 400.",
    )
    max_header_bytes: Annotated[int, Field(ge=1024)] = Field(
        default=32 * 2**10,
        description="Bytes of the request line and the headers; more get 431.",
    )
    max_upload_pixels: Annotated[int, Field(gt=0)] = Field(
        default=2**24,
        description="Pixels of an uploaded image, counted before it is decoded; more get 422.",
    )
    body_timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=30.0,
        description="Seconds for a request's headers to arrive, and again for its body; slower "
        "requests get 408.",
    )
    write_timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=30.0,
        description="Seconds in which a client must read 1 MiB of its response, or the rest of it; "
        "otherwise the connection is closed.",
    )
    c2pa_certificate: Path | None = Field(
        default=None,
        description="A file with the certificate that signs Content Credentials, and its chain "
        "without the root, in PEM. With it, requests can have c2pa: true. Needs the extra c2pa.",
    )
    c2pa_key: Path | None = Field(
        default=None,
        description="A file with the private key of the certificate, in PEM, without a password.",
    )
    c2pa_default: bool = Field(
        default=False,
        description="Sign the images of every request that does not have c2pa: false.",
    )
    jobs: Path = Field(
        default_factory=lambda: cache_folder("jobs"),
        description="The folder for jobs and their outputs.",
    )
    jobs_keep: Annotated[float, BeforeValidator(_seconds), Field(ge=0, allow_inf_nan=False)] = (
        Field(
            default=30 * 86_400.0,
            description="How long the results of a job are kept after it has ended: 90m, 12h, 30d, "
            "2w, or a number of seconds. 0 keeps them until they are deleted.",
        )
    )
    jobs_quota: Annotated[ByteSize, Field(gt=0)] | None = Field(
        default=None,
        description="Bytes of results that each API key may hold, or with a unit (50GiB); further "
        "jobs get 429. Default: no limit.",
    )
    jobs_outputs: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="URLs below which jobs may write their results, separated by commas: "
        "s3://bucket/results. Credentials come from this service's environment. Default: none.",
    )
    jobs_inputs: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="URLs below which jobs may read images, separated by commas: s3://bucket/in or "
        "https://host/folder. Default: none.",
    )
    max_job_upload: ByteSize = Field(
        default=ByteSize(2**30),
        description="Bytes of the images that a client uploads for a job, or with a unit (4GiB); "
        "more get 413. 0 accepts no uploads.",
    )
    max_jobs_per_key: Annotated[int, Field(gt=0)] = Field(
        default=20, description="Jobs of an API key that wait or run; more get 429."
    )
    max_job_images: Annotated[int, Field(gt=0)] = Field(
        default=1_000_000, description="Images, sounds or texts per job; more get 422."
    )
    max_job_pixels: Annotated[int, Field(gt=0)] = Field(
        default=2**42,
        description="Pixels that a job may generate and resize to, or the cost of its sounds or "
        "texts; more get 422.",
    )
    max_resized_pixels: Annotated[int, Field(gt=0)] = Field(
        default=2**24, description="Pixels to which a job may resize an image; more get 422."
    )
    webhook_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Hosts to which jobs may send webhooks when they end, separated by commas; "
        "without any, webhooks are refused. hooks.example.com, or *.example.com for all hosts "
        "below, permits HTTPS to public addresses. A URL, such as http://10.0.0.7:8080/hooks/, "
        "permits all URLs that begin with it, also without HTTPS and at a private address.",
    )
    webhook_secrets: Path | None = Field(
        default=None,
        description="A file with the secrets that sign webhooks, one whsec_… a line; webhooks are "
        "signed with each of them. The file is read again when it changes.",
    )
    max_event_streams: Annotated[int, Field(gt=0)] = Field(
        default=256,
        description="Open event streams of jobs in each process, and at most a quarter of them for "
        "each API key; more get 429.",
    )
    log_format: LogFormat = Field(
        default="auto",
        description="json, one object for each line, or text; auto is text on a terminal, where it "
        "is short and colored, and json otherwise.",
    )
    log_requests: bool = Field(default=True, description="Log a line for every request.")

    @field_validator(
        "open_paths",
        "cors_origins",
        "webhook_hosts",
        "jobs_outputs",
        "jobs_inputs",
        mode="before",
    )
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return [path for part in value.split(",") if (path := part.strip())]
        return value

    @field_validator("jobs_outputs", "jobs_inputs")
    @classmethod
    def _parse_prefixes(cls, prefixes: tuple[str, ...]) -> tuple[str, ...]:
        return parse_prefixes(prefixes)

    @field_validator("open_paths")
    @classmethod
    def _exclude_api(cls, paths: tuple[str, ...]) -> tuple[str, ...]:
        for path in paths:
            first_part = path.split("/")[1:2]
            if not path.startswith("/") or first_part in (["v1"], ["v2"], ["sdapi"], ["*"]):
                raise ValueError(
                    f"{path!r} cannot be an open path: expected a path that starts with / and is "
                    "not /*, /v1, /v2, /sdapi or below them"
                )
        return paths

    @field_validator("cors_origins")
    @classmethod
    def _parse_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        return parse_origins(origins)

    @field_validator("webhook_hosts")
    @classmethod
    def _assert_targets(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        PermittedTargets(hosts)
        return hosts

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources by precedence: flags, environment, file."""
        return init_settings, env_settings, _ConfigFile(settings_cls)

    @property
    def requires_keys(self) -> bool:
        """True if a client needs an API key."""
        return self.keys is not None and not self.insecure

    @property
    def run_options(self) -> str:
        """The settings that determine how models are run."""
        names = ("provider", "plan", "concurrent_batches", "threads", "max_rows", "memory_budget")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)

    def to_environment(self) -> dict[str, str | None]:
        """Return the environment variables that give another process these settings.

        None means that the variable must be unset. Paths are absolute, because the other process
        may run in another folder.
        """
        variables: dict[str, str | None] = {CONFIG: None}
        for name in type(self).model_fields:
            variables[f"{PREFIX}{name.upper()}"] = _as_text(getattr(self, name))
        return variables


def load_settings(flags: dict[str, Any] | None = None, config: Path | None = None) -> Settings:
    """Load the settings. `config` takes precedence over ``$GANYMEDE_CONFIG``.

    Raises SettingsError for the first invalid one.
    """
    for name, hint in _RENAMED.items():
        if (flags or {}).get(name) is not None:
            raise SettingsError(f"{name} {hint}")
        if os.environ.get(f"{PREFIX}{name.upper()}"):
            raise SettingsError(f"{PREFIX}{name.upper()}: {name} {hint}")
    previous = os.environ.get(CONFIG)
    if config is not None:
        os.environ[CONFIG] = str(config)
    try:
        return Settings(**(flags or {}))
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(str(part) for part in problem["loc"][:1])
        message = str(problem["msg"]).removeprefix("Value error, ")
        raise SettingsError(f"{name}: {message}") from error
    finally:
        if config is not None:
            os.environ.pop(CONFIG)
            if previous is not None:
                os.environ[CONFIG] = previous


@lru_cache(maxsize=4096)
def is_loopback(host: str) -> bool:
    """True if `host` is an IP address of this machine only; False for names."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


class _ConfigFile(PydanticBaseSettingsSource):
    """The TOML file of ``$GANYMEDE_CONFIG``."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # Abstract, but unused: `__call__` reads all fields.

    def __call__(self) -> dict[str, Any]:
        name = os.environ.get(CONFIG)
        if not name:
            return {}
        path = Path(name)
        try:
            values = tomllib.loads(path.read_text("utf-8"))
        except OSError as error:
            raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path} is not TOML: {error}") from error
        fields = self.settings_cls.model_fields
        for key in values:
            if key in _RENAMED:
                raise SettingsError(f"{path}: {key} {_RENAMED[key]}")
            if key not in fields:
                close = difflib.get_close_matches(key, fields, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"expected {', '.join(fields)}"
                raise SettingsError(f"{path}: unknown setting {key!r}; {hint}")
        return values


def _as_text(value: object) -> str | None:
    match value:
        case None:
            return None
        case bool():
            return "1" if value else "0"
        case Path():
            return str(value.absolute())
        case tuple() | list():
            # An empty variable counts as unset, so that the default would apply.
            return ",".join(map(str, value)) or ","
        case ByteSize():
            return str(int(value))
        case _:
            return str(value)
