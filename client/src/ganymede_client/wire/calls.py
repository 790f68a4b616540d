"""Requests and responses as values. Nothing here does I/O.

A `Call` describes one request and how its response is parsed. The functions in
`ganymede_client.routes` build calls; `Client` and `AsyncClient` send them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Generic, TypeVar
from urllib.parse import quote

from ganymede_client.wire.values import to_json

T = TypeVar("T")
Builder = TypeVar("Builder", bound=Callable[..., "Call[Any]"])


@dataclass(frozen=True)
class Upload:
    """A file of a form."""

    field: str
    name: str
    content: bytes


@dataclass(frozen=True)
class FileUpload:
    """A file of a form that is read as it is sent, from its beginning for each attempt."""

    field: str
    name: str
    content: BinaryIO


@dataclass(frozen=True)
class Request:
    """One HTTP request.

    Attributes:
        path: percent-encoded, below the URL of the service.
        content: the body; None if there is none, or if it is a form.
        form: text fields, sent together with `files` as multipart/form-data.
        repeatable: True if sending the request twice has the same effect as sending it once.
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    form: Mapping[str, str] = field(default_factory=dict)
    files: Sequence[Upload | FileUpload] = ()
    repeatable: bool = True


@dataclass(frozen=True)
class Reply:
    """One complete response.

    Attributes:
        base_url: the URL of the service that responded, without a trailing slash.
        headers: case-insensitive.
    """

    base_url: str
    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def media_type(self) -> str:
        """The Content-Type without parameters; empty if there is none."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def request_id(self) -> str | None:
        """The ID of the request in the log of the service."""
        return self.headers.get("x-request-id")


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request, and the function that parses its response.

    Attributes:
        accepts: statuses besides 2xx that `parse` takes; all others are errors.
    """

    request: Request
    parse: Callable[[Reply], T]
    accepts: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Described:
    """A function that builds a call, and the routes of the OpenAPI document that it covers.

    Attributes:
        routes: method and path of each route, as in the document.
        names: the names in the document of parameters that are named differently.
        left_out: fields of the document that are no parameters, with the reason.
    """

    build: Callable[..., Call[Any]]
    routes: list[tuple[str, str]]
    names: dict[str, str]
    left_out: dict[str, str]

    def wire_name(self, parameter: str) -> str:
        """Return the name of a parameter in the document: `class_` is ``class``."""
        return self.names.get(parameter, parameter.rstrip("_"))


# By the name of the function, which is also the name of the clients' method.
DESCRIBED: dict[str, Described] = {}


def route(
    method: str,
    *paths: str,
    names: Mapping[str, str] | None = None,
    left_out: Mapping[str, str] | None = None,
) -> Callable[[Builder], Builder]:
    """Register the function that builds the calls of one or more routes; see `Described`."""

    def register(build: Builder) -> Builder:
        DESCRIBED[build.__name__] = Described(
            build, [(method, path) for path in paths], dict(names or {}), dict(left_out or {})
        )
        return build

    return register


def segment(value: object) -> str:
    """Return text as one segment of a path. Raises ValueError if it is none."""
    if str(value) in ("", ".", ".."):
        raise ValueError(f"expected a name, got {str(value)!r}")
    return quote(str(value), safe="@:")


def fields(**values: Any) -> dict[str, Any]:
    """Return the values that are not None by their names in requests: `class_` as ``class``."""
    return {name.rstrip("_"): value for name, value in values.items() if value is not None}


def query(**values: Any) -> dict[str, str]:
    """Return the values that are not None as query parameters."""
    return {name: str(value) for name, value in fields(**values).items()}


def json_request(
    method: str, path: str, body: Mapping[str, Any], *, repeatable: bool = True
) -> Request:
    """Return a request with a JSON body. Raises TypeError and ValueError for invalid values."""
    return Request(
        method,
        path,
        headers={"content-type": "application/json"},
        content=to_json(body),
        repeatable=repeatable,
    )
