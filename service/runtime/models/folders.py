"""New model folders: the next version of a name, written completely or not at all."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from service.runtime.errors import UserError
from service.runtime.files import CannotWrite
from service.runtime.models.catalog import model_folders
from service.runtime.models.parts.part import SLUG


class ModelFolderError(UserError):
    """A model folder cannot have this name or version."""

    exit_code: ClassVar[int] = 1


def new_version_folder(models: Path, name: str, version: str | None = None) -> Path:
    """Return the path ``models/name/version`` for a new model. The folder is not created.

    The default version is the next free number. Raises ModelFolderError if the name or the version
    is invalid, or if the folder exists.
    """
    version = version or _next_version(models / name)
    for value in (name, version):
        if not SLUG.fullmatch(value):
            raise ModelFolderError(
                f"{value!r} cannot be used in a URL: use a-z, 0-9, '.', '_' and '-'"
            )
    folder = models / name / version
    if folder.exists():
        raise ModelFolderError(f"{folder} exists already; choose another --version")
    return folder


def versions_of(models: Path, name: str) -> list[Path]:
    """Return the folders of all versions of a model, in order."""
    return [path for path in model_folders(models) if path.parent == models / name]


def _next_version(folder: Path) -> str:
    """Return the next version number of a model: the highest existing one plus 1."""
    versions = [path.name for path in versions_of(folder.parent, folder.name)]
    numbers = [int(version) for version in versions if version.isdigit()]
    return str(max(numbers, default=0) + 1)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Context manager that yields a hidden folder and renames it to `folder` at the end.

    The hidden folder is next to `folder`. It is deleted if the block raises. Raises CannotWrite.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder.parent))
        try:
            yield part
            part.chmod(0o755)
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
            if not any(folder.parent.iterdir()):
                folder.parent.rmdir()
    except OSError as error:
        raise CannotWrite(folder, error) from error


def slug(name: str) -> str:
    """Return a valid model name for the name of a file without its extension."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:64] or "model"
