"""Writes files so that nothing is lost: completely or not at all, and never over another file."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path


def write_files(files: Sequence[tuple[Path, bytes]], *, overwrite: bool = False) -> None:
    """Write each file to a temporary name and rename it.

    A file that exists with the same content is left alone. Raises FileExistsError before anything
    is written, if one exists with other content and `overwrite` is false.
    """
    pending = [(path, content) for path, content in files if not _holds(path, content)]
    if not overwrite:
        for path, _ in pending:
            if path.exists():
                raise FileExistsError(f"{path} exists with other content")
    for path, content in pending:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".writing-{secrets.token_hex(8)}")
        try:
            with temporary.open("xb") as file:
                file.write(content)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content
