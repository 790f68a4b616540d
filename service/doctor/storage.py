"""Checks the folders that the service reads and writes: access, and space on the disk."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from service.doctor.findings import Finding, error, fine, warning
from service.runtime.files import cache_folder
from service.runtime.formatting import format_size
from service.settings import Settings, address_of

_MIN_FREE = 2**30


def check_storage(settings: Settings) -> Iterator[Finding]:
    """Check the model repository, the jobs, the cache, and temporary files."""
    if address_of(settings.models) is None:
        yield check_space("models folder", settings.models)
    yield check_writable(
        "jobs folder", settings.jobs, "POST /v1/jobs fails: give --jobs a folder that is writable"
    )
    yield check_writable(
        "cache",
        cache_folder(""),
        "plans are measured at every start: set GANYMEDE_CACHE to a folder that is writable",
    )
    yield check_writable(
        "temporary files", Path(tempfile.gettempdir()), "set TMPDIR to a folder that is writable"
    )


def check_space(check: str, folder: Path) -> Finding:
    """Check the free space of the file system that holds `folder`, which may not exist yet."""
    free = shutil.disk_usage(_existing(folder)).free
    text = f"{folder}: {format_size(free)} free"
    if free < _MIN_FREE:
        advice = "make space on the disk, or choose another folder"
        return warning(check, text, advice, path=str(folder), free=free)
    return fine(check, text, path=str(folder), free=free)


def check_writable(check: str, folder: Path, advice: str) -> Finding:
    """Check that files can be written into `folder`, which is created when it is needed."""
    existing = _existing(folder)
    try:
        if existing == folder:
            # Permissions do not tell everything: quotas, and full or read-only file systems.
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"x" * 4096)
                file.flush()
        elif not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            return error(check, f"{folder} cannot be created", advice, path=str(folder))
    except OSError as problem:
        text = f"{folder} is not writable: {problem.strerror}"
        return error(check, text, advice, path=str(folder))
    return check_space(check, folder)


def _existing(folder: Path) -> Path:
    """Return `folder`, or the nearest folder above it that exists."""
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
