"""`GET /` and `/docs`: the playground and the API documentation, from files of this installation.

The pages fetch nothing from other hosts, and their Content-Security-Policy does not allow it. Both
are static: what they show comes from the API.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException

from service import api, playground
from service.api.responses import is_not_modified
from service.api.routes import head_requests
from service.playground.bundling import bundle_modules, bundle_styles

router = APIRouter(include_in_schema=False)

_PLAYGROUND = Path(playground.__file__).parent
_DOCS = Path(api.__file__).parent / "docs"
_INDEX = "index.html"
# The order matters: later rules override earlier ones.
_STYLES = ("tokens", "shell", "images", "tools", "image_tools", "latent")
# The only script that is not a module: it runs before the page is drawn.
_SCRIPT = "core/theme.js"
_SCRIPTS_BUNDLE, _STYLES_BUNDLE = _BUNDLES = ("bundle.js", "bundle.css")
# What the page consists of, besides the bundles.
_PLAYGROUND_FILES = ("icon.svg", _SCRIPT)
# Besides these, the folders contain Python modules and notes for developers, which are not served.
_MEDIA_TYPES = {
    ".css": "text/css",
    ".js": "text/javascript",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
}
# A relative path without `.`, `..` and hidden files.
_NAME = re.compile(r"(?:[A-Za-z0-9_-]+/)*[A-Za-z0-9_-]+(?P<suffix>\.[a-z]+)")
_COMPRESSED = (".css", ".html", ".js", ".json", ".svg")

_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' blob: data:",
    "media-src": "'self' blob:",
    "font-src": "'self'",
    "connect-src": "'self'",
    "object-src": "'none'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
SECURITY_HEADERS: Mapping[str, str] = {
    "content-security-policy": "; ".join(f"{name} {value}" for name, value in _POLICY.items()),
    "x-content-type-options": "nosniff",
    # Not no-referrer: browsers would send `Origin: null` with some requests to this server.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}

_AcceptEncoding = Annotated[str, Header()]
_IfNoneMatch = Annotated[str | None, Header()]


# The handlers are synchronous, so that they run in a thread: they read and compress files.
@head_requests.get(router, "/", include_in_schema=False)
def playground_page(
    accept_encoding: _AcceptEncoding = "", if_none_match: _IfNoneMatch = None
) -> Response:
    """Return the page of the playground."""
    return _file_response(_PLAYGROUND / _INDEX, accept_encoding, if_none_match)


@head_requests.get(router, "/playground/{name:path}", include_in_schema=False)
def playground_file(
    name: str, accept_encoding: _AcceptEncoding = "", if_none_match: _IfNoneMatch = None
) -> Response:
    """Return the script, the style sheet or the icon of the playground."""
    if not name:
        return RedirectResponse("../")
    if name in _BUNDLES:
        return _bundle_response(name, accept_encoding, if_none_match)
    if name not in _PLAYGROUND_FILES:
        raise HTTPException(404)
    return _file_response(_PLAYGROUND / name, accept_encoding, if_none_match)


@head_requests.get(router, "/docs", include_in_schema=False)
def docs_page(
    accept_encoding: _AcceptEncoding = "", if_none_match: _IfNoneMatch = None
) -> Response:
    """Return the page of the API documentation, which shows `/openapi.json`."""
    return _file_response(_DOCS / _INDEX, accept_encoding, if_none_match)


@head_requests.get(router, "/docs/{name:path}", include_in_schema=False)
def docs_file(
    name: str, accept_encoding: _AcceptEncoding = "", if_none_match: _IfNoneMatch = None
) -> Response:
    """Return a file of the API documentation; Swagger UI comes from a package."""
    if not name:
        return RedirectResponse("../docs")
    return _file_response(_find(name, _DOCS, _swagger_ui()), accept_encoding, if_none_match)


@head_requests.get(router, "/redoc", include_in_schema=False)
def redoc() -> Response:
    """Redirect to the API documentation, which had a second presentation at this path."""
    return RedirectResponse("docs")


@lru_cache
def _swagger_ui() -> Path:
    """Return the folder with the scripts and styles of Swagger UI."""
    return Path(str(resources.files("fastapi_swagger") / "resources"))


def _find(name: str, *folders: Path) -> Path:
    """Return the file `name` of the first of `folders` that has it. Raises HTTPException (404)."""
    match = _NAME.fullmatch(name)
    if match is not None and match["suffix"] in _MEDIA_TYPES:
        for folder in folders:
            if (folder / name).is_file():
                return folder / name
    raise HTTPException(404)


def _file_response(path: Path, accept_encoding: str, if_none_match: str | None) -> Response:
    """Return a file, or 304 if the client has it."""
    compressed = path.suffix in _COMPRESSED and _accepts_gzip(accept_encoding)
    content, etag = _read(path, compressed, _state((path,)))
    return _response(path.suffix, content, etag, compressed, if_none_match)


def _bundle_response(name: str, accept_encoding: str, if_none_match: str | None) -> Response:
    """Return a bundle of the files in the playground, or 304 if the client has it."""
    files, compressed = _bundle_files(name), _accepts_gzip(accept_encoding)
    content, etag = _combine(name, files, compressed, _state(files))
    return _response(Path(name).suffix, content, etag, compressed, if_none_match)


def _response(
    suffix: str, content: bytes, etag: str, compressed: bool, if_none_match: str | None
) -> Response:
    headers = {
        **SECURITY_HEADERS,
        "etag": etag,
        # The addresses stay the same in the next version, so browsers have to ask.
        "cache-control": "no-cache",
        "vary": "Accept-Encoding",
    }
    if is_not_modified(etag, if_none_match):
        return Response(status_code=304, headers=headers)
    if compressed:
        headers["content-encoding"] = "gzip"
    return Response(content, 200, headers, _MEDIA_TYPES.get(suffix, "text/html"))


def _state(files: tuple[Path, ...]) -> tuple[tuple[int, int], ...]:
    """Return what shows whether `files` have changed: their modification times and sizes."""
    return tuple((stat.st_mtime_ns, stat.st_size) for stat in (path.stat() for path in files))


# The caches keep content until `state` changes.
@lru_cache(maxsize=256)
def _read(path: Path, compressed: bool, state: tuple[tuple[int, int], ...]) -> tuple[bytes, str]:  # noqa: ARG001
    """Return the content of a file and its ETag."""
    return _encode(path.read_bytes(), compressed)


@lru_cache(maxsize=16)
def _combine(
    name: str,
    files: tuple[Path, ...],
    compressed: bool,
    state: tuple[tuple[int, int], ...],  # noqa: ARG001
) -> tuple[bytes, str]:
    """Return the content of a bundle and its ETag."""
    texts = {path.relative_to(_PLAYGROUND).as_posix(): path.read_text("utf-8") for path in files}
    if name == _SCRIPTS_BUNDLE:
        text = bundle_modules(texts, "main.js")
    else:
        text = bundle_styles(texts.values())
    return _encode(text.encode(), compressed)


def _bundle_files(name: str) -> tuple[Path, ...]:
    """Return the files that a bundle is made of."""
    if name == _STYLES_BUNDLE:
        return tuple(_PLAYGROUND / "styles" / f"{style}.css" for style in _STYLES)
    return tuple(
        sorted(path for path in _PLAYGROUND.rglob("*.js") if path != _PLAYGROUND / _SCRIPT)
    )


def _encode(content: bytes, compressed: bool) -> tuple[bytes, str]:
    if compressed:
        content = gzip.compress(content, mtime=0)
    return content, f'"{hashlib.sha256(content).hexdigest()[:32]}"'


def _accepts_gzip(accept_encoding: str) -> bool:
    """True if gzip is named without a quality; a client that names one gets the file as it is."""
    return "gzip" in {coding.strip().lower() for coding in accept_encoding.split(",")}
