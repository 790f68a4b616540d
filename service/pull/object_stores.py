"""Files in object stores (S3 and others), through fsspec.

Credentials, regions and endpoints come from the store's own environment variables and files, such
as ``AWS_ACCESS_KEY_ID`` and ``AWS_ENDPOINT_URL``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from service.pull.transfer import DownloadFailed, Interrupted, Stream
from service.runtime.errors import first_line

_CHUNK = 2**20
# Bytes of a request to the store.
_BLOCK = 2**23
_EXTRA = "pip install 'ganymede[remote]'"


class ObjectFile:
    """A file in an object store."""

    def __init__(self, address: str) -> None:
        self._address = address

    def __str__(self) -> str:
        return self._address

    @contextmanager
    def open(self, offset: int, validator: str | None) -> Iterator[Stream]:
        """Open the file. Raises Interrupted and DownloadFailed."""
        store, path = open_store(self._address)
        info = _ask(self._address, lambda: store.info(path))
        if info["type"] != "file":
            raise DownloadFailed(f"{self} is a folder, not a file")
        current = str(_ask(self._address, lambda: store.ukey(path)))
        start = offset if current == validator else 0
        file = _ask(
            self._address,
            lambda: store.open(path, "rb", block_size=_BLOCK, cache_type="readahead"),
        )
        with file:
            file.seek(start)
            yield Stream(start, info["size"], current, _read(file))


def open_store(address: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path in it. Raises DownloadFailed."""
    import fsspec  # noqa: PLC0415 - slow, and only needed for object stores

    try:
        store, path = fsspec.url_to_fs(address)
    except ImportError as error:
        raise DownloadFailed(f"{address}: {first_line(error)}: {_EXTRA}") from error
    except (ValueError, OSError) as error:
        raise DownloadFailed(f"{address}: {first_line(error)}") from error
    return store, str(path)


def list_files(address: str) -> dict[str, int]:
    """Return the files below an address, as paths relative to it with their sizes.

    Raises DownloadFailed.
    """
    store, path = open_store(address)
    root = path.rstrip("/")
    found = _ask(address, lambda: store.find(root, detail=True))
    return {name.removeprefix(root).lstrip("/"): info["size"] for name, info in found.items()}


def _ask(address: str, question: Any) -> Any:
    """Call a function of the store. Raises DownloadFailed in place of the store's errors."""
    try:
        return question()
    except FileNotFoundError as error:
        raise DownloadFailed(f"{address} does not exist") from error
    except PermissionError as error:
        raise DownloadFailed(f"{address}: access is denied: {first_line(error)}") from error
    except Exception as error:
        # Stores raise errors of their own, for example for missing credentials.
        raise DownloadFailed(f"{address} cannot be read: {first_line(error)}") from error


def _read(file: Any) -> Iterator[bytes]:
    while True:
        try:
            chunk = file.read(_CHUNK)
        except Exception as error:
            raise Interrupted(f"the connection failed: {first_line(error)}") from error
        if not chunk:
            return
        yield chunk
