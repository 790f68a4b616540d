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

router = APIRouter(include_in_schema=False)

_PLAYGROUND = Path(playground.__file__).parent
_DOCS = Path(api.__file__).parent / "docs"
_INDEX = "index.html"
# The only script that is not a module: it runs before the page is drawn.
_SCRIPT = Path("core/theme.js")
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
    response = _file_response(_PLAYGROUND / _INDEX, accept_encoding, if_none_match)
    response.headers["link"] = _preload_modules()
    return response


@head_requests.get(router, "/playground/{name:path}", include_in_schema=False)
def playground_file(
    name: str, accept_encoding: _AcceptEncoding = "", if_none_match: _IfNoneMatch = None
) -> Response:
    """Return a script, style sheet or image of the playground."""
    if not name:
        return RedirectResponse("../")
    return _file_response(_find(name, _PLAYGROUND), accept_encoding, if_none_match)


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
def _preload_modules() -> str:
    """Return the `Link` header (RFC 8288) by which browsers request all modules at once.

    Otherwise they find out about a module only after they have read those that import it, over
    several levels.
    """
    modules = sorted(path.relative_to(_PLAYGROUND) for path in _PLAYGROUND.rglob("*.js"))
    return ", ".join(
        f"<playground/{path.as_posix()}>; rel=modulepreload" for path in modules if path != _SCRIPT
    )


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
    stat = path.stat()
    compressed = path.suffix in _COMPRESSED and _accepts_gzip(accept_encoding)
    content, etag = _read(path, compressed, stat.st_mtime_ns, stat.st_size)
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
    return Response(content, 200, headers, _MEDIA_TYPES.get(path.suffix, "text/html"))


@lru_cache(maxsize=256)
def _read(path: Path, compressed: bool, modified_ns: int, size: int) -> tuple[bytes, str]:  # noqa: ARG001
    """Return the content of a file and its ETag.

    The cache keeps files until they change, which `modified_ns` and `size` show.
    """
    content = path.read_bytes()
    if compressed:
        content = gzip.compress(content, mtime=0)
    return content, f'"{hashlib.sha256(content).hexdigest()[:32]}"'


def _accepts_gzip(accept_encoding: str) -> bool:
    """True if gzip is named without a quality; a client that names one gets the file as it is."""
    return "gzip" in {coding.strip().lower() for coding in accept_encoding.split(",")}
